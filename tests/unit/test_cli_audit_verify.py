"""The exit code of `audit verify` is the verdict, on real ledgers that were really tampered with."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from authz_sidecar.cli.application import app
from authz_sidecar.cli.audit_verify import CODES
from authz_sidecar.ledger.note import Signer
from tests.support import ledger as support

ONE_BYTE = "UPDATE entry SET body = CAST(replace(body, 'd-3', 'd-9') AS BLOB) WHERE idx = 4"
ROOT = Path(__file__).parents[2]


def at(second: int) -> datetime:
    return support.START + timedelta(seconds=second)


def newest_checkpoint(ledger: Path) -> str:
    return CliRunner().invoke(app, ["audit", "checkpoint", "--ledger", str(ledger)]).stdout


@pytest.fixture
async def evidence(tmp_path: Path) -> Path:
    """`ledger/` with 8 entries, `old/` as it was with 3, `early.note` and `late.note` of those, and `log.vkey`."""
    directory = tmp_path / "ledger"
    ledger = support.open_ledger(directory)
    await ledger.append(support.task_started("t-1"))
    for number in range(2):
        await ledger.append(support.decision(f"d-{number}", task_id="t-1", at=at(number)))
    await ledger.close()
    shutil.copytree(directory, tmp_path / "old")
    (tmp_path / "early.note").write_text(newest_checkpoint(directory))
    ledger = support.open_ledger(directory)
    for number in range(2, 7):
        await ledger.append(support.decision(f"d-{number}", task_id="t-1", at=at(number)))
    await ledger.close()
    (tmp_path / "late.note").write_text(newest_checkpoint(directory))
    (tmp_path / "log.vkey").write_text(support.SIGNER.vkey + "\n")
    return tmp_path


def verify(evidence: Path, *arguments: str, stdin: str | None = None) -> Result:
    common = ["audit", "verify", "--ledger", str(evidence / "ledger"), "--vkey", str(evidence / "log.vkey")]
    return CliRunner().invoke(app, [*common, *arguments], input=stdin)


def alter(evidence: Path, *statements: str) -> None:
    connection = sqlite3.connect(evidence / "ledger" / "ledger.db")
    for statement in statements:
        assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()


@pytest.mark.parametrize("note", ["early.note", "late.note"])
def test_a_ledger_that_fits_a_checkpoint_from_outside_is_verified(evidence: Path, note: str) -> None:
    result = verify(evidence, "--checkpoint", str(evidence / note))
    assert result.exit_code == 0
    assert result.stdout.startswith("VERIFIED: ")


def test_the_checkpoint_may_come_from_standard_input(evidence: Path) -> None:
    result = verify(evidence, "--checkpoint", "-", "-o", "json", stdin=(evidence / "early.note").read_text())
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["result"], found["size"], found["anchored_size"]) == ("verified", 8, 3)


def test_without_a_checkpoint_from_outside_the_code_is_not_zero(evidence: Path) -> None:
    result = verify(evidence)
    assert result.exit_code == 6
    assert result.stdout.startswith("VERIFIED, UNANCHORED: ")
    assert "--checkpoint" in result.stdout


def test_one_changed_byte_is_tampered_and_the_entry_is_named(evidence: Path) -> None:
    alter(evidence, ONE_BYTE)
    result = verify(evidence, "--checkpoint", str(evidence / "late.note"), "-o", "json")
    assert result.exit_code == 4
    found = json.loads(result.stdout)
    assert (found["result"], found["first_bad_index"]) == ("tampered", 4)
    human = verify(evidence)
    assert human.exit_code == 4
    assert human.stdout.startswith("TAMPERED: ")
    assert "first bad entry  4" in human.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entry WHERE idx = 3",
        "DELETE FROM entry WHERE idx = 7",
        "UPDATE record_index SET outcome = 'deny' WHERE idx = 4",
        "UPDATE task SET state = 'completed'",
        "UPDATE checkpoint SET note = replace(note, 'test', 'best') WHERE size = 3",
        "UPDATE payload SET content = CAST(replace(content, 'now', 'own') AS BLOB)",
    ],
)
def test_whatever_is_altered_is_tampered(evidence: Path, statement: str) -> None:
    alter(evidence, statement)
    assert verify(evidence, "--checkpoint", str(evidence / "early.note")).exit_code == 4


def test_a_ledger_that_was_set_back_is_incomplete_against_the_checkpoint_from_outside(evidence: Path) -> None:
    shutil.rmtree(evidence / "ledger")
    (evidence / "old").rename(evidence / "ledger")
    assert verify(evidence).exit_code == 6
    result = verify(evidence, "--checkpoint", str(evidence / "late.note"), "-o", "json")
    assert result.exit_code == 5
    assert json.loads(result.stdout)["first_bad_index"] == 3


def test_an_erased_payload_is_incomplete_not_tampered(evidence: Path) -> None:
    alter(evidence, "DELETE FROM payload WHERE idx IN (SELECT payload FROM entry WHERE idx = 2)")
    result = verify(evidence, "--checkpoint", str(evidence / "late.note"))
    assert result.exit_code == 5
    assert "missing payloads  1" in result.stdout


def test_a_ledger_signed_with_another_key_is_tampered(evidence: Path) -> None:
    (evidence / "log.vkey").write_text(Signer(support.ORIGIN, bytes(32)).vkey)
    assert verify(evidence).exit_code == 4


def test_a_file_that_is_no_database_is_tampered(evidence: Path) -> None:
    (evidence / "ledger/ledger.db").write_bytes(b"not a database" * 1000)
    result = verify(evidence)
    assert result.exit_code == 4
    assert "keep the directory as evidence" in result.stderr


@pytest.mark.parametrize(
    ("vkey", "note"),
    [("", "late.note"), ("not a key", "late.note"), (None, "log.vkey"), (None, "absent"), ("\x00\xff", "late.note")],
)
def test_a_key_or_checkpoint_that_cannot_be_used_is_no_verdict(evidence: Path, vkey: str | None, note: str) -> None:
    if vkey is not None:
        (evidence / "log.vkey").write_text(vkey)
    result = verify(evidence, "--checkpoint", str(evidence / note))
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")


def test_a_missing_ledger_is_no_verdict(evidence: Path) -> None:
    shutil.rmtree(evidence / "ledger")
    assert verify(evidence).exit_code == 3


def test_the_key_is_required_because_the_ledgers_own_proves_nothing(evidence: Path) -> None:
    result = CliRunner().invoke(app, ["audit", "verify", "--ledger", str(evidence / "ledger")])
    assert result.exit_code == 2
    assert "--vkey" in result.stderr


def test_the_verdict_is_the_exit_code_of_the_process(evidence: Path) -> None:
    command = [sys.executable, "-m", "authz_sidecar", "audit", "verify", "--ledger", str(evidence / "ledger")]
    command += ["--vkey", str(evidence / "log.vkey"), "--checkpoint", str(evidence / "early.note")]

    def code() -> int:
        return subprocess.run(command, capture_output=True, cwd=ROOT, timeout=60, check=False).returncode

    assert code() == 0
    alter(evidence, ONE_BYTE)
    assert code() == 4


def test_every_result_has_a_code_of_its_own() -> None:
    from typing import get_args

    from authz_sidecar.ledger.verify import Kind

    assert set(CODES) == set(get_args(Kind))
    assert len(set(CODES.values())) == len(CODES)
