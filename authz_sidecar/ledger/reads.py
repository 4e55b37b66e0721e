"""Reading the ledger: by index, by identifier, by filter, and the tree's hashes for proofs.

Every read is short, so that no reader holds back the writer's housekeeping. One reader serves one thread at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import orjson

from authz_sidecar.clock import format_time, parse_time
from authz_sidecar.ledger.filters import QueryFilter, condition
from authz_sidecar.ledger.projections import REVOCATION_EPOCH, TASK_STATE, task_document
from authz_sidecar.ledger.tree import (
    TILE_HEIGHT,
    TILE_WIDTH,
    CompactRange,
    complete_subtrees,
    consistency_proof,
    inclusion_proof,
    root_of,
    split_point,
)
from authz_sidecar.revoked import Kind, Revocation
from authz_sidecar.strictjson import Json

_PAGE = 256
_ENTRY = """
SELECT entry.idx, entry.leaf_hash, entry.body, payload.content
FROM entry LEFT JOIN payload ON payload.idx = entry.payload
"""
_REVOCATIONS = "SELECT sequence, kind, target, expires_at, task_epoch FROM revocation"
_BY_INDEX = f"{_ENTRY} WHERE entry.idx = ?"
_OF_DECISION = (
    f"{_ENTRY} WHERE entry.idx IN (SELECT idx FROM record_index WHERE decision_id = ? AND type = ?) ORDER BY entry.idx"  # noqa: S608 - constant text
)


@dataclass(frozen=True)
class StoredEntry:
    """One entry as stored.

    Attributes:
        index: zero-based place in the tree.
        leaf_hash: as stored; recompute it from `body` before relying on it.
        body: exact canonical bytes of the leaf.
        payload: canonical bytes that the leaf commits to; None when there is none or it was erased.
    """

    index: int
    leaf_hash: bytes
    body: bytes
    payload: bytes | None

    @cached_property
    def record(self) -> Mapping[str, Json]:
        """The body, parsed on first use."""
        parsed: dict[str, Json] = orjson.loads(self.body)
        return parsed

    @cached_property
    def payload_record(self) -> Mapping[str, Json] | None:
        """The payload, parsed on first use."""
        parsed: dict[str, Json] | None = None if self.payload is None else orjson.loads(self.payload)
        return parsed


class LedgerReads:
    """Reads over one connection. `Ledger` and `LedgerReader` are both this, with different ways to open it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._read = connection
        row = connection.execute("SELECT origin, vkey FROM log").fetchone()
        self.origin: str = row[0]
        # The key that the file itself names. To verify, take the vkey from outside.
        self.claimed_vkey: str = row[1]

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(self._read.execute("SELECT coalesce(max(idx) + 1, 0) FROM entry").fetchone()[0])

    @property
    def revocation_epoch(self) -> int:
        """How many revocations there were so far: of tokens, agents and keys, and tasks that ended. Only rises."""
        row = self._read.execute("SELECT value FROM counter WHERE name = ?", (REVOCATION_EPOCH,)).fetchone()
        return int(row[0]) if row else 0

    def entry(self, index: int) -> StoredEntry | None:
        return self._one(_BY_INDEX, index)

    def decision(self, decision_id: str) -> StoredEntry | None:
        return self._one(_OF_DECISION, decision_id, "decision")

    def outcomes(self, decision_id: str) -> list[StoredEntry]:
        """Reports about a decision, oldest first."""
        return [StoredEntry(*row) for row in self._read.execute(_OF_DECISION, (decision_id, "outcome"))]

    def receipts(self, decision_id: str) -> list[StoredEntry]:
        """What tool servers said about a decision, oldest first."""
        return [StoredEntry(*row) for row in self._read.execute(_OF_DECISION, (decision_id, "receipt"))]

    def outcome_missing(self, decision_id: str) -> StoredEntry | None:
        """The record that no outcome had come in time."""
        return self._one(_OF_DECISION, decision_id, "outcome_missing")

    def overdue(self, token_ended_by: float, limit: int) -> list[tuple[str, int]]:
        """Permits that owe an outcome and whose token ended by then (Unix time), the oldest debts first.

        Returns (decision id, index of the decision).
        """
        query = "SELECT decision_id, idx FROM owed WHERE token_expires_at <= ? ORDER BY token_expires_at LIMIT ?"
        return self._read.execute(query, (int(token_ended_by), limit)).fetchall()

    def owes_outcome(self, decision_id: str) -> bool:
        """Whether a permit has neither an outcome, nor one recorded as missing, nor been voided."""
        query = "SELECT 1 FROM owed WHERE decision_id = ?"
        return self._read.execute(query, (decision_id,)).fetchone() is not None

    def revocations_after(self, sequence: int, *, limit: int) -> list[Revocation]:
        """Revocations with a higher number, in order, at most so many."""
        rows = self._read.execute(f"{_REVOCATIONS} WHERE sequence > ? ORDER BY sequence LIMIT ?", (sequence, limit))
        return [_revocation(row) for row in rows]

    def revocations_in_force(self, now: datetime, *, up_to: int) -> list[Revocation]:
        """Revocations up to a number that still cover something at `now`, in order."""
        query = f"{_REVOCATIONS} WHERE (expires_at > ? OR expires_at IS NULL) AND sequence <= ? ORDER BY sequence"
        return [_revocation(row) for row in self._read.execute(query, (format_time(now), up_to))]

    def revocation_of(self, kind: Kind, target: str) -> StoredEntry | None:
        """The first record that revoked exactly this."""
        query = "SELECT idx FROM revocation WHERE target = ? AND kind = ? ORDER BY sequence LIMIT 1"
        return self._indexed(query, target, kind)

    def stops_of(self, agent: str, first: int, end: int) -> list[int]:
        """Indices in `[first, end)` of records that revoked tokens of an agent, of every agent or of a key, or that
        suspended or resumed the agent or all of them."""
        query = """
            SELECT idx FROM revocation WHERE kind = 'agent' AND target IN (:agent, '*') AND idx >= :first AND idx < :end
            UNION SELECT idx FROM revocation WHERE kind = 'kid' AND idx >= :first AND idx < :end
            UNION SELECT idx FROM standing WHERE agent IN (:agent, '*') AND idx >= :first AND idx < :end ORDER BY 1
        """
        return [row[0] for row in self._read.execute(query, {"agent": agent, "first": first, "end": end})]

    def standing_of(self, agent: str) -> StoredEntry | None:
        """The newest record that suspended or resumed an agent (or `*`, all of them)."""
        return self._indexed("SELECT idx FROM standing WHERE agent = ? ORDER BY idx DESC LIMIT 1", agent)

    def suspended_agents(self) -> list[str]:
        """Agents that are suspended now, `*` among them when all are."""
        query = "SELECT agent, state, max(idx) FROM standing GROUP BY agent"
        return [agent for agent, state, _ in self._read.execute(query) if state == "suspended"]

    def is_void(self, decision_id: str) -> bool:
        """Whether a `grant_void` record says that the decision's token was never released."""
        query = "SELECT 1 FROM record_index WHERE decision_id = ? AND type = 'grant_void' LIMIT 1"
        return self._read.execute(query, (decision_id,)).fetchone() is not None

    def jti_entry(self, jti: str) -> StoredEntry | None:
        """The decision that granted a token."""
        query = "SELECT idx FROM record_index WHERE jti = ? AND type = 'decision' ORDER BY idx LIMIT 1"
        return self._indexed(query, jti)

    def find_request(self, agent: str, kind: str, request_id: str) -> StoredEntry | None:
        """The first record of an idempotency key. `kind`: `start_task`, otherwise the record type."""
        query = (
            "SELECT idx FROM record_index WHERE request_id = ? AND agent = ? AND request_kind = ? ORDER BY idx LIMIT 1"
        )
        return self._indexed(query, request_id, agent, kind)

    def decisions_by_request(self, task_id: str, agent: str) -> dict[str, str]:
        """Decision id by request id, for all decisions of a task that `agent` asked for.

        Other agents may have named the task too, and were denied; their request ids are not the owner's.
        """
        query = """
            SELECT request_id, decision_id FROM record_index
            WHERE task_id = ? AND agent = ? AND type = 'decision' AND request_id IS NOT NULL ORDER BY idx
        """
        return dict(self._read.execute(query, (task_id, agent)))

    def load_task(self, task_id: str) -> dict[str, Json] | None:
        """The task document as it stands after the newest record; None when it was never started."""
        row = self._read.execute(f"SELECT {TASK_STATE} FROM task WHERE task_id = ?", (task_id,)).fetchone()  # noqa: S608 - constant text
        return task_document(row) if row else None

    def open_tasks(self) -> list[tuple[str, str | None, datetime]]:
        """Tasks whose recorded state is active or suspended: id, parent's id, when it ends at the latest."""
        query = """
            SELECT task_id, parent_id, expires_at FROM task
            WHERE state IN ('active', 'suspended') AND document IS NOT NULL ORDER BY expires_at
        """
        return [(task_id, parent_id, parse_time(end)) for task_id, parent_id, end in self._read.execute(query)]

    def children(self, task_id: str) -> list[dict[str, Json]]:
        """Tasks delegated from a task, as they stand, the oldest first."""
        query = f"SELECT {TASK_STATE} FROM task WHERE parent_id = ? ORDER BY first_idx"  # noqa: S608 - constant text
        documents = (task_document(row) for row in self._read.execute(query, (task_id,)))
        return [document for document in documents if document is not None]

    def list_tasks(
        self, *, agent: str, states: Sequence[str], now: datetime, before: int | None, limit: int
    ) -> list[tuple[int, dict[str, Json]]]:
        """Tasks as they stand, the newest first, each with the index of its first record.

        Args:
            agent: owner; empty for all.
            states: as they count at `now`: a task past its deadline is expired whether or not that was recorded. Empty
                for all.
            before: only tasks whose first record is older than this index.
        """
        state = "CASE WHEN state IN ('active', 'suspended') AND expires_at <= ? THEN 'expired' ELSE state END"
        wanted = f"{state} IN ({', '.join('?' * len(states))})" if states else "? IS NOT NULL"
        owner = "agent = ?" if agent else "? = ''"
        query = f"""
            SELECT first_idx, {TASK_STATE} FROM task
            WHERE document IS NOT NULL AND {owner} AND first_idx < ? AND {wanted} ORDER BY first_idx DESC LIMIT ?
        """  # noqa: S608 - constant text
        end = self.size if before is None else before
        rows = self._read.execute(query, (agent, end, format_time(now), *states, limit))
        return [(row[0], document) for row in rows if (document := task_document(row[1:])) is not None]

    def load_session(self, task_id: str) -> dict[str, Json]:
        """What was permitted in a task: `{"calls", "tool_calls": {tool: count}, "max_read"}`."""
        row = self._read.execute("SELECT calls, max_read FROM session WHERE task_id = ?", (task_id,)).fetchone()
        if row is None:
            return {"calls": 0, "tool_calls": {}, "max_read": 0}
        tools = self._read.execute("SELECT tool, calls FROM session_tool WHERE task_id = ?", (task_id,))
        return {"calls": row[0], "tool_calls": dict(tools.fetchall()), "max_read": row[1]}

    def known_policy(self, digest: str) -> bool:
        """Whether a bundle with this digest was ever activated."""
        return self._read.execute("SELECT 1 FROM policy WHERE sha256 = ?", (digest,)).fetchone() is not None

    def policy_entry(self, digest: str) -> StoredEntry | None:
        """The newest `bundle_activated` record of a digest; its payload holds the bundle's files."""
        return self._indexed("SELECT idx FROM policy WHERE sha256 = ?", digest)

    def latest_checkpoint(self) -> str:
        """The newest signed note."""
        return str(self._read.execute("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1").fetchone()[0])

    def checkpoint_at(self, size: int) -> str | None:
        """The signed note of exactly this size, when one was made."""
        row = self._read.execute("SELECT note FROM checkpoint WHERE size = ?", (size,)).fetchone()
        return str(row[0]) if row else None

    def query(self, wanted: QueryFilter) -> Iterator[StoredEntry]:
        """Matching records, oldest first, fetched in pages.

        A filter by task, decision or jti uses an index; any other scans the record index, about a second for some
        millions of entries: give such a query its own reader in its own thread.
        """
        first = 0 if wanted.after_index is None else wanted.after_index + 1
        if wanted.since is not None:
            first = max(first, self.first_index_at(wanted.since))
        end = self.size if wanted.until is None else self.first_index_at(wanted.until)
        left = wanted.limit or end
        where, parameters = condition(wanted)
        page = f"SELECT idx FROM record_index WHERE idx >= ? AND idx < ? AND {where} ORDER BY idx LIMIT ?"  # noqa: S608 - names are constants
        while first < end and left > 0:
            found = self._read.execute(page, (first, end, *parameters, min(_PAGE, left))).fetchall()
            for (index,) in found:
                entry = self.entry(index)
                if entry is not None:
                    yield entry
            if len(found) < min(_PAGE, left):
                return
            left -= len(found)
            first = found[-1][0] + 1

    def first_index_at(self, moment: datetime) -> int:
        """The first index whose time is not before `moment`. Times never go back, so this is a binary search."""
        text = format_time(moment)
        low, high = 0, self.size
        while low < high:
            middle = (low + high) // 2
            row = self._read.execute("SELECT time FROM record_index WHERE idx = ?", (middle,)).fetchone()
            if row is not None and row[0] < text:
                low = middle + 1
            else:
                high = middle
        return low

    def range_hash(self, begin: int, end: int) -> bytes:
        """MTH of the leaves `[begin, end)`: full tiles come from `node`, the rest from the leaf hashes.

        `begin` must be a multiple of the largest power of two not above the width, as in every RFC 6962 proof.
        """
        width = end - begin
        if width < TILE_WIDTH:
            return root_of(self.leaf_hashes(begin, end))
        if width & (width - 1):
            middle = begin + split_point(width)
            return root_of([self.range_hash(begin, middle), self.range_hash(middle, end)])
        level = (width.bit_length() - 1) // TILE_HEIGHT
        unit = TILE_WIDTH**level
        return root_of(self.tile_roots(level, begin // unit, end // unit))

    def leaf_hashes(self, begin: int, end: int) -> list[bytes]:
        """Stored leaf hashes. Raises LookupError when any is missing."""
        query = "SELECT leaf_hash FROM entry WHERE idx >= ? AND idx < ? ORDER BY idx"
        return _complete([row[0] for row in self._read.execute(query, (begin, end))], begin, end, "entries")

    def tile_roots(self, level: int, begin: int, end: int) -> list[bytes]:
        """Stored roots of full tiles; level 1 tiles are 256 leaves wide. Raises LookupError when any is missing."""
        query = "SELECT hash FROM node WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx"
        rows = self._read.execute(query, (level, begin, end))
        return _complete([row[0] for row in rows], begin, end, f"tiles of level {level}")

    def frontier(self, size: int) -> CompactRange:
        """The tree of the first `size` entries, from stored hashes: compare its root with a signed one."""
        return CompactRange(size, (self.range_hash(begin, end) for begin, end in complete_subtrees(size)))

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """RFC 6962 section 2.1.1, leaf side first. Raises ValueError when `index` is not below `size`."""
        self._check_size(size)
        return inclusion_proof(index, size, self.range_hash)

    def consistency_proof(self, old_size: int, new_size: int) -> list[bytes]:
        """RFC 6962 section 2.1.2. Raises ValueError when the sizes are not in order."""
        self._check_size(new_size)
        return consistency_proof(old_size, new_size, self.range_hash)

    def _check_size(self, size: int) -> None:
        if size > self.size:
            raise ValueError(f"the log has {self.size} entries, not {size}")

    def _indexed(self, query: str, *parameters: str) -> StoredEntry | None:
        row = self._read.execute(query, parameters).fetchone()
        return self.entry(row[0]) if row else None

    def _one(self, query: str, *parameters: object) -> StoredEntry | None:
        row = self._read.execute(query, parameters).fetchone()
        return StoredEntry(*row) if row else None


def _revocation(row: tuple[int, Kind, str, str | None, int]) -> Revocation:
    sequence, kind, target, expires_at, task_epoch = row
    return Revocation(
        sequence=sequence,
        kind=kind,
        target=target,
        expires_at=parse_time(expires_at).timestamp() if expires_at is not None else None,
        task_epoch=task_epoch,
    )


def _complete(hashes: list[bytes], begin: int, end: int, what: str) -> list[bytes]:
    if len(hashes) != end - begin:
        raise LookupError(f"{end - begin - len(hashes)} of the {what} {begin} to {end - 1} are missing")
    return hashes
