"""The outcome of checking files that an operator wrote: nothing, or every problem with its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.screen import Screen
from authz_sidecar.strictjson import Json

if TYPE_CHECKING:
    from authz_sidecar.documents import Problem


def show_problems(screen: Screen, problems: Sequence[Problem]) -> typer.Exit:
    """Write `file:line:column: problem` for each, and return the exit to raise: a failed check."""
    if screen.json:
        screen.document({"ok": False, "problems": [_as_json(problem) for problem in problems]})
    else:
        for problem in problems:
            screen.line(str(problem))
        screen.line(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found", "red")
    return typer.Exit(ExitCode.CHECK_FAILED)


def _as_json(problem: Problem) -> Json:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "message": problem.message,
    }
