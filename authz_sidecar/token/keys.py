"""Signing keys and the ring they form. A key is first `next` (published), then `active` (signs), then `retiring`.

A key is published before it signs and stays published until the last token it signed has expired, so that verifiers
that cache keys never meet one they do not know. The ring holds one private key, the active one; the others are public.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from authz_sidecar.errors import OperatorError
from authz_sidecar.files import create_exclusive
from authz_sidecar.verifier import JwkSet, TokenRejected, VerificationKey
from authz_sidecar.verifier.jws import P256_ORDER, SCALAR_BYTES, check_signature

_MAX_PEM_BYTES = 16384
_ES256 = ec.ECDSA(hashes.SHA256())


class KeyState(StrEnum):
    NEXT = "next"
    ACTIVE = "active"
    RETIRING = "retiring"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """An ES256 private key on P-256.

    Attributes:
        public: its public half; `kid` is the RFC 7638 thumbprint.
        not_after: nothing signed by the key is valid beyond this time; None for a key without a planned end.
    """

    public: VerificationKey
    not_after: datetime | None
    _private: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)

    @property
    def kid(self) -> str:
        return self.public.kid

    @classmethod
    def generate(cls, *, not_after: datetime | None = None) -> SigningKey:
        """A new key from the operating system's randomness."""
        return cls._of(ec.generate_private_key(ec.SECP256R1()), not_after)

    @classmethod
    def load(cls, path: Path, *, not_after: datetime | None = None) -> SigningKey:
        """Read an unencrypted PKCS#8 or SEC 1 PEM file.

        Raises OperatorError naming the file and the remedy: unreadable, readable by group or others, not one private
        key in PEM, encrypted, or not on P-256. NOT checked: who owns the file, and who may write to its directory.
        """
        try:
            with path.open("rb") as file:
                # Of the open file, not of the name: the name could point elsewhere by the time it is read.
                mode = stat.S_IMODE(file_mode := os.fstat(file.fileno()).st_mode)
                if not stat.S_ISREG(file_mode):
                    raise OperatorError(f"signing key `{path}`: not a regular file; give the path of a PEM file")
                if mode & 0o077:
                    raise OperatorError(
                        f"signing key `{path}`: mode {mode:04o} lets others than its owner in; run `chmod 600 {path}`"
                    )
                raw = file.read(_MAX_PEM_BYTES)
        except OSError as error:
            raise OperatorError(
                f"signing key `{path}`: {error.strerror}; create one with `authz-sidecar init`, or correct the path"
            ) from None
        try:
            private = serialization.load_pem_private_key(raw, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # The library's own message is left out: it can quote from the file.
            raise OperatorError(f"signing key `{path}`: expected one unencrypted private key in PEM form") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
            raise OperatorError(
                f"signing key `{path}`: expected an EC key on P-256; create one with `authz-sidecar init`"
            )
        return cls._of(private, not_after)

    def save(self, path: Path) -> None:
        """Write the key as PKCS#8 PEM, mode 0600. Raises FileExistsError: a key is never overwritten."""
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        create_exclusive(path, pem)

    def sign(self, message: bytes) -> bytes:
        """ES256 signature (RFC 7518 section 3.4): r and s, 32 bytes each, s in its low form.

        OpenSSL derives the nonce from the key, the message and fresh randomness together. A weak random generator does
        not give the key away, and neither does a computation fault when the same message is signed again on a recall,
        as it could with the deterministic nonces of RFC 6979.
        """
        r, s = utils.decode_dss_signature(self._private.sign(message, _ES256))
        # (r, n-s) verifies as well as (r, s). Verifiers of this project accept the low one only.
        s = min(s, P256_ORDER - s)
        return r.to_bytes(SCALAR_BYTES, "big") + s.to_bytes(SCALAR_BYTES, "big")

    @classmethod
    def _of(cls, private: ec.EllipticCurvePrivateKey, not_after: datetime | None) -> SigningKey:
        key = cls(public=VerificationKey.of(private.public_key()), not_after=not_after, _private=private)
        _prove(key)
        return key


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A key that is published but does not sign."""

    key: VerificationKey
    state: KeyState


class KeyRing:
    """The active key and what is published beside it. Immutable; a rotation makes a new ring."""

    def __init__(self, active: SigningKey, others: Iterable[PublishedKey] = ()) -> None:
        """Raises OperatorError when a key stands twice, or when another key claims to be active."""
        self.active = active
        self.others = tuple(others)
        kids = [active.kid, *(other.key.kid for other in self.others)]
        if len(set(kids)) != len(kids):
            raise OperatorError("key ring: a key stands twice; a published key must not be the active one")
        if any(other.state is KeyState.ACTIVE for other in self.others):
            raise OperatorError("key ring: exactly one key is active, the signing key")
        self.public_keys = JwkSet.of((active.public, *(other.key for other in self.others)))

    def signing_key(self, kid: str) -> SigningKey | None:
        """The private key of that name, None when it is not held (any more)."""
        return self.active if kid == self.active.kid else None

    def jwks(self, *, without: Container[str] = ()) -> bytes:
        """The RFC 7517 document for `/.well-known/jwks.json` and GetJwks: the active key first, then by `kid`.

        `without`: revoked keys, by `kid`; verifiers that only read keys forget them within the life of their cache.
        """
        others = sorted((other.key for other in self.others), key=lambda key: key.kid)
        keys = [key.to_jwk() for key in (self.active.public, *others) if key.kid not in without]
        return json.dumps({"keys": keys}, separators=(",", ":")).encode("ascii")


def load_key_ring(signing_key: Path, published: Path | None = None, *, not_after: datetime | None = None) -> KeyRing:
    """The ring from files: the active key, and the directory of keys published beside it.

    The active key's public half may stand in the directory, as it does right after a `next` key became the active one.
    Raises OperatorError, see `SigningKey.load` and `load_published`.
    """
    active = SigningKey.load(signing_key, not_after=not_after)
    others = load_published(published) if published is not None else ()
    return KeyRing(active, (other for other in others if other.key.kid != active.kid))


def load_published(directory: Path) -> tuple[PublishedKey, ...]:
    """Public keys to publish beside the active one: files `next-<name>.pem` and `retiring-<name>.pem`.

    Other files must not stand in the directory, except names that start with a dot.

    Raises OperatorError naming the file: unreadable, another name, a private key, or not one P-256 public key in PEM.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
        return tuple(PublishedKey(_load_public(path), _state_of(path)) for path in paths)
    except OSError as error:
        raise OperatorError(f"published keys `{error.filename or directory}`: {error.strerror}") from None


def _state_of(path: Path) -> KeyState:
    for state in (KeyState.NEXT, KeyState.RETIRING):
        if path.name.startswith(f"{state.value}-") and path.suffix == ".pem":
            return state
    raise OperatorError(f"published key `{path}`: expected a name like `next-<name>.pem` or `retiring-<name>.pem`")


def _load_public(path: Path) -> VerificationKey:
    raw = path.read_bytes()[:_MAX_PEM_BYTES]
    if b"PRIVATE KEY" in raw:
        raise OperatorError(
            f"published key `{path}`: holds a private key; keep only the public one here, and replace the key if others"
            " could read it"
        )
    try:
        key = serialization.load_pem_public_key(raw)
        if isinstance(key, ec.EllipticCurvePublicKey):
            return VerificationKey.of(key)
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise OperatorError(f"published key `{path}`: expected one P-256 public key in PEM form")


def _prove(key: SigningKey) -> None:
    """Sign and verify once, so that a private key that does not fit its public half is found before it is used."""
    message = b"authz-sidecar: the signing key fits the published key"
    try:
        check_signature(message, key.sign(message), key.public)
    except TokenRejected:
        raise OperatorError("signing key: its signature does not verify with its own public key") from None
