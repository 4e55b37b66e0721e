"""The command line starts without loading what the command does not need, and says what is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_HEAVY = ("grpc", "cedarpy", "pydantic", "cryptography", "sqlite3", "yaml", "google", "starlette")

_LOADED = f"""
import sys
from authz_sidecar.cli.application import run
try:
    run(sys.argv[1:])
finally:
    print("loaded:", *(name for name in {_HEAVY!r} if name in sys.modules), file=sys.stderr)
"""


def loaded_by(*arguments: str) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", _LOADED, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Usage:" in ended.stdout
    return set(ended.stderr.removeprefix("loaded:").split())


def test_help_loads_nothing_heavy() -> None:
    assert loaded_by("--help") == set()


@pytest.mark.parametrize("arguments", [["init", "--help"], ["healthcheck", "--help"], ["token", "inspect", "--help"]])
def test_help_of_a_command_loads_nothing_that_commands_need(arguments: list[str]) -> None:
    # Typer itself validates arguments with pydantic once there is a command.
    assert loaded_by(*arguments) <= {"pydantic"}


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
