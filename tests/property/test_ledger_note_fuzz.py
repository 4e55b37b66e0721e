"""The note and checkpoint parsers accept one spelling, raise their own error and nothing else."""

from __future__ import annotations

import base64
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from authz_sidecar.ledger.checkpoint import (
    Checkpoint,
    format_checkpoint,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
)
from authz_sidecar.ledger.note import NoteError, Signer, VerifierKey, parse_note
from authz_sidecar.ledger.tree import EMPTY_ROOT
from tests.support.ledger import ORIGIN, SIGNER

NOTE = sign_checkpoint(Checkpoint(ORIGIN, 12345, bytes(range(32))), SIGNER)
characters = st.sampled_from("\n\r\t +—-=/0123456789abzAZ\x00é\ud800 ")


@given(st.integers(0, len(NOTE) - 1), st.integers(0, 2), characters | st.characters())
def test_no_single_edit_of_a_checkpoint_still_opens(place: int, kind: int, character: str) -> None:
    edited = NOTE[:place] + (character if kind else "") + NOTE[place + (kind != 2) :]
    if edited == NOTE:
        return
    try:
        opened = open_checkpoint(edited, [SIGNER.vkey])
    except NoteError:
        return
    raise AssertionError(f"accepted {opened} from an edited note")


@given(st.text(characters | st.characters(), max_size=80) | st.text(max_size=40).map(lambda text: NOTE[:60] + text))
def test_parsers_raise_nothing_but_their_own_error(raw: str) -> None:
    for parse in (parse_note, parse_checkpoint, VerifierKey.parse, Signer.parse):
        with contextlib.suppress(NoteError):
            parse(raw)


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40),
    st.integers(0, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
)
def test_every_checkpoint_parses_back_to_itself(origin: str, size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin, size, root if size else EMPTY_ROOT)
    assert parse_checkpoint(format_checkpoint(checkpoint)) == checkpoint


sizes = st.text("0123456789+-_ \u0664", min_size=1, max_size=20)
roots = st.text("ABCwxyz019+/=", min_size=42, max_size=45) | st.binary(min_size=31, max_size=33).map(
    lambda root: base64.b64encode(root).decode()
)


@given(sizes, roots, st.sampled_from(["\n", "", "\n\n", "\nextension\n"]))
def test_whatever_parses_is_written_back_unchanged(size: str, root: str, end: str) -> None:
    text = f"{ORIGIN}\n{size}\n{root}{end}"
    try:
        checkpoint = parse_checkpoint(text)
    except NoteError:
        return
    assert format_checkpoint(checkpoint) == text
