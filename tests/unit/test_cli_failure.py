"""A command that fails says one line on standard error and leaves with a stable code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from authz_sidecar import errors
from authz_sidecar.cli.application import CommandLine, app
from authz_sidecar.cli.exit_code import MEANING, ExitCode
from authz_sidecar.cli.failure import explain

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "authz_sidecar", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "no such command 'nope'"),
        (["version", "--nope"], "no such option: --nope"),
        (["version", "-o", "xml"], "'xml' is not one of 'human', 'json'"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(arguments: list[str], said: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("error: ")
    assert said in ended.stderr
    assert "--help" in ended.stderr


def test_no_command_shows_the_help_and_is_a_usage_error() -> None:
    ended = run()
    assert ended.returncode == 2
    assert "Usage: authz-sidecar" in ended.stdout
    assert ended.stderr == ""


def failing(error: Exception) -> typer.Typer:
    broken = typer.Typer(cls=CommandLine, pretty_exceptions_enable=False)

    @broken.callback()
    def root(debug: bool = False) -> None:
        pass

    @broken.command()
    def fail() -> None:
        raise error

    return broken


def test_an_unexpected_error_shows_neither_its_text_nor_a_traceback() -> None:
    result = CliRunner().invoke(failing(ValueError("eyJhbGciOi.secret")), ["fail"])
    assert result.exit_code == ExitCode.INTERNAL
    assert result.output == "error: this is a bug (ValueError); run `authz-sidecar --debug ...` for the details\n"


def test_debug_lets_an_unexpected_error_through() -> None:
    with pytest.raises(ValueError, match="details"):
        CliRunner().invoke(failing(ValueError("details")), ["--debug", "fail"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.IntegrityFailure("entry 7 was altered"), ExitCode.UNSAFE),
        (errors.OperatorError("no such bundle"), ExitCode.UNREACHABLE),
        (errors.NotReady("no policy yet"), ExitCode.UNREACHABLE),
        (errors.Overloaded("try later"), ExitCode.UNREACHABLE),
        (errors.DeadlineExceeded("too slow"), ExitCode.UNREACHABLE),
        (errors.TaskNotFound("no such task"), ExitCode.CHECK_FAILED),
        (errors.Unauthenticated("expired"), ExitCode.CHECK_FAILED),
    ],
)
def test_the_code_says_whose_fault_it_is(error: errors.SidecarError, code: ExitCode) -> None:
    assert explain(error) == (error.message, code)


def test_every_error_of_the_family_has_a_code_of_its_own_choosing() -> None:
    def descendants(kind: type[errors.SidecarError]) -> list[type[errors.SidecarError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in descendants(child))]

    for kind in descendants(errors.SidecarError):
        if kind is errors.SidecarError or kind.__module__ != errors.__name__:
            continue
        bare = kind.__new__(kind)
        errors.SidecarError.__init__(bare, "said")
        assert explain(bare)[1] is not ExitCode.INTERNAL, kind


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "absent").read_bytes()
    assert explain(caught.value) == (f"{tmp_path}/absent: no such file or directory", ExitCode.UNREACHABLE)


def test_a_missing_package_is_named_with_the_remedy() -> None:
    message, code = explain(ModuleNotFoundError("No module named 'cedarpy'", name="cedarpy"))
    assert code is ExitCode.UNREACHABLE
    assert "`cedarpy`" in message
    assert "authz-sidecar[server]" in message
    assert explain(ModuleNotFoundError("", name="authz_sidecar.gone"))[1] is ExitCode.INTERNAL


def test_codes_are_stable() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "CHECK_FAILED": 1,
        "USAGE": 2,
        "UNREACHABLE": 3,
        "UNSAFE": 4,
        "INCOMPLETE": 5,
        "UNANCHORED": 6,
        "INTERNAL": 70,
        "LEDGER_POISONED": 74,
        "INTERRUPTED": 130,
    }
    assert set(MEANING) == set(ExitCode)


def test_the_version_is_told_in_both_forms() -> None:
    import json

    human = CliRunner().invoke(app, ["version"])
    machine = CliRunner().invoke(app, ["version", "-o", "json"])
    assert human.exit_code == machine.exit_code == 0
    versions = json.loads(machine.stdout)
    assert next(iter(versions)) == "authz-sidecar"
    assert [line.split() for line in human.stdout.splitlines()] == [[name, text] for name, text in versions.items()]
