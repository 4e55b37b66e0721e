"""What commands write to standard output: tables and lines for people, or JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from authz_sidecar.cli.terminal import printable
from authz_sidecar.strictjson import Json

if TYPE_CHECKING:
    from rich.console import Console


class OutputFormat(StrEnum):
    HUMAN = "human"
    JSON = "json"


OutputOption = Annotated[
    OutputFormat,
    typer.Option("--output", "-o", metavar="human|json", help="Write for people or for programs.", show_default=True),
]


Cell: TypeAlias = str | tuple[str, str]


class Screen:
    """Standard output in one format. All text is made printable here; styles are names of Rich styles.

    On a terminal Rich adds colour and wraps. Elsewhere text is plain, and what a script looks for is on one line.
    JSON is ASCII, so it needs no further care.
    """

    def __init__(self, output: OutputFormat) -> None:
        self.json = output is OutputFormat.JSON
        self._console = _console() if sys.stdout.isatty() and not self.json else None

    def document(self, value: Json) -> None:
        """One JSON document, indented."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")

    def json_line(self, value: Json) -> None:
        """One JSON value of a stream, on a line of its own, visible at once."""
        sys.stdout.write(json.dumps(value, separators=(",", ":"), ensure_ascii=True) + "\n")
        sys.stdout.flush()

    def line(self, text: str = "", style: str = "") -> None:
        """One line of text for people, visible at once."""
        self._write([(printable(text), style)])

    def fields(self, values: Mapping[str, str]) -> None:
        """Names and values, one pair a line, aligned."""
        shown = [(printable(name), printable(value)) for name, value in values.items()]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self._write([(name.ljust(width), "dim"), (f"  {value}", "")])

    def row(self, cells: Sequence[Cell], widths: Sequence[int]) -> None:
        """One row of a table that has no end, its cells padded to fixed widths; visible at once."""
        parts: list[tuple[str, str]] = []
        for (text, style), width in zip(map(_shown, cells), widths, strict=True):
            parts += [(text, style), (" " * (max(width - len(text), 0) + 2), "")]
        while parts and not parts[-1][0].strip():
            parts.pop()
        self._write(parts)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """A table. A cell is a text, or a text with a style."""
        shown = [[_shown(cell) for cell in row] for row in rows]
        if self._console is None:
            self._plain_table([[(column, "") for column in columns], *shown])
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in shown:
            table.add_row(*(Text(text, style=style) for text, style in row))
        self._console.print(table)

    def _plain_table(self, rows: Sequence[Sequence[tuple[str, str]]]) -> None:
        widths = [max(len(text) for text, _ in column) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (text.ljust(width) for (text, _), width in zip(row, widths, strict=True))
            self._write([("  ".join(cells).rstrip(), "")])

    def _write(self, parts: Sequence[tuple[str, str]]) -> None:
        if self._console is None:
            sys.stdout.write("".join(text for text, _ in parts) + "\n")
            sys.stdout.flush()
            return
        from rich.text import Text

        self._console.print(Text.assemble(*parts), soft_wrap=True)


def _shown(cell: Cell) -> tuple[str, str]:
    text, style = cell if isinstance(cell, tuple) else (cell, "")
    return printable(text), style


def _console() -> Console:
    from rich.console import Console

    # Text comes from callers: nothing in it is markup.
    return Console(markup=False, highlight=False, emoji=False)
