"""Figures of the ledger: `python -m bench.ledger [directory]`. Read them as ratios; the machine decides the rest.

Each caller waits for its own record to be durable before it appends the next. Records are what a decision writes: a
body of about 2 KB and a salted payload of about 2 KB.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from authz_sidecar.clock import format_time
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.prepare import prepare
from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.ledger.records import Record
from authz_sidecar.ledger.store import Ledger
from authz_sidecar.ledger.tree import CompactRange, leaf_hash
from authz_sidecar.ledger.verify import verify

CALLERS = (1, 8, 32, 128)
SIGNER = Signer("bench", bytes(32))

_serial = itertools.count()


def decision() -> Record:
    """A permit with everything an ordinary decision records."""
    number = next(_serial)
    now = format_time(datetime.now(UTC))
    policies = [
        {"id": f"policy-{place}", "effect": "permit", "tier": "", "reason": "r" * 60, "sha256": "ab" * 32}
        for place in range(5)
    ]
    body = {
        "v": 1,
        "type": "decision",
        "id": f"d-{number:012}",
        "time": now,
        "trace": {"trace_id": "0" * 32, "span_id": "0" * 16},
        "actor": {"spiffe_id": "spiffe://example.org/agent/a", "method": "x509-svid", "credential_sha256": "cd" * 32},
        "initiator": {"kind": "human", "id": "https://idp.example|u-17", "verified": True},
        "purpose": "triage of the incident",
        "task": {"id": f"t-{number % 8}", "state": "active", "epoch": 1, "expires_at": now, "depth": 0},
        "request": {"id": f"{hash(number) & 0xFFFFFFFF:08x}-r-{number}", "sha256": "ef" * 32},
        "tool": {
            "server": "crm", "name": "read_contact", "permission": "read", "risks": [], "call_id": "c",
            "arguments_sha256": "01" * 32,
        },
        "action": "crm/read_contact",
        "audience": "https://crm.example",
        "resource": {
            "id": "contact/17", "classification": "internal", "level": 1, "owner": "sales", "source": "arguments",
        },
        "environment": {"name": "staging", "production": False},
        "session": {"calls": number, "tool_calls": {"crm/read_contact": number}, "max_read": 1},
        "policy": {"sha256": "sha256:" + "23" * 32, "engine": "cedarpy 4.12.2"},
        "determining": policies,
        "errors": [],
        "outcome": "permit",
        "reason_code": "permitted",
        "token": {
            "jti": f"j-{number:012}", "iat": 1, "nbf": 1, "exp": 121, "aud": "https://crm.example", "cnf": {},
            "kid": "k",
        },
    }  # fmt: skip
    context = {f"fact_{place}": {"value": "x" * 40, "level": place} for place in range(24)}
    return Record(type="decision", body=body, payload={"evaluated": {"context": context, "entities": []}})


async def _append_for(ledger: Ledger, callers: int, seconds: float) -> list[float]:
    waits: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (started := time.perf_counter()) < end:
            await ledger.append(decision())
            waits.append(time.perf_counter() - started)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return sorted(waits)


def _open(directory: Path) -> Ledger:
    return Ledger.open(directory, signer=SIGNER, now=lambda: datetime.now(UTC), new_salt=lambda: bytes(16))


def run(*, seconds: float = 3.0, parent: Path | None = None) -> dict[str, float]:
    """Every figure by its name; `seconds` for each number of callers."""
    with tempfile.TemporaryDirectory(prefix="az-bench-", dir=parent) as name:
        directory = Path(name) / "ledger"
        return {
            **_prepare(),
            **_hashing(),
            **asyncio.run(_durable(directory, seconds)),
            **_boot(directory),
            **_reads(directory),
            **_verify(directory),
        }


async def _durable(directory: Path, seconds: float) -> dict[str, float]:
    ledger = _open(directory)
    figures: dict[str, float] = {}
    await _append_for(ledger, 8, 0.5)
    for callers in CALLERS:
        waits = await _append_for(ledger, callers, seconds)
        figures[f"durable records/s, {callers} callers"] = len(waits) / seconds
        figures[f"  p50 ms, {callers} callers"] = waits[len(waits) // 2] * 1e3
        figures[f"  p99 ms, {callers} callers"] = waits[len(waits) * 99 // 100] * 1e3
    await ledger.close()
    return figures


def _prepare() -> dict[str, float]:
    record, rounds = decision(), 3000
    entry = prepare(record, not_before="", new_salt=lambda: bytes(16))
    started = time.perf_counter()
    for _ in range(rounds):
        prepare(record, not_before="", new_salt=lambda: bytes(16))
    took = (time.perf_counter() - started) / rounds
    return {
        "entry bytes": float(len(entry.body)),
        "payload bytes": float(entry.size - len(entry.body)),
        "check, canonicalise, salt and hash, us": took * 1e6,
    }


def _hashing() -> dict[str, float]:
    bodies = [b'{"entry":%d}' % number for number in range(200_000)]
    tree = CompactRange()
    started = time.perf_counter()
    for body in bodies:
        tree.append(leaf_hash(body))
    return {"leaf and tree hashing, small entries/s": len(bodies) / (time.perf_counter() - started)}


def _verify(directory: Path) -> dict[str, float]:
    started = time.perf_counter()
    result = verify(directory, vkey=SIGNER.vkey)
    took = time.perf_counter() - started
    if result.kind != "verified_unanchored":
        raise SystemExit(f"the ledger of the benchmark does not verify: {result}")
    return {"verify everything, entries/s": result.size / took}


def _reads(directory: Path) -> dict[str, float]:
    with LedgerReader.open(directory) as reader:
        last = reader.entry(reader.size - 1)
        if last is None:
            raise SystemExit("the ledger of the benchmark is empty")
        decision_id = str(last.record["id"])
        reads: dict[str, Callable[[], object]] = {
            "entry": lambda: reader.entry(17),
            "a request id that is new": lambda: reader.find_request("spiffe://example.org/agent/a", "decision", "none"),
            "decision": lambda: reader.decision(decision_id),
            "session": lambda: reader.load_session("t-1"),
            "inclusion proof": lambda: reader.inclusion_proof(17, reader.size),
        }
        figures: dict[str, float] = {}
        for name, read in reads.items():
            started = time.perf_counter()
            for _ in range(500):
                read()
            figures[f"read: {name}, us"] = (time.perf_counter() - started) / 500 * 1e6
        return figures


def _boot(directory: Path) -> dict[str, float]:
    async def cycle() -> float:
        started = time.perf_counter()
        ledger = _open(directory)
        took = time.perf_counter() - started
        await ledger.close()
        return took

    return {"open an existing ledger, ms": asyncio.run(cycle()) * 1e3}


if __name__ == "__main__":
    for label, value in run(parent=Path(sys.argv[1]) if len(sys.argv) > 1 else None).items():
        print(f"{label:45}{value:14.1f}")
