"""docs/ledger-records.md lists every record type and every member of real records, and no other."""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from authz_sidecar.client import Client, Initiator, SvidFiles, TaskRefused
from authz_sidecar.engine import lifecycle_records, outcome_records, records
from authz_sidecar.engine.recall import decision_from_record
from authz_sidecar.identity.spiffe_id import SpiffeId
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.ledger.records import RECORD_TYPES, Record, envelope
from authz_sidecar.ledger.store import Ledger
from authz_sidecar.task.model import Initiator as TaskInitiator
from authz_sidecar.task.model import Scope, Task, TaskEvent
from authz_sidecar.v1 import task_pb2
from tests.support.pages import code_in, page, table_rows
from tests.support.scratch import Scratch, scratch
from tests.support.sidecar import Caller, World

PAGE = page("docs/ledger-records.md")
NOW = datetime(2026, 1, 2, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SUBJECT = Subject(
    spiffe_id=SpiffeId.parse_workload("spiffe://example.org/agent/support"),
    method="x509-svid",
    credential_sha256="0" * 64,
    not_after=NOW + timedelta(hours=1),
    x5t_s256="0" * 43,
)
# Members whose own members are data, not a shape.
OPEN = {"session.tool_calls", "token.cnf", "task.initiator", "requested"}
# What a record shares with another one, whose table is not repeated.
LIKE = {"task_delegated": "task_started"}

Samples = dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any] | None]]]


def documented_together() -> list[list[str]]:
    """The types of each heading: they share a table."""
    return [code_in(heading) for heading in re.findall(r"^### (.+)$", PAGE.text, re.MULTILINE)]


def documented_types() -> list[str]:
    return [name for types in documented_together() for name in types]


def section_of(record_type: str) -> str:
    heading = next(text for text in re.findall(r"^### (.+)$", PAGE.text, re.MULTILINE) if f"`{record_type}`" in text)
    return PAGE.section(heading)


def documented(record_type: str) -> tuple[set[str], set[str]]:
    """Members and members of the payload, as the page lists them."""
    section = section_of(record_type)
    shared = section_of(LIKE[record_type]) if record_type in LIKE else ""
    common = PAGE.text.partition("## Calls")[0]
    members = {name for text in (common, shared, section) for row in table_rows(text) for name in code_in(row[0])}
    payload = re.search(r"^Payload: (.+?)(?:\n\n|\Z)", section, re.MULTILINE | re.DOTALL)
    inside = set(code_in(re.sub(r"\(.*?\)", "", payload[1], flags=re.DOTALL))) - {"null"} if payload else set()
    return members if payload else members - {"payload.sha256", "payload.size"}, inside


