"""Checkpoints: what a log commits to. C2SP `tlog-checkpoint`, three lines in a signed note.

    <origin>
    <size, decimal>
    <base64 of the root hash>

Extension lines, which the specification allows and discourages, are refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

from authz_sidecar.ledger.note import MalformedNote, NoteError, Signer, UnverifiedNote, VerifierKey, open_note
from authz_sidecar.ledger.tree import EMPTY_ROOT, HASH_BYTES

_MAX_SIZE_DIGITS = 19
_MAX_SIZE = 2**63 - 1


class MalformedCheckpoint(NoteError):
    """The note's text is not a checkpoint."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's size and root hash at one moment."""

    origin: str
    size: int
    root: bytes


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """The note text."""
    return f"{checkpoint.origin}\n{checkpoint.size}\n{base64.b64encode(checkpoint.root).decode('ascii')}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Inverse of `format_checkpoint`: parse, format again, compare. Raises MalformedCheckpoint."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise MalformedCheckpoint("expected exactly three lines: origin, size and root hash")
    origin, size_text, root_text, _ = lines
    if not origin:
        raise MalformedCheckpoint("the origin is empty")
    size = _parse_size(size_text)
    checkpoint = Checkpoint(origin, size, _parse_root(root_text))
    if format_checkpoint(checkpoint) != text:
        raise MalformedCheckpoint("the size or the root hash is not in its canonical spelling")
    if size == 0 and checkpoint.root != EMPTY_ROOT:
        raise MalformedCheckpoint("a log of size 0 has the root hash of the empty tree (RFC 6962 section 2.1)")
    return checkpoint


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> str:
    """The signed note. The signer's key name must be the origin (C2SP tlog-checkpoint). Raises MalformedNote."""
    if signer.name != checkpoint.origin:
        raise MalformedNote(f"the key `{signer.name}` cannot sign for the log `{checkpoint.origin}`")
    return signer.sign(format_checkpoint(checkpoint))


def open_checkpoint(note: str, vkeys: Iterable[str]) -> Checkpoint:
    """Verify and parse a checkpoint.

    Args:
        note: the signed note.
        vkeys: the verifier keys that are trusted. They must come from outside the log.

    Raises:
        MalformedKey: a vkey is not one.
        MalformedNote, MalformedCheckpoint: not a checkpoint.
        UnverifiedNote: not signed by a trusted key whose name is the origin.
    """
    text, signers = open_note(note, [VerifierKey.parse(vkey) for vkey in vkeys])
    checkpoint = parse_checkpoint(text)
    if not any(key.name == checkpoint.origin for key in signers):
        raise UnverifiedNote(f"the log `{checkpoint.origin[:64]}` is not signed by a trusted key of that name")
    return checkpoint


def _parse_size(text: str) -> int:
    # int() also takes `+1`, `1_0` and other scripts' digits, and refuses thousands of digits with a bare ValueError.
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_SIZE_DIGITS or int(text) > _MAX_SIZE:
        raise MalformedCheckpoint("expected the size as a decimal number below 2^63")
    return int(text)


def _parse_root(text: str) -> bytes:
    if len(text) != 44 or not text.isascii():
        raise MalformedCheckpoint(f"expected the base64 of {HASH_BYTES} bytes of root hash")
    try:
        root = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise MalformedCheckpoint("the root hash is not base64") from None
    if len(root) != HASH_BYTES:
        raise MalformedCheckpoint(f"expected {HASH_BYTES} bytes of root hash, got {len(root)}")
    return root
