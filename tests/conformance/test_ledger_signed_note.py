"""Signed notes and checkpoints against the example of another implementation and the rules of the specifications."""

from __future__ import annotations

import base64

import pytest

from authz_sidecar.ledger.checkpoint import (
    Checkpoint,
    MalformedCheckpoint,
    format_checkpoint,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
)
from authz_sidecar.ledger.note import (
    MalformedKey,
    MalformedNote,
    Signer,
    UnverifiedNote,
    VerifierKey,
    open_note,
    parse_note,
)
from authz_sidecar.ledger.tree import EMPTY_ROOT

# The example in the documentation of Go's golang.org/x/mod/sumdb/note.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = (
    f"{GO_TEXT}\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
GO_OTHER_VKEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"

SIGNER = Signer("authz.example/log", bytes(range(32)))
OTHER = Signer("authz.example/other", bytes(range(1, 33)))
ROOT = bytes(range(32))


def test_a_note_signed_elsewhere_opens_and_is_signed_here_to_the_same_bytes() -> None:
    text, signers = open_note(GO_NOTE, [VerifierKey.parse(GO_OTHER_VKEY), VerifierKey.parse(GO_VKEY)])
    assert (text, [str(key) for key in signers]) == (GO_TEXT, [GO_VKEY])
    signer = Signer.parse(GO_SKEY)
    assert (signer.vkey, signer.skey(), signer.sign(GO_TEXT)) == (GO_VKEY, GO_SKEY, GO_NOTE)


@pytest.mark.parametrize("place", range(len(GO_VKEY)))
def test_no_character_of_a_verifier_key_can_change(place: int) -> None:
    mangled = GO_VKEY[:place] + chr(ord(GO_VKEY[place]) + 1) + GO_VKEY[place + 1 :]
    with pytest.raises(MalformedKey):
        VerifierKey.parse(mangled)
    with pytest.raises(MalformedKey):
        VerifierKey.parse(GO_VKEY[:place])


@pytest.mark.parametrize(
    "vkey",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "",
    ],
)
def test_keys_of_another_type_length_or_spelling_are_refused(vkey: str) -> None:
    with pytest.raises(MalformedKey):
        VerifierKey.parse(vkey)


def test_a_signer_key_with_a_foreign_key_id_is_refused_without_showing_it() -> None:
    mangled = GO_SKEY.replace("c74f20a3", "c74f20a4")
    with pytest.raises(MalformedKey) as caught:
        Signer.parse(mangled)
    assert "AYEKFALV" not in str(caught.value)


def signature_line(signer: Signer, text: str) -> str:
    return signer.sign(text).removeprefix(text + "\n")


def test_unknown_signatures_are_ignored_in_any_order() -> None:
    own, foreign = signature_line(SIGNER, "text\n"), signature_line(OTHER, "text\n")
    for lines in (own + foreign, foreign + own, own + own):
        _, signers = open_note("text\n\n" + lines, [SIGNER.key])
        assert signers == (SIGNER.key,)


def test_a_failing_signature_of_a_known_key_rejects_the_note_whatever_else_it_carries() -> None:
    wrong = signature_line(SIGNER, "other text\n")
    right = signature_line(OTHER, "text\n")
    for lines in (wrong + right, right + wrong):
        with pytest.raises(UnverifiedNote):
            open_note("text\n\n" + lines, [SIGNER.key, OTHER.key])


def test_a_note_without_a_known_key_is_not_verified() -> None:
    note = SIGNER.sign("text\n")
    for keys in ([], [OTHER.key], [VerifierKey("another name", SIGNER.key.public)]):
        with pytest.raises(UnverifiedNote):
            open_note(note, keys)


LINE = signature_line(SIGNER, "text\n")


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\n\n",
        f"text\n{LINE}",
        f"text\n\n{LINE}".rstrip("\n"),
        f"text\n\n{LINE}\n",
        f"\x00text\n\n{LINE}",
        f"te\rxt\n\n{LINE}",
        f"te\txt\n\n{LINE}",
        f"\ud800\n\n{LINE}",
        "text\n\n" + LINE.replace("— ", "- "),
        "text\n\n" + LINE.replace("— ", "—"),
        "text\n\n" + LINE.replace("authz.example/log", "authz+example"),
        "text\n\n" + LINE.replace("authz.example/log", "authz example"),
        "text\n\n" + LINE.replace("authz.example/log", ""),
        "text\n\n— authz.example/log AAAA\n",
        "text\n\n— authz.example/log AAAAAA==\n",
        "text\n\n— authz.example/log AAAAAAB=\n",
        "text\n\n— authz.example/log AAAA AAAA\n",
        "text\n\n" + LINE * 65,
        "x" * 70_000 + f"\n\n{LINE}",
    ],
)
def test_what_is_not_a_note_is_refused(raw: str) -> None:
    with pytest.raises(MalformedNote):
        parse_note(raw)


def test_a_text_with_empty_lines_ends_at_the_last_one() -> None:
    text = "one\n\ntwo\n"
    assert open_note(SIGNER.sign(text), [SIGNER.key])[0] == text


def test_a_checkpoint_survives_signing_and_opening() -> None:
    checkpoint = Checkpoint("authz.example/log", 17, ROOT)
    note = sign_checkpoint(checkpoint, SIGNER)
    assert note.startswith(f"authz.example/log\n17\n{base64.b64encode(ROOT).decode()}\n\n— authz.example/log ")
    assert open_checkpoint(note, [OTHER.vkey, SIGNER.vkey]) == checkpoint


def test_the_origin_must_be_the_name_of_a_key_that_signed() -> None:
    with pytest.raises(MalformedNote):
        sign_checkpoint(Checkpoint("authz.example/log", 17, ROOT), OTHER)
    foreign = OTHER.sign(format_checkpoint(Checkpoint("authz.example/log", 17, ROOT)))
    with pytest.raises(UnverifiedNote, match="not signed by a trusted key of that name"):
        open_checkpoint(foreign, [OTHER.vkey])


ENCODED = base64.b64encode(ROOT).decode()


@pytest.mark.parametrize(
    "size", ["", "-1", "+1", "01", "00", " 1", "1 ", "1_0", "1.0", "0x1", "٤٢", "9223372036854775808", "9" * 5000]
)
def test_a_size_has_one_spelling(size: str) -> None:
    with pytest.raises(MalformedCheckpoint):
        parse_checkpoint(f"origin\n{size}\n{ENCODED}\n")


@pytest.mark.parametrize(
    "body",
    [
        f"\n17\n{ENCODED}\n",
        f"origin\n17\n{ENCODED}",
        f"origin\n17\n{ENCODED}\nextension\n",
        f"origin\n17\n{ENCODED}\n\n",
        "origin\n17\n\n",
        f"origin\n17\n{ENCODED[:-4]}\n",
        f"origin\n17\n{ENCODED[:-1]}\n",
        f"origin\n17\n {ENCODED}\n",
        "origin\n17\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n",
        f"origin\n0\n{ENCODED}\n",
    ],
)
def test_what_is_not_a_checkpoint_is_refused(body: str) -> None:
    with pytest.raises(MalformedCheckpoint):
        parse_checkpoint(body)


def test_the_empty_log_has_the_root_of_the_empty_tree() -> None:
    body = format_checkpoint(Checkpoint("origin", 0, EMPTY_ROOT))
    assert parse_checkpoint(body).size == 0
