"""Appending: what is refused at once, what is stored exactly, and in which order."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from authz_sidecar.errors import LedgerUnavailable, Overloaded
from authz_sidecar.ledger.canonical import NotCanonical
from authz_sidecar.ledger.checkpoint import open_checkpoint
from authz_sidecar.ledger.filters import QueryFilter
from authz_sidecar.ledger.records import MAX_ENTRY_BYTES, MalformedRecord, Record
from authz_sidecar.ledger.store import LedgerOptions
from authz_sidecar.ledger.tree import leaf_hash, verify_consistency, verify_inclusion
from tests.support.ledger import (
    AGENT,
    ORIGIN,
    SIGNER,
    START,
    bundle_activated,
    decision,
    grant_void,
    open_ledger,
    outcome,
    task_changed,
    task_started,
)


async def test_the_leaf_is_the_canonical_bytes_and_commits_to_a_salted_payload(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    record = decision("d-1")
    position = await ledger.append(record)
    twin = await ledger.append(replace(record, body={**record.body, "id": "d-2"}))
    entry, other = ledger.entry(position.index), ledger.entry(twin.index)
    await ledger.close()

    assert entry is not None
    assert other is not None
    assert (position.log, position.index, position.leaf_hash) == (ORIGIN, 0, leaf_hash(entry.body))
    assert json.dumps(json.loads(entry.body), sort_keys=True, separators=(",", ":")).encode() == entry.body
    assert entry.payload is not None
    assert other.payload is not None
    assert entry.record["payload"] == {"sha256": sha256(entry.payload).hexdigest(), "size": len(entry.payload)}
    # Equal content, different salt: the commitment of one says nothing about the other.
    assert {**json.loads(entry.payload), "salt": 0} == {**json.loads(other.payload), "salt": 0}
    assert entry.record["payload"] != other.record["payload"]


async def test_acknowledgements_come_in_the_order_of_the_calls_without_gaps(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    acknowledged: list[int] = []
    futures = []
    for number in range(300):
        future = ledger.append(decision(f"d-{number}"))
        future.add_done_callback(lambda done: acknowledged.append(done.result().index))
        futures.append(future)
        if number % 70 == 0:
            await asyncio.sleep(0)
    positions = await asyncio.gather(*futures)
    assert [position.index for position in positions] == acknowledged == list(range(300))
    assert [ledger.decision(f"d-{number}").index for number in (0, 150, 299)] == [0, 150, 299]  # type: ignore[union-attr]
    await ledger.close()


async def test_shared_payloads_are_stored_once_and_readable_from_every_entry(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    files = {"rules/a.cedar": "permit(principal, action, resource);"}
    first, second = await asyncio.gather(
        ledger.append(bundle_activated("sha256:aa", files)), ledger.append(bundle_activated("sha256:bb", files))
    )
    third = await ledger.append(bundle_activated("sha256:aa", files, at=START + timedelta(seconds=1)))
    entries = [ledger.entry(position.index) for position in (first, second, third)]
    assert [entry.payload_record for entry in entries if entry] == [{"files": files}] * 3
    assert ledger.known_policy("sha256:bb")
    assert not ledger.known_policy("sha256:cc")
    newest = ledger.policy_entry("sha256:aa")
    assert newest is not None
    assert newest.index == third.index
    stored = ledger._read.execute("SELECT count(*) FROM payload").fetchone()
    assert stored == (1,)
    await ledger.close()


BODY = dict(decision("d").body)


def changed(**members: object) -> Record:
    return Record(type="decision", body={**BODY, **members})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("record", "names"),
    [
        (replace(decision("d"), type="decisoin"), "decisoin"),
        (changed(type="outcome"), "type"),
        (changed(v=2), "v"),
        (changed(time="2026-03-01T12:00:00Z"), "time"),
        (changed(time=17), "time"),
        (changed(id=""), "id"),
        (changed(payload={"sha256": "00"}), "payload"),
        (changed(task=None), "task.id"),
        (changed(tool={"server": "crm"}), "tool.name"),
        (changed(outcome="allow"), "outcome"),
        (changed(resource=None), "resource.level"),
        (changed(resource={"id": "r", "level": True}), "resource.level"),
        (replace(decision("d"), payload={"salt": "00"}), "payload.salt"),
        (decision("d", filler="x" * MAX_ENTRY_BYTES), "entry"),
    ],
)
async def test_a_bad_record_is_refused_at_once_and_names_the_member(tmp_path: Path, record: Record, names: str) -> None:
    ledger = open_ledger(tmp_path)
    with pytest.raises(MalformedRecord, match=names):
        ledger.append(record)
    assert (await ledger.append(decision("good"))).index == 0
    await ledger.close()


async def test_values_without_a_canonical_form_are_refused_at_once(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    with pytest.raises(NotCanonical, match="evaluated"):
        ledger.append(replace(decision("d"), payload={"evaluated": 0.5}))
    with pytest.raises(NotCanonical, match=r"\$\.filler"):
        ledger.append(changed(filler=1.5))
    await ledger.close()


async def test_an_entry_of_exactly_the_largest_size_is_stored_whole(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    room = MAX_ENTRY_BYTES - len((await _stored(ledger, decision("d-1", filler=""))).body)
    entry = await _stored(ledger, decision("d-2", filler="x" * room))
    assert len(entry.body) == MAX_ENTRY_BYTES
    with pytest.raises(MalformedRecord):
        ledger.append(decision("d-3", filler="x" * (room + 1)))
    await ledger.close()


async def _stored(ledger, record: Record):  # type: ignore[no-untyped-def]
    return ledger.entry((await ledger.append(record)).index)


async def test_a_full_queue_refuses_and_recovers(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, options=LedgerOptions(max_queued=3))
    accepted = [ledger.append(decision(f"d-{number}")) for number in range(3)]
    with pytest.raises(Overloaded):
        ledger.append(decision("too much"))
    await asyncio.gather(*accepted)
    assert (await ledger.append(decision("d-3"))).index == 3
    await ledger.close()


async def test_a_cancelled_waiter_does_not_take_its_record_back(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.append(decision("d-0")).cancel()
    assert (await ledger.append(decision("d-1"))).index == 1
    assert ledger.decision("d-0") is not None
    await ledger.close()


async def test_closing_stores_what_was_accepted_signs_it_and_refuses_more(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    accepted = [ledger.append(decision(f"d-{number}")) for number in range(50)]
    await ledger.close()
    await ledger.close()
    assert [future.result().index for future in accepted] == list(range(50))
    with pytest.raises(LedgerUnavailable, match="closed"):
        ledger.append(decision("late"))
    again = open_ledger(tmp_path)
    assert open_checkpoint(again.latest_checkpoint(), [SIGNER.vkey]).size == 50
    assert [record.record["type"] for record in again.query(QueryFilter(types=("recovery",)))] == []
    await again.close()


async def test_reads_answer_from_the_entries(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    assert (ledger.size, ledger.last_time, ledger.load_task("t"), ledger.entry(0)) == (0, None, None, None)
    await ledger.append(task_started("t", request_id="start-1"))
    await ledger.append(decision("d-1", task_id="t", level=3, request_id="r-1", at=START + timedelta(seconds=1)))
    await ledger.append(decision("d-2", task_id="t", permission="write", tool="crm/update", level=9))
    await ledger.append(decision("d-3", task_id="t", outcome="deny", level=9, request_id="r-1"))
    await ledger.append(outcome("d-1", 1, task_id="t"))
    await ledger.append(grant_void("d-2", 2, task_id="t"))

    assert ledger.load_session("t") == {
        "calls": 2,
        "tool_calls": {"crm/read_contact": 1, "crm/update": 1},
        "max_read": 3,
    }
    assert _index(ledger.find_request(AGENT, "start_task", "start-1")) == 0
    assert _index(ledger.find_request(AGENT, "decision", "r-1")) == 1
    assert ledger.find_request("spiffe://example.org/other", "decision", "r-1") is None
    assert ledger.find_request(AGENT, "outcome", "r-1") is None
    assert ledger.decisions_by_request("t", AGENT) == {"r-1": "d-3", "request-d-2": "d-2"}
    assert _index(ledger.jti_entry("jti-d-2")) == 2
    assert ledger.jti_entry("jti-d-3") is None
    assert [entry.index for entry in ledger.outcomes("d-1")] == [4]
    assert (ledger.is_void("d-1"), ledger.is_void("d-2")) == (False, True)
    assert ledger.revocation_epoch == 0
    assert [task_id for task_id, _, _ in ledger.open_tasks()] == ["t"]

    await ledger.append(task_changed("t", "suspended"))
    assert (ledger.load_task("t") or {})["state"] == "suspended"
    await ledger.append(task_changed("t", "resumed", epoch=2))
    assert ledger.revocation_epoch == 1
    assert ledger.open_tasks() == [("t", None, START + timedelta(hours=1))]
    await ledger.append(task_changed("t", "completed", epoch=2))
    assert ledger.open_tasks() == []
    assert ledger.revocation_epoch == 2
    await ledger.close()

    again = open_ledger(tmp_path)
    assert (again.revocation_epoch, again.size) == (2, 9)
    assert again.last_time == START + timedelta(seconds=1)
    await again.close()


def _index(entry) -> int:  # type: ignore[no-untyped-def]
    assert entry is not None
    return int(entry.index)


async def test_checkpoints_are_signed_on_request_and_by_themselves(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, options=LedgerOptions(checkpoint_interval=timedelta(milliseconds=20)))
    await asyncio.gather(*(ledger.append(decision(f"d-{number}")) for number in range(5)))
    for _ in range(200):
        await asyncio.sleep(0.01)
        if open_checkpoint(ledger.latest_checkpoint(), [SIGNER.vkey]).size == 5:
            break
    else:
        pytest.fail("the growing log was not signed within two seconds")
    pending = [ledger.append(decision(f"d-{number}")) for number in range(5, 9)]
    note = await ledger.checkpoint_now()
    assert open_checkpoint(note, [SIGNER.vkey]).size == 9
    assert all(future.done() for future in pending)
    await ledger.close()


async def test_proofs_lead_from_every_entry_to_every_signed_root(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    checkpoints = [open_checkpoint(ledger.latest_checkpoint(), [SIGNER.vkey])]
    for more in (1, 254, 1, 1, 300):
        await asyncio.gather(*(ledger.append(decision(f"d-{ledger.size}-{number}")) for number in range(more)))
        checkpoints.append(open_checkpoint(await ledger.checkpoint_now(), [SIGNER.vkey]))
    for place, new in enumerate(checkpoints):
        for index in {0, 1, 254, 255, 256, 300, new.size - 1}:
            if 0 <= index < new.size:
                leaf = ledger.leaf_hashes(index, index + 1)[0]
                verify_inclusion(leaf, index, new.size, ledger.inclusion_proof(index, new.size), new.root)
        for old in checkpoints[:place]:
            proof = ledger.consistency_proof(old.size, new.size)
            verify_consistency(old.size, old.root, new.size, new.root, proof)
    with pytest.raises(ValueError, match="557 entries"):
        ledger.inclusion_proof(0, 558)
    await ledger.close()


async def test_queries_combine_conditions_in_the_order_of_the_log(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for number in range(600):
        last = ledger.append(
            decision(
                f"d-{number}",
                task_id=f"t-{number % 3}",
                outcome="permit" if number % 2 else "deny",
                at=START + timedelta(seconds=number // 10),
            )
        )
    await last

    def found(**conditions: object) -> list[int]:
        return [entry.index for entry in ledger.query(QueryFilter(**conditions))]  # type: ignore[arg-type]

    assert found() == list(range(600))
    assert found(task_id="t-1", outcome="permit") == list(range(1, 600, 6))
    assert found(types=("outcome", "task_started")) == []
    assert found(jti="jti-d-7") == found(decision_id="d-7") == [7]
    assert found(limit=3, after_index=10) == [11, 12, 13]
    assert found(limit=300, agent=AGENT) == list(range(300))
    since, until = START + timedelta(seconds=5), START + timedelta(seconds=7)
    assert found(since=since, until=until) == list(range(50, 70))
    assert found(since=since, until=until, after_index=60, tool="crm/read_contact") == list(range(61, 70))
    assert found(since=START + timedelta(hours=1)) == []
    assert found(until=START) == []
    await ledger.close()
