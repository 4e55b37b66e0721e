"""`policy check` says before a bundle ships what the sidecar would say when it loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from authz_sidecar.cli.application import app

POLICIES = Path(__file__).parents[2] / "policies"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(POLICIES, tmp_path / "policies"))


def check(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["policy", "check", *arguments], env=environment)


def test_the_shipped_bundle_is_ok(bundle: Path) -> None:
    result = check(str(bundle))
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{bundle}: ok\n")
    machine = json.loads(check(str(bundle), "-o", "json").stdout)
    assert machine["ok"] is True
    assert machine["digest"].startswith("sha256:")
    assert machine["policies"] > 0


def test_the_bundle_is_found_through_the_configuration(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["init", str(tmp_path)]).exit_code == 0
    result = check(AUTHZ_SIDECAR_CONFIG=str(tmp_path / "config.yaml"))
    assert result.exit_code == 0
    assert str(tmp_path / "policies") in result.stdout


def test_a_problem_has_a_file_that_an_editor_opens_with_line_and_column(bundle: Path) -> None:
    rules = bundle / "rules/crm.cedar"
    rules.write_text(rules.read_text() + "\nthis is not cedar;\n")
    line = len(rules.read_text().splitlines())
    result = check(str(bundle))
    assert result.exit_code == 1
    assert f"{rules}:{line}:" in result.stdout
    machine = check(str(bundle), "-o", "json")
    assert machine.exit_code == 1
    [problem, *_] = json.loads(machine.stdout)["problems"]
    assert (problem["file"], problem["line"]) == (str(rules), line)


def test_a_directory_that_is_not_there_fails(tmp_path: Path) -> None:
    result = check(str(tmp_path / "absent"))
    assert result.exit_code == 1
    assert f"{tmp_path / 'absent'}: no such directory" in result.stdout
