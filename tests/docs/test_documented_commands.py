"""Every command and every Python snippet that the documentation shows is run, in the order of its page."""

from __future__ import annotations

import re

import pytest

from tests.support.pages import ROOT, Block, Page, all_pages, commands, missing_line, page
from tests.support.scratch import Scratch, scratch

# Both write a command with its prompt; the reference of the command line has no output to show.
CONSOLE = ("console", "sh")
PROGRAM_RUN_ELSEWHERE = {"docs/verifying-tokens.md": "tests/unit/test_docs_verifying_tokens.py"}
NEEDS = {"docs/cli.md": ("running-sidecar", "history")}
PAGES = [page for page in all_pages() if any(block.language in (*CONSOLE, "python") for block in page.blocks())]
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("followed", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_works_in_the_order_of_the_page(followed: Page) -> None:
    with scratch() as place:
        needs = NEEDS.get(followed.name, followed.needs)
        if "running-sidecar" in needs:
            place.start_sidecar(followed)
        if "history" in needs:
            place.make_history()
        follow(followed, place)


def follow(followed: Page, place: Scratch) -> None:
    """Commands run as they come; the snippets of a page are one program, which runs last."""
    snippets: list[str] = []
    printed: list[str] = []
    for block in followed.blocks():
        name = block.directive("write") or block.directive("append")
        if name is not None:
            place.write(block, name, append=block.directive("append") is not None)
        elif block.language in CONSOLE:
            type_commands(block, place)
        elif block.directive("prints") is not None:
            printed += block.text.splitlines()
        elif block.language == "python" and block.directive("same-as") is None:
            snippets.append(block.text)
    if followed.name in PROGRAM_RUN_ELSEWHERE:
        return
    assert bool(snippets) == bool(printed), f"{followed.name}: a program is shown with what it prints"
    if snippets:
        (place.directory / "snippets.py").write_text("\n".join(snippets))
        missing = missing_line(printed, output := place.run("python snippets.py"))
        assert missing is None, f"{followed.name}: `{missing}` is not in\n{output}"


def type_commands(block: Block, place: Scratch) -> None:
    run = commands(block)
    for number, command in enumerate(run, 1):
        if command.text.startswith("make "):
            assert command.text.split()[1] in MAKE_TARGETS
        elif block.directive("background") is not None:
            place.serve(command.text)
        else:
            place.follow(command, code=int(block.directive("exit") or 0) if number == len(run) else 0)


def test_a_block_that_is_an_excerpt_of_a_file_is_the_text_of_that_file() -> None:
    excerpts = [(shown, block) for shown in all_pages() for block in shown.blocks() if block.directive("same-as")]
    assert len(excerpts) >= 2
    for shown, block in excerpts:
        source = (ROOT / str(block.directive("same-as"))).read_text()
        first = block.text.partition("\n")[0]
        line = next((line for line in source.splitlines() if line.strip() == first), None)
        assert line is not None, f"{shown.name}:{block.line}: no line `{first}`"
        indent = line.removesuffix(first)
        text = "\n".join(f"{indent}{line}" if line else "" for line in block.text.splitlines())
        assert f"{text}\n" in source, f"{shown.name}:{block.line} is not in {block.directive('same-as')}"


def test_the_two_commands_of_the_readme_are_targets_and_one_is_what_continuous_integration_runs() -> None:
    shown = [
        command.text
        for block in page("README.md").blocks()
        if block.language == "console"
        for command in commands(block)
    ]
    assert [command.split("#")[0].strip() for command in shown] == ["make demo", "make test"]
    assert {"demo", "test"} <= MAKE_TARGETS
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text() + "\n"
    assert (ROOT / "tests" / "integration" / "test_demo.py").exists()


def test_commands_are_shown_in_blocks_that_are_run() -> None:
    for shown in all_pages():
        for block in shown.blocks():
            typed = any(line.startswith("$ ") for line in block.text.splitlines())
            assert typed == (block.language in CONSOLE), f"{shown.name}:{block.line}"
    assert all((ROOT / path).exists() for path in PROGRAM_RUN_ELSEWHERE.values())
