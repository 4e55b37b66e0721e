"""Keys from a file: the simplest source where tool server and sidecar share a volume or a mounted ConfigMap."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from authz_sidecar.verifier.keys import MAX_JWKS_BYTES, JwkSet, KeysUnavailable, MalformedJwks, VerificationKey

_Signature: TypeAlias = tuple[int, int, int, int, int]


class JwksFile:
    """A JWK Set in a file, read again as soon as the file changes. A `KeySource`.

    While the file is missing or damaged the last good keys go on counting for `max_age` seconds, so that a careless
    replacement is no outage; after that nothing is accepted, so that a withdrawn key does not live on.

    The file may be absent when this is created. Costs one stat(2) per token.
    """

    def __init__(self, path: Path, *, max_age: float = 300.0, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`max_age`: seconds for which the last good keys survive an unreadable file."""
        self._path = path
        self._max_age = max_age
        self._monotonic = monotonic
        self._lock = Lock()
        self._keys: JwkSet | None = None
        self._good: _Signature | None = None
        self._good_at = 0.0
        self._bad: _Signature | None = None
        self.last_error: str | None = None
        """Why the file as it is now cannot be used; None when it is in use."""

    def find(self, kid: str) -> VerificationKey | None:
        """See `KeySource`. Raises KeysUnavailable."""
        return self._current().find(kid)

    def _current(self) -> JwkSet:
        with self._lock:
            signature = self._stat()
            if signature is not None:
                if signature == self._good:
                    self._good_at, self.last_error = self._monotonic(), None
                elif signature != self._bad:
                    self._read()
            if self._keys is None or self._monotonic() - self._good_at > self._max_age:
                raise KeysUnavailable(f"jwks file `{self._path}`: {self.last_error}")
            return self._keys

    def _stat(self) -> _Signature | None:
        try:
            return _signature(self._path.stat())
        except OSError as error:
            self.last_error = f"cannot be read: {error.strerror}"
            return None

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                # Of the open file, so that the signature belongs to these bytes even if the name moves on meanwhile.
                signature = _signature(os.fstat(file.fileno()))
                raw = file.read(MAX_JWKS_BYTES + 1)
        except OSError as error:
            self.last_error = f"cannot be read: {error.strerror}"
            return
        try:
            keys = JwkSet.parse(raw)
        except MalformedJwks as error:
            self._bad, self.last_error = signature, str(error)
            return
        self._keys, self._good, self._bad, self.last_error = keys, signature, None, None
        self._good_at = self._monotonic()


def _signature(status: os.stat_result) -> _Signature:
    """Changes whenever the content may have changed; the inode notices a file that was replaced by name."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
