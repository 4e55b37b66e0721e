"""Signed notes: a text with signatures that name their keys. C2SP `signed-note`, Ed25519 only.

    <text, ends in a newline>
    <empty line>
    — <key name> <base64(key id || signature)>

The parser is stricter than the specification asks: base64 must be canonical, so that one note has one spelling.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 64
SEED_BYTES = 32

_ED25519 = b"\x01"
_KEY_ID_BYTES = 4
_SIGNATURE_PREFIX = "— "
_SIGNATURE_LINE = re.compile(r"— (\S+) ([A-Za-z0-9+/=]+)")
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_SKEY_PREFIX = "PRIVATE+KEY+"


class NoteError(ValueError):
    """The note, or a key for it, cannot be relied on."""


class MalformedNote(NoteError):
    """The text is not a signed note."""


class MalformedKey(NoteError):
    """The text is not a verifier key or signer key. The message never holds the text of a signer key."""


class UnverifiedNote(NoteError):
    """No signature by a known key, or one that does not verify."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line, not verified."""

    name: str
    key_id: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note, not verified. `text` ends in a newline."""

    text: str
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name. `str()` of it is the vkey that auditors pin."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        return _key_id(self.name, self.public)

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_encode(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, vkey: str) -> VerifierKey:
        """Parse `<name>+<8 hex digits>+<base64(type || public key)>`. Raises MalformedKey."""
        name, public = _parse_key(vkey)
        if len(public) != 32:
            raise MalformedKey(f"verifier key of `{name[:64]}`: expected 32 bytes of public key, got {len(public)}")
        key = cls(name, public)
        if vkey != str(key):
            raise MalformedKey(f"verifier key of `{name[:64]}`: the key id does not belong to this name and key")
        return key

    def verify(self, text: str, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


class Signer:
    """A private key with its name."""

    def __init__(self, name: str, seed: bytes) -> None:
        """
        Args:
            name: key name; for a log's key, the log's origin.
            seed: 32 bytes of secret randomness (RFC 8032 private key).
        """
        _check_name(name)
        if len(seed) != SEED_BYTES:
            raise MalformedKey(f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}")
        self._seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.key = VerifierKey(name, self._private.public_key().public_bytes_raw())

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def vkey(self) -> str:
        """The verifier key to pin."""
        return str(self.key)

    def skey(self) -> str:
        """The secret, in the spelling of Go's `sumdb/note`. Goes into a private file and nowhere else."""
        return f"{_SKEY_PREFIX}{self.name}+{self.key.key_id.hex()}+{_encode(_ED25519 + self._seed)}"

    @classmethod
    def parse(cls, skey: str) -> Signer:
        """Inverse of `skey`. Raises MalformedKey, whose message holds no part of the secret."""
        if not skey.startswith(_SKEY_PREFIX):
            raise MalformedKey(f"expected a signer key that starts with `{_SKEY_PREFIX}`")
        name, seed = _parse_key(skey.removeprefix(_SKEY_PREFIX))
        signer = cls(name, seed)
        if signer.skey() != skey:
            raise MalformedKey("the key id of the signer key does not belong to its name and key")
        return signer

    def sign(self, text: str) -> str:
        """The note for `text`, which must be a valid note text. Raises MalformedNote."""
        _check_text(text)
        blob = self.key.key_id + self._private.sign(text.encode())
        return f"{text}\n{_SIGNATURE_PREFIX}{self.name} {_encode(blob)}\n"


def parse_note(raw: str) -> Note:
    """Split a note into text and signatures. Verifies nothing. Raises MalformedNote."""
    if len(raw) > MAX_NOTE_BYTES or len(_utf8(raw)) > MAX_NOTE_BYTES:
        raise MalformedNote(f"the note is longer than {MAX_NOTE_BYTES} bytes")
    head, separator, tail = raw.rpartition("\n\n")
    text = head + "\n"
    if not separator or not tail.endswith("\n"):
        raise MalformedNote("expected a text, an empty line and signature lines, each line ended by a newline")
    _check_text(text)
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise MalformedNote(f"more than {MAX_SIGNATURES} signatures")
    return Note(text, tuple(_parse_signature(line) for line in lines))


def open_note(raw: str, keys: Iterable[VerifierKey]) -> tuple[str, tuple[VerifierKey, ...]]:
    """Parse and verify.

    Signatures by unknown keys are ignored. A known key's signature that fails rejects the note, whatever else it has.

    Returns:
        The text, and the keys that signed it (at least one).

    Raises:
        MalformedNote: not a note.
        UnverifiedNote: a known key's signature fails, or there is none by a known key.
    """
    note = parse_note(raw)
    known = {(key.name, key.key_id): key for key in keys}
    signers: list[VerifierKey] = []
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is None or key in signers:
            continue
        if not key.verify(note.text, signature.value):
            raise UnverifiedNote(f"the signature by `{key.name}` ({key.key_id.hex()}) does not verify")
        signers.append(key)
    if not signers:
        # An empty list of keys ends here too: nothing verified is not success.
        raise UnverifiedNote("no signature by a known key")
    return note.text, tuple(signers)


def _parse_signature(line: str) -> Signature:
    match = _SIGNATURE_LINE.fullmatch(line)
    if match is None:
        raise MalformedNote("expected a signature line: `— <key name> <base64>`")
    name, encoded = match[1], match[2]
    if not _is_name(name):
        raise MalformedNote(f"`{name[:64]}` is not a key name: it must not be empty or contain spaces or `+`")
    blob = _decode(encoded)
    if blob is None or len(blob) <= _KEY_ID_BYTES:
        raise MalformedNote(f"the signature by `{name[:64]}` is not canonical base64 of a key id and a signature")
    return Signature(name, blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:])


def _parse_key(text: str) -> tuple[str, bytes]:
    """`<name>+<key id>+<base64>`; base64 may contain `+`, a name may not. Messages hold only the name."""
    if len(text) > 4096 or text.count("+") < 2:
        raise MalformedKey("expected `<name>+<key id>+<base64 key>`")
    name, key_id, encoded = text.split("+", 2)
    _check_name(name)
    blob = _decode(encoded)
    if not _KEY_ID.fullmatch(key_id) or blob is None:
        raise MalformedKey(f"key of `{name[:64]}`: expected 8 lower-case hex digits, `+` and canonical base64")
    if blob[:1] != _ED25519:
        raise MalformedKey(f"key of `{name[:64]}`: expected an Ed25519 key (type 1)")
    return name, blob[1:]


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise MalformedKey(f"`{name[:64]}` is not a key name: it must not be empty or contain spaces or `+`")


def _is_name(name: str) -> bool:
    if not name or "+" in name or any(char.isspace() or ord(char) < 0x20 for char in name):
        return False
    return _is_unicode(name)


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise MalformedNote("the text must end in a newline")
    if any(ord(char) < 0x20 and char != "\n" for char in text):
        raise MalformedNote("the text contains a control character")
    _utf8(text)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedNote("the text contains a lone surrogate") from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _key_id(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:_KEY_ID_BYTES]


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _decode(encoded: str) -> bytes | None:
    """Canonical base64 only: Python's decoder tolerates trailing bits, so decode, encode again, compare."""
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return None
    return raw if _encode(raw) == encoded else None
