"""`config check` and `config show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from authz_sidecar.cli.application import app
from authz_sidecar.config import config_reference


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("config") / "dev"
    assert run("init", str(directory)).exit_code == 0
    return directory / "config.yaml"


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=environment)


def test_a_good_configuration_is_ok(config: Path) -> None:
    assert run("config", "check", "--config", str(config)).stdout == f"{config}: ok\n"
    result = run("config", "check", "-o", "json", AUTHZ_SIDECAR_CONFIG=str(config))
    assert json.loads(result.stdout) == {"ok": True, "problems": []}


def test_every_problem_has_its_place_and_the_check_fails(config: Path, tmp_path: Path) -> None:
    broken = tmp_path / "config.yaml"
    text = config.read_text().replace("trust_domain: example.org", "trust_domian: example.org")
    broken.write_text(text.replace("auth: mtls", "auth: none"))
    result = run("config", "check", "--no-paths", "--config", str(broken))
    assert result.exit_code == 1
    line = text.splitlines().index("trust_domian: example.org") + 1
    assert f"{broken}:{line}:1: `trust_domian`: unknown key (did you mean `trust_domain`?)" in result.stdout
    assert "listeners[0].auth" in result.stdout
    machine = run("config", "check", "--no-paths", "--config", str(broken), "-o", "json")
    assert machine.exit_code == 1
    problems = json.loads(machine.stdout)["problems"]
    assert {(problem["line"], problem["path"]) for problem in problems} >= {(line, "trust_domian")}


def test_a_flag_that_names_no_key_is_reported_under_its_name(config: Path) -> None:
    result = run("config", "check", "--config", str(config), "--set", "http.adress=127.0.0.1:1")
    assert result.exit_code == 1
    assert "--set http.adress: unknown key" in result.stdout


def test_a_configuration_that_is_not_there_fails_the_check_and_stops_other_commands(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.yaml")
    assert run("config", "check", "--config", absent).exit_code == 1
    shown = run("config", "show", "--config", absent)
    assert shown.exit_code == 3
    assert shown.stderr.startswith(f"error: {absent}")


def test_paths_of_another_machine_can_be_left_alone(config: Path) -> None:
    elsewhere = ["--config", str(config), "--set", "policy.directory=/nowhere"]
    assert run("config", "check", *elsewhere).exit_code == 1
    assert run("config", "check", "--no-paths", *elsewhere).exit_code == 0


def test_show_prints_what_is_in_effect(config: Path) -> None:
    arguments = ["config", "show", "--config", str(config), "--set", "token.ttl=60s"]
    values = json.loads(run(*arguments, "-o", "json", AUTHZ_SIDECAR_LOG__LEVEL="debug").stdout)
    assert values["token"]["ttl"] == "1m"
    assert values["log"]["level"] == "debug"
    assert values["ledger"]["directory"] == str(config.parent / "ledger")
    human = run(*arguments)
    assert "  ttl: 1m\n" in human.stdout


def test_the_reference_lists_every_key_without_reading_a_file() -> None:
    human = run("config", "show", "--reference")
    machine = run("config", "show", "--reference", "-o", "json")
    assert human.exit_code == machine.exit_code == 0
    names = [key.name for key in config_reference()]
    assert [key["name"] for key in json.loads(machine.stdout)] == names
    assert [line.split()[0] for line in human.stdout.splitlines()[1:]] == names
