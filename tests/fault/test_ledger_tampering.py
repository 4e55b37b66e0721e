"""Whatever is altered in a stored ledger, verification says so and names the first bad entry."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_sidecar.errors import IntegrityFailure, OperatorError
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.projections import STATE_TABLES
from authz_sidecar.ledger.schema import DATABASE
from authz_sidecar.ledger.tree import leaf_hash
from authz_sidecar.ledger.verify import VerifyResult, verify
from tests.support.ledger import ORIGIN, SIGNER, bundle_activated, decision, open_ledger, outcome, task_started

SIZES = (0, 40, 300, 520, 600)


@dataclass(frozen=True)
class Evidence:
    """A closed ledger of 600 entries, its checkpoints of several sizes, and the last one as kept outside."""

    directory: Path
    notes: dict[int, str]

    @property
    def outside(self) -> str:
        return self.notes[600]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    directory = tmp_path_factory.mktemp("evidence")
    return Evidence(directory, asyncio.run(_write(directory)))


async def _write(directory: Path) -> dict[int, str]:
    ledger = open_ledger(directory)
    notes = {0: ledger.latest_checkpoint()}
    for size in SIZES[1:]:
        while ledger.size < size:
            number = ledger.size
            match number % 20:
                case 0:
                    record = task_started(f"task-{number}")
                case 7:
                    record = outcome(f"d-{number - 1}", number - 1)
                case 11:
                    record = bundle_activated(f"sha256:{number}", {"rules": "permit(principal, action, resource);"})
                case _:
                    record = decision(f"d-{number}", task_id=f"task-{number - number % 20}")
            await ledger.append(record)
        notes[size] = await ledger.checkpoint_now()
    await ledger.close()
    return notes


@contextmanager
def altered(evidence: Evidence) -> Iterator[tuple[Path, sqlite3.Connection]]:
    """A private copy and a connection to damage it with."""
    with TemporaryDirectory(prefix="az-") as name:
        copy = Path(name) / "ledger"
        shutil.copytree(evidence.directory, copy)
        connection = sqlite3.connect(copy / DATABASE, isolation_level=None)
        try:
            yield copy, connection
        finally:
            connection.close()


def flip(content: bytes, place: int) -> bytes:
    place %= len(content) * 8
    flipped = bytearray(content)
    flipped[place // 8] ^= 1 << place % 8
    return bytes(flipped)


def check(directory: Path, checkpoint: str | None = None) -> VerifyResult:
    return verify(directory, vkey=SIGNER.vkey, checkpoint=checkpoint)


def test_an_untouched_ledger_verifies_and_says_whether_it_was_anchored(evidence: Evidence) -> None:
    unanchored, anchored = check(evidence.directory), check(evidence.directory, evidence.notes[300])
    assert (unanchored.kind, unanchored.anchored_size) == ("verified_unanchored", None)
    assert (anchored.kind, anchored.anchored_size, anchored.signed_size, anchored.size) == ("verified", 300, 600, 600)


def test_progress_runs_from_start_to_end(evidence: Evidence) -> None:
    seen: list[tuple[int, int]] = []
    verify(evidence.directory, vkey=SIGNER.vkey, progress=lambda done, total: seen.append((done, total)))
    assert [total for _, total in seen] == [600] * len(seen)
    assert seen == sorted(seen)
    assert seen[-1] == (600, 600)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 599), st.sampled_from(["body", "leaf_hash", "payload"]), st.integers(0, 2**20), st.booleans())
def test_one_flipped_bit_names_its_entry(evidence: Evidence, index: int, column: str, bit: int, anchored: bool) -> None:
    with altered(evidence) as (directory, connection):
        if column == "payload":
            row = connection.execute(
                "SELECT p.idx, p.content FROM entry e JOIN payload p ON p.idx = e.payload WHERE e.idx = ?", (index,)
            ).fetchone()
            if row is None:
                return
            # A shared payload belongs to the first entry that brought it.
            index = row[0]
            connection.execute("UPDATE payload SET content = ? WHERE idx = ?", (flip(row[1], bit), index))
        else:
            (content,) = connection.execute(f"SELECT {column} FROM entry WHERE idx = ?", (index,)).fetchone()  # noqa: S608
            connection.execute(f"UPDATE entry SET {column} = ? WHERE idx = ?", (flip(content, bit), index))  # noqa: S608
        result = check(directory, evidence.outside if anchored else None)
    assert (result.kind, result.first_bad_index) == ("tampered", index), result
    assert result.suspect == (index, index)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 2**20))
def test_a_flipped_bit_in_a_stored_checkpoint_names_the_checkpoint(evidence: Evidence, size: int, bit: int) -> None:
    with altered(evidence) as (directory, connection):
        (note,) = connection.execute("SELECT note FROM checkpoint WHERE size = ?", (size,)).fetchone()
        mangled = flip(note.encode(), bit).decode("latin-1")
        connection.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (mangled, size))
        result = check(directory)
    assert (result.kind, result.bad_checkpoint) == ("tampered", size), result


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 599), st.integers(0, 599))
def test_swapped_entries_are_found_at_the_first_of_them(evidence: Evidence, one: int, other: int) -> None:
    first, second = sorted((one, other))
    if first == second:
        return
    with altered(evidence) as (directory, connection):
        _exchange(connection, "entry", first, second)
        result = check(directory)
    # Every row is whole, so only the tree can tell; the record index still names the entries that stood there.
    assert (result.kind, result.first_bad_index) == ("tampered", first), result


def _exchange(connection: sqlite3.Connection, table: str, first: int, second: int) -> None:
    for old, new in ((first, -1), (second, first), (-1, second)):
        connection.execute(f"UPDATE {table} SET idx = ? WHERE idx = ?", (new, old))  # noqa: S608


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 599), st.booleans())
def test_truncation_is_found_through_the_checkpoint_from_outside(evidence: Evidence, newest: int, tidy: bool) -> None:
    kept = 600 - newest
    with altered(evidence) as (directory, connection):
        for table in ("entry", "payload", "record_index"):
            connection.execute(f"DELETE FROM {table} WHERE idx >= ?", (kept,))  # noqa: S608
        connection.execute("DELETE FROM node WHERE (idx + 1) * 256 > ?", (kept,))
        if tidy:
            # An attacker who knows the file also removes the checkpoints beyond the end and the sign of a clean stop.
            connection.execute("DELETE FROM checkpoint WHERE size > ?", (kept,))
            connection.execute("UPDATE log SET clean = 0")
            for table in STATE_TABLES:
                connection.execute(f"DELETE FROM {table}")  # noqa: S608
            _rebuild_state(connection, kept)
        unanchored, anchored = check(directory), check(directory, evidence.outside)
    if tidy:
        assert unanchored.kind == "verified_unanchored", unanchored
        assert (anchored.kind, anchored.suspect) == ("incomplete", (kept, 599)), anchored
    else:
        assert (unanchored.kind, unanchored.first_bad_index) == ("tampered", kept), unanchored
    assert anchored.kind in ("tampered", "incomplete")


def _rebuild_state(connection: sqlite3.Connection, kept: int) -> None:
    import orjson

    from authz_sidecar.ledger.projections import apply_state, derive

    bodies = connection.execute("SELECT body FROM entry ORDER BY idx").fetchall()
    assert len(bodies) == kept
    apply_state(connection, 0, [derive(orjson.loads(body)) for (body,) in bodies])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 599))
def test_a_deleted_entry_is_named(evidence: Evidence, index: int) -> None:
    with altered(evidence) as (directory, connection):
        connection.execute("DELETE FROM entry WHERE idx = ?", (index,))
        result = check(directory)
    assert (result.kind, result.first_bad_index) == ("tampered", index), result


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 599), st.booleans())
def test_a_consistent_rewrite_of_entry_and_hash_is_narrowed_to_its_tile(
    evidence: Evidence, index: int, nodes_too: bool
) -> None:
    with altered(evidence) as (directory, connection):
        (body,) = connection.execute("SELECT body FROM entry WHERE idx = ?", (index,)).fetchone()
        # Same indexed fields, so that no projection gives the entry away.
        forged = body.replace(b'"v":1', b'"v":1,"z":0')
        connection.execute("UPDATE entry SET body = ?, leaf_hash = ? WHERE idx = ?", (forged, leaf_hash(forged), index))
        if nodes_too:
            connection.execute("UPDATE node SET hash = zeroblob(32)")
        result = check(directory)
    begin = max(size for size in SIZES if size <= index)
    end = min(size for size in SIZES if size > index)
    assert result.kind == "tampered"
    if not nodes_too and index < 512:
        begin, end = max(begin, index // 256 * 256), min(end, (index // 256 + 1) * 256)
    assert result.suspect == (begin, end - 1), result


def test_a_log_rewritten_and_signed_again_is_found_only_from_outside(evidence: Evidence) -> None:
    with TemporaryDirectory(prefix="az-") as name:
        directory = Path(name)

        async def rewrite() -> None:
            ledger = open_ledger(directory)
            await asyncio.gather(*(ledger.append(decision(f"forged-{number}")) for number in range(600)))
            await ledger.close()

        asyncio.run(rewrite())
        assert check(directory).kind == "verified_unanchored"
        result = check(directory, evidence.outside)
        assert (result.kind, result.suspect) == ("tampered", (0, 599))
        assert "external" in result.detail


def test_another_key_does_not_verify_and_another_logs_checkpoint_is_not_accepted(evidence: Evidence) -> None:
    stranger = Signer(ORIGIN, bytes(32))
    result = verify(evidence.directory, vkey=stranger.vkey)
    assert result.kind == "tampered"
    assert "not genuine" in result.detail
    for checkpoint in ("", "no checkpoint", evidence.outside.replace("600", "601"), stranger.sign("a\n1\nb\n")):
        with pytest.raises(OperatorError):
            check(evidence.directory, checkpoint)
    with pytest.raises(OperatorError, match="verifier key"):
        verify(evidence.directory, vkey="not a key")


def test_an_erased_payload_is_incomplete_and_nothing_worse(evidence: Evidence) -> None:
    with altered(evidence) as (directory, connection):
        connection.execute("DELETE FROM payload WHERE idx IN (20, 41)")
        result = check(directory, evidence.outside)
    assert (result.kind, result.missing_payloads, result.suspect) == ("incomplete", 2, (20, 41))
    assert result.first_bad_index is None


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("UPDATE record_index SET outcome = 'deny' WHERE idx = 33", 33),
        ("UPDATE record_index SET task_id = NULL WHERE idx = 33", 33),
        ("DELETE FROM record_index WHERE idx = 34", 34),
        ("INSERT INTO record_index (idx, type, time) VALUES (600, 'decision', '')", 600),
        ("UPDATE task SET state = 'completed' WHERE task_id = 'task-40'", 40),
        ("DELETE FROM task WHERE task_id = 'task-60'", 60),
        ("UPDATE session SET calls = calls - 1 WHERE task_id = 'task-40'", 59),
        ("UPDATE session SET max_read = 0 WHERE task_id = 'task-40'", 59),
        ("UPDATE session_tool SET calls = 0 WHERE task_id = 'task-40'", None),
        ("INSERT INTO policy VALUES ('sha256:forged', 3)", None),
        ("INSERT INTO counter VALUES ('revocation_epoch', 1)", None),
        ("UPDATE node SET hash = zeroblob(32) WHERE idx = 0", None),
        ("UPDATE log SET vkey = 'x'", None),
        ("UPDATE entry SET payload = 2 WHERE idx = 7", 7),
        ("UPDATE entry SET payload = 2 WHERE idx = 1", 1),
        ("DELETE FROM checkpoint", None),
        ("UPDATE checkpoint SET size = 41 WHERE size = 40", None),
        ("DELETE FROM checkpoint WHERE size = 600", None),
    ],
)
def test_altered_state_and_bookkeeping_are_found(evidence: Evidence, statement: str, index: int | None) -> None:
    with altered(evidence) as (directory, connection):
        assert connection.execute(statement).rowcount > 0
        result = check(directory)
    assert (result.kind, result.first_bad_index) == ("tampered", index), result


def test_a_damaged_page_is_reported_where_reading_ends(evidence: Evidence) -> None:
    with altered(evidence) as (directory, connection):
        (body,) = connection.execute("SELECT body FROM entry WHERE idx = 300").fetchone()
        connection.close()
        content = bytearray((directory / DATABASE).read_bytes())
        page = content.index(body) // 4096
        content[page * 4096 : page * 4096 + 16] = bytes(16)
        (directory / DATABASE).write_bytes(content)
        result = check(directory)
    assert result.kind == "tampered"
    assert result.first_bad_index is not None
    assert 290 <= result.first_bad_index <= 300


def test_a_database_that_cannot_be_read_at_all_is_an_integrity_failure(evidence: Evidence) -> None:
    with altered(evidence) as (directory, connection):
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entry'").fetchone()
        connection.close()
        content = bytearray((directory / DATABASE).read_bytes())
        content[(root - 1) * 4096 : root * 4096] = bytes(4096)
        (directory / DATABASE).write_bytes(content)
        with pytest.raises(IntegrityFailure, match="malformed"):
            check(directory)