def members(value: Any, path: str = "") -> Iterator[str]:
    """Paths of a record; `[]` behind a list."""
    if isinstance(value, dict) and path not in OPEN:
        for name, part in value.items():
            yield from members(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        parts = [found for part in value if isinstance(part, dict) for found in members(part, f"{path}[]")]
        yield from parts or [f"{path}[]"]
    else:
        yield path


def test_the_page_has_a_heading_for_every_type_and_no_other() -> None:
    assert sorted(documented_types()) == sorted(RECORD_TYPES)


@pytest.mark.slow
def test_the_members_of_real_records_are_those_on_the_page(tmp_path: Path) -> None:
    samples: Samples = defaultdict(list)
    with scratch() as place:
        live(place)
        collect(samples, place.dev / "ledger")
    asyncio.run(step_back(tmp_path))
    collect(samples, tmp_path)
    for record in (*made_up(), *about(samples["decision"])):
        # What the store adds.
        payload = {**record.payload, "salt": ""} if record.payload is not None else None
        commitment = {"payload": {"sha256": "", "size": 0}} if payload is not None else {}
        samples[record.type].append(({**record.body, **commitment}, payload))

    assert set(samples) == set(RECORD_TYPES)
    for types in documented_together():
        found = [sample for record_type in types for sample in samples[record_type]]
        expected, inside = documented(types[0])
        seen = {path for body, _ in found for path in members(body)}
        # A part that is absent shows as null in one record and by its members in another.
        absent = {path for path in seen | expected if any(o.startswith((f"{path}.", f"{path}[")) for o in expected)}
        seen, expected = seen - absent, expected - absent
        assert seen == expected, types
        assert {name for _, payload in found for name in payload or {}} == inside, types


def live(place: Scratch) -> None:
    """A history with everything that an ordinary installation writes, a crash and a refused bundle among it."""
    place.run("authz-sidecar init dev")
    place.serve()
    svid = place.dev / "svids" / "support"
    files = SvidFiles(svid / "svid.pem", svid / "svid_key.pem", svid / "bundle.pem")
    scope: dict[str, Any] = {"tools": ["crm/read_contact"], "resources": ["*"], "ceiling": "internal"}
    with Client(f"unix:{place.dev}/run/authz.sock", svid=files, traceparent=lambda: TRACE) as client:
        task = client.start_task("a purpose", initiator=Initiator("human", "alice"), objective="long", **scope)
        with suppress(ZeroDivisionError), task.guard(
            "crm", "read_contact", {"contact_id": "c-1"}, justification="asked"
        ) as grant:  # fmt: skip
            grant.result(1 / 0)
        task.authorize("crm", "no_such_tool", {})
        with pytest.raises(TaskRefused):
            client.start_task("a purpose", initiator=Initiator("human", "alice"), **{**scope, "ceiling": "restricted"})
    assert place.background is not None
    place.background.kill()
    place.background.wait()
    place.background = None
    place.serve()
    with Client(f"unix:{place.dev}/run/authz.sock", svid=files) as client:
        jti = place.run(
            "authz-sidecar audit query --ledger dev/ledger --type decision --outcome permit -o json"
        ).splitlines()[0]
        place.values["JTI"] = json.loads(jti)["record"]["token"]["jti"]
        for target in ("--jti JTI", f"--task {task.id}"):
            place.run(f"authz-sidecar token revoke {target} --reason leaked --config dev/config.yaml --as operator")
        for change in ("suspend", "resume"):
            agent = "spiffe://example.org/agent/support"
            place.run(f"authz-sidecar agent {change} {agent} --reason test --config dev/config.yaml --as operator")
        client.get_task(task.id).complete("a summary")
    life(place)
    place.stop()
    (place.dev / "policies" / "rules" / "broken.cedar").write_text("permit(\n")
    place.run("authz-sidecar serve --config dev/config.yaml", code=3)


def life(place: Scratch) -> None:
    """Suspended, resumed, delegated, refused, cancelled; over raw stubs, where the client has no word for it."""
    with Caller(World(place.dev)) as support, Caller(World(place.dev), "analyst") as analyst:
        parent = support.start_task()
        child = support.delegate(parent, traceparent=TRACE).task.task_id
        analyst.authorize(child)
        support.delegate(parent, agent="support")
        support.tasks.SuspendTask(task_pb2.SuspendTaskRequest(task_id=parent, reason="a pause"), timeout=20)
        with pytest.raises(grpc.RpcError):
            analyst.tasks.ResumeTask(task_pb2.ResumeTaskRequest(task_id=child, reason="too early"), timeout=20)
        support.tasks.ResumeTask(task_pb2.ResumeTaskRequest(task_id=parent), timeout=20)
        support.tasks.CancelTask(task_pb2.CancelTaskRequest(task_id=parent), timeout=20)


def about(decisions: list[tuple[Mapping[str, Any], Mapping[str, Any] | None]]) -> Iterator[Record]:
    """What needs patience or a tool server: records about a permit of the history."""
    permit = decision_from_record(next(body for body, _ in decisions if body["outcome"] == "permit"))
    yield outcome_records.outcome_missing(record_id="m", now=NOW, decision=permit, decision_index=1)
    digest = "0" * 64
    yield outcome_records.receipt(
        record_id="c",
        now=NOW,
        subject=SUBJECT,
        decision=permit,
        decision_index=1,
        claims={"status": "success", "arguments_sha256": digest, "result_sha256": None, "executed_at": 1},
        signature={"kid": "k", "source": "svid", "jwk": {}},
        contradictions=(),
        jws="a.b.c",
    )


def collect(samples: Samples, ledger: Path) -> None:
    with LedgerReader.open(ledger) as reader:
        for index in range(reader.size):
            entry = reader.entry(index)
            assert entry is not None
            payload = json.loads(entry.payload) if entry.payload is not None else None
            samples[str(entry.record["type"])].append((entry.record, payload))


async def step_back(directory: Path) -> None:
    """A ledger whose clock went back."""
    signer = Signer("example.org/test", bytes(32))
    ledger = Ledger.open(directory, signer=signer, now=lambda: NOW, new_salt=lambda: bytes(16))
    for moment in (NOW, NOW - timedelta(minutes=1)):
        body = envelope("sidecar_started", record_id="s", time=moment, version="0", pid=1)
        await ledger.append(Record(type="sidecar_started", body=body))
    await ledger.close()


def made_up() -> Iterator[Record]:
    """What needs a slow disk, or a long wait."""
    subject = SUBJECT
    yield records.grant_void(
        record_id="v", now=NOW, subject=subject, task_id="t", decision_id="d", index=1, reason="task_ended"
    )
    task = Task(
        id="t",
        agent=str(subject.spiffe_id),
        purpose="p",
        initiator=TaskInitiator(kind="human", id="alice", verified=False),
        scope=Scope(tools=frozenset({"crm/read_contact"}), resources=("*",), ceiling="internal"),
        environment="development",
        started_at=NOW,
        expires_at=NOW + timedelta(hours=1),
    )
    yield lifecycle_records.task_changed(
        record_id="e",
        now=NOW,
        event=TaskEvent.EXPIRE,
        task=task.after(TaskEvent.EXPIRE, task.expires_at),
        subject=None,
        evaluated=None,
        cascade=None,
        note="",
    )
