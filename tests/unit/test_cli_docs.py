"""`docs/cli.md` says what `--help` says: every command, every option, every exit code, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from authz_sidecar.cli.application import app
from authz_sidecar.cli.exit_code import MEANING

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()

# Described once on the page, under the heading that is named here.
COMMON = {"output": "Every command", "config": "The configuration", "set_": "The configuration"}
CALLER = {"target", "as_", "svid", "key", "bundle", "timeout"}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands(typer.main.get_command(app)))


def row(parameter: Any) -> str:
    """The table row that the page should have for a parameter."""
    names = ", ".join(parameter.opts) if parameter.param_type_name == "option" else ""
    flag = isinstance(parameter.default, bool)
    metavar = "" if flag else (parameter.metavar or "")
    written = f"{names} {metavar}".strip().replace("|", "\\|")
    default = parameter.default
    shown = "" if default in (None, "", False) or parameter.required else f" Default: `{default}`."
    required = " Required." if parameter.required else ""
    return f"| `{written}` | {parameter.help}{required}{shown} |"


def section(heading: str) -> str:
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/cli.md has no heading `{heading}`"
    return found[1]


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_stands_on_the_page_with_its_help_and_its_options(name: str) -> None:
    command = COMMANDS[name]
    found = section(f"`{name}`")
    assert " ".join(command.help.partition("\n\n")[0].split()) in " ".join(found.split())
    calls = any(parameter.name == "as_" for parameter in command.params)
    elsewhere = {*COMMON, *(CALLER if calls else ())}
    expected = [row(parameter) for parameter in command.params if parameter.name not in elsewhere]
    assert rows(found) == expected
    assert ("[Calling a sidecar](#calling-a-sidecar)" in found) == calls


def test_what_commands_share_is_described_once() -> None:
    status = {parameter.name: parameter for parameter in COMMANDS["policy status"].params}
    check = {parameter.name: parameter for parameter in COMMANDS["config check"].params}
    assert rows(section("Every command")) == [row(status["output"])]
    assert rows(section("The configuration")) == [row(check["config"]), row(check["set_"])]
    assert rows(section("Calling a sidecar")) == [row(each) for each in status.values() if each.name in CALLER]


def test_the_page_names_no_command_that_does_not_exist() -> None:
    assert set(re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)) == set(COMMANDS)


def test_the_exit_codes_are_those_of_the_program() -> None:
    expected = [f"| `{code.value}` | {meaning} |" for code, meaning in MEANING.items()]
    assert rows(section("Exit codes")) == expected


def test_commands_that_the_page_shows_can_be_parsed() -> None:
    shown = re.findall(r"^\$ authz-sidecar (.*)$", PAGE, re.MULTILINE)
    assert shown
    for line in shown:
        words = line.split()
        name = max((known for known in COMMANDS if words[: len(known.split())] == known.split()), key=len)
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-") and word != "-"} <= options, line
