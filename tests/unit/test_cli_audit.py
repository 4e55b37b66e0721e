"""`audit` reads a real ledger directory, while the sidecar runs and after it stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from authz_sidecar.cli.application import app
from authz_sidecar.ledger.records import Record
from authz_sidecar.ledger.store import Ledger
from tests.support import ledger as support

ROOT = Path(__file__).parents[2]


def audit(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["audit", *arguments], input=stdin)


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def later(seconds: int) -> Any:
    return support.START + timedelta(seconds=seconds)


def hostile() -> Record:
    record = support.decision("d-hostile", task_id="t-2", outcome="deny", tool="crm/delete_contact", at=later(5))
    resource = {"id": "contact/\x1b[2J\u202e17", "classification": "internal", "level": 1, "owner": "sales"}
    return Record(type="decision", body={**record.body, "resource": resource}, payload=record.payload)


async def written(directory: Path) -> Ledger:
    ledger = support.open_ledger(directory)
    for record in (
        support.task_started("t-1"),
        support.decision("d-1", task_id="t-1", at=later(1)),
        support.outcome("d-1", 1, task_id="t-1", at=later(2)),
        support.decision("d-2", task_id="t-1", tool="crm/update_contact", permission="write", at=later(3)),
        support.decision("d-3", task_id="t-1", outcome="deny", tool="mail/send_external", at=later(4)),
        hostile(),
    ):
        await ledger.append(record)
    return ledger


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Path]:
    ledger = await written(tmp_path / "ledger")
    await ledger.close()
    yield tmp_path / "ledger"


def test_query_lists_matching_records_oldest_first(directory: Path) -> None:
    found = lines(audit("query", "--ledger", str(directory), "--type", "decision", "-o", "json"))
    assert [entry["record"]["id"] for entry in found] == ["d-1", "d-2", "d-3", "d-hostile"]
    assert [entry["index"] for entry in found] == sorted(entry["index"] for entry in found)


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["--task", "t-2"], ["d-hostile"]),
        (["--tool", "crm/update_contact"], ["d-2"]),
        (["--outcome", "deny", "--task", "t-1"], ["d-3"]),
        (["--resource", "contact/17", "--outcome", "permit"], ["d-1", "d-2"]),
        (["--reason", "no_permit"], ["d-3", "d-hostile"]),
        (["--jti", "jti-d-2"], ["d-2"]),
        (["--agent", support.AGENT, "--type", "outcome"], ["outcome-d-1"]),
        (["--type", "decision", "--since", "2026-03-01T12:00:03Z", "--until", "2026-03-01T12:00:05Z"], ["d-2", "d-3"]),
        (["--type", "decision", "--after", "3"], ["d-3", "d-hostile"]),
        (["--type", "decision", "--limit", "1"], ["d-1"]),
    ],
)
def test_every_filter_restricts(directory: Path, arguments: list[str], ids: list[str]) -> None:
    found = lines(audit("query", "--ledger", str(directory), "-o", "json", *arguments))
    assert [entry["record"]["id"] for entry in found] == ids


def test_a_list_that_was_cut_says_how_to_go_on(directory: Path) -> None:
    result = audit("query", "--ledger", str(directory), "--type", "decision", "--limit", "2")
    assert result.stdout.splitlines()[-1] == "stopped after 2 records; go on with `--after 3`"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--type", "desicion"], "did you mean `decision`?"),
        (["--agent", "support"], "does not start with `spiffe://`"),
        (["--outcome", "allow"], "'allow' is not one of"),
        (["--since", "yesterday"], "--since yesterday"),
    ],
)
def test_a_filter_that_could_match_nothing_is_a_usage_error(directory: Path, arguments: list[str], said: str) -> None:
    result = audit("query", "--ledger", str(directory), *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_records_cannot_write_to_the_terminal(directory: Path) -> None:
    for arguments in (["query"], ["tail"], ["show", "d-hostile"], ["timeline", "--task", "t-2"]):
        result = audit(*arguments, "--ledger", str(directory))
        assert result.exit_code == 0, result.stderr
        assert "\x1b" not in result.stdout
        assert "\u202e" not in result.stdout
        assert "contact/\\x1b[2J\\u202e17" in result.stdout


def test_show_takes_an_index_or_a_decision_and_includes_the_payload(directory: Path) -> None:
    by_index = json.loads(audit("show", "1", "--ledger", str(directory), "-o", "json").stdout)
    by_decision = json.loads(audit("show", "d-1", "--ledger", str(directory), "-o", "json").stdout)
    assert by_index == by_decision
    assert by_index["record"]["id"] == "d-1"
    assert by_index["payload"]["evaluated"] == {"context": {"now": "d-1"}}
    human = audit("show", "d-1", "--ledger", str(directory)).stdout
    assert "record.tool.server" in human
    assert "payload.evaluated.context.now" in human


@pytest.mark.parametrize("record", ["6", "999999999999999999999", "d-unknown", "-1x"])
def test_a_record_that_is_not_there_is_a_failed_check(directory: Path, record: str) -> None:
    result = audit("show", "--ledger", str(directory), "--", record)
    assert result.exit_code == 1
    assert f"no record `{record}`" in result.stderr


def test_timeline_tells_the_whole_task_and_what_has_no_outcome(directory: Path) -> None:
    result = audit("timeline", "--task", "t-1", "--ledger", str(directory), "-o", "json")
    found = json.loads(result.stdout)
    ids = [entry["record"]["id"] for entry in found["records"]]
    assert ids == ["started-t-1", "d-1", "outcome-d-1", "d-2", "d-3"]
    assert found["missing_outcomes"] == ["d-2"]
    assert found["task"]["purpose"] == "triage"
    human = audit("timeline", "--task", "t-1", "--ledger", str(directory)).stdout
    assert "no outcome was reported for decision d-2" in human
    assert "crm/read_contact contact/17" in human


def test_timeline_of_an_unknown_task_is_a_failed_check(directory: Path) -> None:
    assert audit("timeline", "--task", "t-9", "--ledger", str(directory)).exit_code == 1


def test_tail_shows_the_newest(directory: Path) -> None:
    found = lines(audit("tail", "-n", "2", "--ledger", str(directory), "-o", "json"))
    assert [entry["record"]["id"] for entry in found] == ["d-3", "d-hostile"]
    assert len(audit("tail", "-n", "0", "--ledger", str(directory)).stdout) == 0


async def test_tail_follows_a_running_sidecar_until_it_is_interrupted(tmp_path: Path) -> None:
    ledger = await written(tmp_path / "ledger")
    arguments = ["audit", "tail", "-f", "-n", "1", "-o", "json", "--ledger", str(tmp_path / "ledger")]
    following = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "authz_sidecar", *arguments, stdout=PIPE, stderr=PIPE, cwd=ROOT
    )
    try:
        assert following.stdout is not None
        assert json.loads(await following.stdout.readline())["record"]["id"] == "d-hostile"
        await ledger.append(support.decision("d-new", task_id="t-1", at=later(9)))
        assert json.loads(await following.stdout.readline())["record"]["id"] == "d-new"
        following.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(following.communicate(), timeout=30)
    finally:
        if following.returncode is None:
            following.kill()
        await ledger.close()
    assert (following.returncode, out, err) == (130, b"", b"")


def test_a_reader_that_leaves_early_is_no_error(directory: Path) -> None:
    command = f"{sys.executable} -m authz_sidecar audit query --ledger {directory} -o json | head -n 1"
    ended = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert ended.stdout.count("\n") == 1
    assert ended.stderr == ""


def test_the_ledger_is_found_through_the_configuration(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["init", str(tmp_path)]).exit_code == 0
    result = audit("tail", "--config", str(tmp_path / "config.yaml"))
    assert result.exit_code == 3
    assert f"no ledger in `{tmp_path}/ledger`" in result.stderr


def test_a_directory_without_a_ledger_is_named(tmp_path: Path) -> None:
    for arguments in (["query"], ["tail"], ["show", "1"], ["checkpoint"], ["timeline", "--task", "t"]):
        result = audit(*arguments, "--ledger", str(tmp_path))
        assert result.exit_code == 3
        assert str(tmp_path) in result.stderr


def test_a_file_that_is_no_ledger_any_more_is_unsafe(directory: Path) -> None:
    (directory / "ledger.db").write_bytes(os.urandom(8192))
    assert audit("tail", "--ledger", str(directory)).exit_code == 4


@pytest.mark.parametrize("body", [b"\x00garbage", b"[]", b"7"])
def test_an_entry_that_was_altered_beyond_reading_is_unsafe_and_says_what_to_run(directory: Path, body: bytes) -> None:
    connection = sqlite3.connect(directory / "ledger.db")
    connection.execute("UPDATE entry SET body = ? WHERE idx = 1", (body,))
    connection.commit()
    connection.close()
    for arguments in (["query"], ["tail"], ["show", "1"], ["timeline", "--task", "t-1"]):
        result = audit(*arguments, "--ledger", str(directory))
        assert result.exit_code == 4, arguments
        assert "audit verify" in result.stderr


def test_checkpoint_prints_the_newest_note_as_it_is(directory: Path) -> None:
    from authz_sidecar.ledger.checkpoint import open_checkpoint

    note = audit("checkpoint", "--ledger", str(directory)).stdout
    assert open_checkpoint(note, [support.SIGNER.vkey]).size == 6
    machine = json.loads(audit("checkpoint", "--ledger", str(directory), "-o", "json").stdout)
    assert machine == {"origin": support.ORIGIN, "note": note, "entries": 6}
