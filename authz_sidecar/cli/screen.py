"""What commands write to standard output: tables and lines for people, or JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from authz_sidecar.cli.terminal import printable
from authz_sidecar.strictjson import Json

if TYPE_CHECKING:
    from rich.console import Console

# Off a terminal nothing is wrapped or cut: a value that a script greps for stays on its line.
_UNBOUNDED_COLUMNS = 10_000


class OutputFormat(StrEnum):
    HUMAN = "human"
    JSON = "json"


OutputOption = Annotated[
    OutputFormat, typer.Option("--output", "-o", help="Write for people or for programs.", show_default=True)
]


class Screen:
    """Standard output in one format. All text is made printable here; styles are names of Rich styles.

    Colour and borders appear on a terminal only. JSON is ASCII, so it needs no further care.
    """

    def __init__(self, output: OutputFormat) -> None:
        self.json = output is OutputFormat.JSON
        self._console: Console | None = None

    def document(self, value: Json) -> None:
        """One JSON document, indented."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")

    def json_line(self, value: Json) -> None:
        """One JSON value of a stream, on a line of its own, visible at once."""
        sys.stdout.write(json.dumps(value, separators=(",", ":"), ensure_ascii=True) + "\n")
        sys.stdout.flush()

    def line(self, text: str = "", style: str = "") -> None:
        """One line of text for people."""
        from rich.text import Text

        self.console.print(Text(printable(text), style=style), soft_wrap=True)

    def fields(self, values: Mapping[str, str]) -> None:
        """Names and values, one pair a line, aligned."""
        from rich.text import Text

        shown = [(printable(name), printable(value)) for name, value in values.items()]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.console.print(Text.assemble((name.ljust(width), "dim"), "  ", value), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str | tuple[str, str]]]) -> None:
        """A table. A cell is a text, or a text with a style."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        on_terminal = self.console.is_terminal
        # One header word per column and two spaces between columns: `awk` and eyes read the same table.
        table = Table(box=box.SIMPLE_HEAD if on_terminal else None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            cells = [cell if isinstance(cell, tuple) else (cell, "") for cell in row]
            table.add_row(*(Text(printable(text), style=style) for text, style in cells))
        self.console.print(table)

    @property
    def console(self) -> Console:
        """Rich's console, made at first use: importing it costs more than most commands."""
        if self._console is None:
            from rich.console import Console

            terminal = sys.stdout.isatty()
            self._console = Console(
                force_terminal=terminal,
                width=None if terminal else _UNBOUNDED_COLUMNS,
                markup=False,
                highlight=False,
                emoji=False,
            )
        return self._console
