"""The command line starts without loading what the command does not need, and says what is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from authz_sidecar.cli.application import app

ROOT = Path(__file__).parents[2]

_HEAVY = ("grpc", "cedarpy", "pydantic", "cryptography", "sqlite3", "yaml", "google", "starlette")

_LOADED = f"""
import contextlib, io, json, sys
from authz_sidecar.cli.application import run
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        run(arguments)
    assert "Usage:" in out.getvalue(), arguments
print(*(name for name in {_HEAVY!r} if name in sys.modules))
"""


def loaded_by(*command_lines: list[str]) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", _LOADED, json.dumps(command_lines)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def commands(group: Any, path: list[str]) -> Iterator[list[str]]:
    for name, command in group.commands.items():
        yield [*path, name, "--help"]
        if hasattr(command, "commands"):
            yield from commands(command, [*path, name])


def test_help_loads_nothing_heavy() -> None:
    assert loaded_by(["--help"]) == set()


def test_help_of_every_command_loads_nothing_that_commands_need() -> None:
    # Typer itself validates arguments with pydantic once there is a command.
    assert loaded_by(*commands(typer.main.get_command(app), [])) <= {"pydantic"}


def test_a_health_check_loads_neither_grpc_nor_the_policy_engine() -> None:
    script = _LOADED.replace('assert "Usage:"', 'assert "Usage:" not')
    ended = subprocess.run(
        [sys.executable, "-c", script, json.dumps([["healthcheck", "--url", "http://127.0.0.1:1"], ["healthcheck"]])],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("AUTHZ_SIDECAR_")},
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "no sidecar answers at 127.0.0.1:1 " in ended.stderr
    assert set(ended.stdout.split()).isdisjoint({"grpc", "cedarpy", "google", "sqlite3", "starlette", "cryptography"})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("authz-sidecar au", {"audit"}),
        ("authz-sidecar audit ver", {"verify"}),
        ("authz-sidecar token ", {"inspect", "verify", "introspect", "revoke", "watch", "jwks"}),
        ("authz-sidecar audit verify --ch", {"--checkpoint"}),
    ],
)
def test_the_shell_completes_commands_and_options(words: str, expected: set[str]) -> None:
    asked = {
        "_AUTHZ_SIDECAR_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "authz_sidecar"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **asked},
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert set(ended.stdout.split()) == expected


def test_without_the_server_extra_one_line_names_the_remedy() -> None:
    # Isolated and without site-packages: only the standard library and this package can be imported.
    bare = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from authz_sidecar.__main__ import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", bare, "--help"],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
        check=False,
    )
    assert ended.returncode == 3
    assert ended.stdout == ""
    assert ended.stderr == (
        "error: the package `typer` is missing; install the command line with `pip install 'authz-sidecar[server]'`\n"
    )
