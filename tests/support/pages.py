"""The documentation as data: fenced blocks with the directives above them, shown commands, links, tables.

A directive is an HTML comment, which no reader sees: `<!-- test: ... -->`. It belongs to the next block, or to the page
when it stands on the first line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_DIRECTIVE = re.compile(r"<!-- test: (.+) -->")
_FENCE = re.compile(r"```(\w*)")
_HEADING = re.compile(r"#{1,6} (.+)")
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: its language, its text without the fence, the directives above it, where it starts."""

    language: str
    text: str
    directives: tuple[str, ...]
    line: int

    def directive(self, name: str) -> str | None:
        """What follows `name` in a directive of the block; None without such a directive."""
        for directive in self.directives:
            if directive == name or directive.startswith(f"{name} "):
                return directive.removeprefix(name).strip()
        return None


@dataclass(frozen=True, slots=True)
class Command:
    """A command as shown: its text, and the lines shown below it."""

    text: str
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """One Markdown file of the repository."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def needs(self) -> tuple[str, ...]:
        """Directives of the page as a whole."""
        found = _DIRECTIVE.fullmatch(self.text.partition("\n")[0])
        return tuple(part.strip() for part in found[1].split(",")) if found else ()

    def blocks(self) -> Iterator[Block]:
        """Every fenced block, in order."""
        language: str | None = None
        lines: list[str] = []
        directives: list[str] = []
        start = 0
        for number, line in enumerate(self.text.splitlines(), 1):
            fence = _FENCE.fullmatch(line)
            if language is not None:
                if line == "```":
                    yield Block(language=language, text="\n".join(lines), directives=tuple(directives), line=start)
                    language, lines, directives = None, [], []
                else:
                    lines.append(line)
            elif fence:
                language, start = fence[1], number
            elif number > 1 and (found := _DIRECTIVE.fullmatch(line)):
                directives.append(found[1])
            elif line:
                assert not directives, f"{self.name}:{number}: the directive above belongs to no block"

    def prose(self) -> str:
        """The text without fenced blocks and comments."""
        return re.sub(r"^```.*?^```$|<!--.*?-->", "", self.text, flags=re.MULTILINE | re.DOTALL)

    def links(self) -> list[str]:
        """Targets of links."""
        return _LINK.findall(self.prose())

    def anchors(self) -> set[str]:
        """Fragments that its headings can be reached by, as GitHub makes them."""
        headings = (found[1] for line in self.prose().splitlines() if (found := _HEADING.fullmatch(line)))
        return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}

    def section(self, heading: str) -> str:
        """The text below a heading, down to the next heading of any level."""
        found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", self.text, re.MULTILINE | re.DOTALL)
        assert found is not None, f"{self.name} has no heading `{heading}`"
        return found[1]


def page(name: str) -> Page:
    return Page(ROOT / name)


def all_pages() -> list[Page]:
    """Every Markdown file that users read."""
    shown = ["README.md", "CHANGELOG.md", "SECURITY.md", "deploy/README.md", "examples/README.md"]
    return [*map(page, shown), *(Page(path) for path in sorted((ROOT / "docs").rglob("*.md")))]


def commands(block: Block) -> list[Command]:
    """The commands of a console block. A line that starts with `> ` goes on with the command above it."""
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], ()))
        elif line.startswith("> ") and found and not found[-1].shown:
            found[-1] = Command(f"{found[-1].text}\n{line[2:]}", ())
        else:
            assert found, f"line {block.line}: output before the first command"
            found[-1] = Command(found[-1].text, (*found[-1].shown, line))
    return found


def missing_line(shown: Sequence[str], output: str) -> str | None:
    """The first shown line that the output does not have, in order; None when it has them all.

    `…` stands for any characters of a line, and alone for any lines; runs of blanks count as one.
    """
    rest = [_squeezed(line) for line in output.splitlines()]
    for line in map(_squeezed, shown):
        if line in ("", "…"):
            continue
        wanted = re.compile(".*".join(map(re.escape, line.split("…"))))
        while rest:
            if wanted.fullmatch(rest.pop(0)):
                break
        else:
            return line
    return None


def table_rows(text: str) -> list[list[str]]:
    """The cells of every table row below a header, over all tables in the text."""
    rows: list[list[str]] = []
    body = False
    for line in text.splitlines():
        if not line.startswith("|"):
            body = False
        elif re.fullmatch(r"[|\-: ]+", line) and "-" in line:
            body = True
        elif body:
            rows.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def code_in(text: str) -> list[str]:
    """Everything in backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def _squeezed(line: str) -> str:
    return " ".join(line.split())
