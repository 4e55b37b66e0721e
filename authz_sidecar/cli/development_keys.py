"""The keys that a sidecar signs with: made by `init`, and looked at again by its next run."""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from authz_sidecar.cli.failure import Unsafe
from authz_sidecar.errors import OperatorError
from authz_sidecar.files import create_exclusive
from authz_sidecar.ledger.note import MalformedKey, Signer, VerifierKey
from authz_sidecar.token.keys import SigningKey


def require_private(path: Path) -> None:
    """Raises Unsafe when group or others have any right to a key file, and OSError when it is not there."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise Unsafe(f"`{path}` has mode {mode:04o}, so others can use the key; chmod 600 it, or make a new one")


def token_key_conflict(path: Path) -> str | None:
    """What is wrong with an existing token signing key; None when nothing is. Raises Unsafe for its mode."""
    require_private(path)
    try:
        SigningKey.load(path)
    except OperatorError:
        return "is not a P-256 private key"
    return None


def create_token_key(path: Path) -> None:
    """A new P-256 key. Raises FileExistsError."""
    SigningKey.generate().save(path)


class CheckpointKey:
    """The Ed25519 key of a log: the one in the file, or a new one when the file holds none yet."""

    def __init__(self, path: Path, origin: str) -> None:
        """`origin` names the log, and with it the verifier key."""
        self._path = path
        self._existing = _load(path)
        self._key = self._existing or Ed25519PrivateKey.generate()
        self._verifier = Signer(origin, self._key.private_bytes_raw()).key

    def conflict(self) -> str | None:
        """What is wrong with the existing key file. Raises Unsafe for its mode."""
        require_private(self._path)
        return None if self._existing is not None else "is not an Ed25519 private key"

    def create(self) -> None:
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        create_exclusive(self._path, pem)

    def verifier_conflict(self, vkey: Path) -> str | None:
        """What is wrong with an existing verifier key file. Another origin is the operator's choice."""
        try:
            found = VerifierKey.parse(vkey.read_text("ascii").removesuffix("\n"))
        except (OSError, UnicodeDecodeError, MalformedKey):
            return "is not a verifier key"
        return None if found.public == self._verifier.public else f"does not belong to `{self._path}`"

    def create_verifier(self, vkey: Path) -> None:
        create_exclusive(vkey, f"{self._verifier}\n".encode(), public=True)


def _load(path: Path) -> Ed25519PrivateKey | None:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return None
    return key if isinstance(key, Ed25519PrivateKey) else None
