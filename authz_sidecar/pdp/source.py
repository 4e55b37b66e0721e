"""Where things stand in Cedar text. The engine reports errors without a place, so the text is cut into statements here.

The cut knows comments, strings and `;`, nothing else; what a statement means is the engine's business alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from authz_sidecar.documents import Place, Problem

_TOKEN = re.compile(
    r"""(?P<skip>//[^\n]*|\s+)|"(?:[^"\\]|\\.)*"?|[A-Za-z_]\w*|\d+|::|==|!=|<=|>=|&&|\|\||.""",
    re.DOTALL,
)
# The engine descends into what is nested with the native stack, and a text that exhausts it ends the process. Measured
# with cedarpy 4.12.2 on an 8 MiB stack: 90 brackets inside each other pass, 1,000 crash; 1,000 operators in a row pass,
# 10,000 crash. These bounds hold on 1 MiB too.
MAX_BRACKETS = 40
MAX_OPERATORS = 200

_DEEPER = frozenset({"if", "then", "else", "in", "has", "like", "is", "when", "unless", "::"})
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
# The engine's words for a text that could still be completed.
_UNFINISHED = "unexpected end of input"


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy as it stands in its file, from its first annotation to its `;`.

    Attributes:
        file: path in the bundle.
        text: without the blanks and comments around it.
        line, column: where it begins, from 1.
    """

    file: str
    text: str
    line: int
    column: int

    def place(self, offset: int) -> Place:
        """The place in the file of a character of `text`."""
        before = self.text[:offset]
        last = before.rfind("\n")
        if last < 0:
            return Place(self.line, self.column + offset)
        return Place(self.line + before.count("\n"), offset - last)

    def problem(self, message: str, offset: int = 0) -> Problem:
        """A problem at a character of `text`, by default at the beginning of the statement."""
        place = self.place(offset)
        return Problem(file=self.file, line=place.line, column=place.column, message=message)


def split(file: str, text: str) -> list[Statement]:
    """The statements of a file, in order. Text after the last `;` is a statement too, for the engine to refuse."""
    statements: list[Statement] = []
    spans: list[tuple[int, int]] = []
    start: int | None = None
    end = 0
    for token in _TOKEN.finditer(text):
        if token["skip"]:
            continue
        start = token.start() if start is None else start
        end = token.end()
        if token[0] == ";":
            spans.append((start, end))
            start = None
    if start is not None:
        spans.append((start, end))
    line, counted = 1, 0
    for begin, stop in spans:
        line += text.count("\n", counted, begin)
        counted = begin
        statements.append(Statement(file, text[begin:stop], line, begin - text.rfind("\n", 0, begin)))
    return statements


def depth_problem(statement: Statement, *, angles: bool = False) -> Problem | None:
    """What is nested too deeply for the engine, at the token that goes too far. Must come before any engine call.

    Args:
        statement: the text.
        angles: whether `<` and `>` are brackets, as in a schema.
    """
    # Operators in the open segment of every open bracket; a comma or `;` begins a new segment.
    counts = [0]
    for token in _TOKEN.finditer(statement.text):
        text = token[0]
        if token["skip"] or text[0] == '"':
            continue
        if text in _BRACKETS or (angles and text == "<"):
            counts.append(0)
        elif len(counts) > 1 and (text in _BRACKETS.values() or (angles and text == ">")):
            counts.pop()
            counts[-1] += 1
        elif text in (",", ";"):
            counts[-1] = 0
        elif text in _DEEPER or not (text[0].isalnum() or text[0] in "_@;"):
            counts[-1] += 1
        if len(counts) > MAX_BRACKETS + 1:
            return statement.problem(f"more than {MAX_BRACKETS} brackets inside each other", token.start())
        if sum(counts) > MAX_OPERATORS:
            return statement.problem(f"more than {MAX_OPERATORS} operators in one expression", token.start())
    return None


def syntax_problem(statement: Statement, parse: Callable[[str], object], kind: str = "policy") -> Problem | None:
    """What is wrong with a text that does not parse, at the token that made it wrong; None when it parses.

    Cedar's parser reads left to right: a beginning of the text that can still be completed fails with "unexpected end
    of input", and any other failure means that the beginning holds the error. So the shortest failing beginning ends
    with the token to blame.
    """
    ends = [token.end() for token in _TOKEN.finditer(statement.text) if not token["skip"]]
    whole = _failure(parse, statement.text)
    if whole is None:
        return None
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        failed = _failure(parse, statement.text[: ends[middle]])
        if failed is None or _UNFINISHED in failed:
            low = middle + 1
        else:
            high = middle
    if low == len(ends) - 1:
        # Nothing is wrong before the end: the text is unfinished, or complete and meaningless (an unknown variable).
        offset = ends[-1] if _UNFINISHED in whole else offset_of(statement.text, whole)
        return statement.problem(f"not a Cedar {kind}: {whole}", offset)
    token = [found for found in _TOKEN.finditer(statement.text) if not found["skip"]][low]
    return statement.problem(f"not a Cedar {kind}: {whole}", token.start())


def _failure(parse: Callable[[str], object], text: str) -> str | None:
    try:
        parse(text)
    except ValueError as error:
        return str(error)
    return None


def offset_of(text: str, message: str) -> int:
    """Where the thing that an engine message is about stands in `text`; 0 when that cannot be told.

    A message quotes names in backticks or puts one after the last colon. The first quoted name that stands in the text
    as a token, the last part of a dotted one, is taken.
    """
    quoted = re.findall(r"`([^`]+)`", message)
    after_colon = message.rpartition(": ")[2]
    for name in [*quoted, after_colon]:
        last = re.split(r"[.\s]", name.strip())[-1] if '"' not in name else name
        for candidate in (name, last):
            found = _find(text, candidate)
            if found is not None:
                return found
    return 0


def _find(text: str, wanted: str) -> int | None:
    """The offset of a run of tokens, comments and annotations' text aside."""
    if not wanted:
        return None
    position = text.find(wanted)
    while position >= 0:
        for token in _TOKEN.finditer(text):
            if token.start() == position and not token["skip"]:
                return position
            if token.start() > position:
                break
        position = text.find(wanted, position + 1)
    return None
