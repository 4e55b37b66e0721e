"""YAML that operators write: parsed strictly, validated by a pydantic model, every problem with file, line and column.

The accepted YAML is small on purpose: one document, plain and quoted scalars, block and flow collections. Anchors,
aliases, tags and duplicate keys are refused. Plain scalars resolve as in JSON (`true`, `false`, `null`, numbers), so
`no`, `on`, `010` and `12:30` stay strings instead of becoming what YAML 1.1 makes of them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from authz_sidecar.errors import OperatorError
from authz_sidecar.strictjson import Json

MAX_DOCUMENT_BYTES = 1 << 20
MAX_DEPTH = 32

KeyPath: TypeAlias = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,18})?(?:[eE][-+]?[0-9]{1,3})?")
_LITERALS: Mapping[str, bool | None] = {
    "": None,
    "~": None,
    "null": None,
    "true": True,
    "false": False,
}
# What YAML 1.1 readers take for a boolean; here it is text, and the message says so.
_OLD_BOOLEANS = frozenset({"yes", "no", "on", "off", "y", "n"})


class DocumentModel(BaseModel):
    """Base of models for operator-written documents: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong in one file.

    Attributes:
        file: the file as the operator knows it.
        line: from 1; 0 when the problem has no place in the file.
        column: from 1; 0 when the problem has no place in the line.
        path: where in the document, like `tools[2].audience`; empty for the whole document.
        message: what was expected, what was found, what to do.
    """

    file: str
    line: int = 0
    column: int = 0
    path: str = ""
    message: str

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        path = f"`{self.path}`: " if self.path else ""
        return f"{self.file}{place}: {path}{self.message}"


class DocumentError(OperatorError):
    """A document does not parse or does not say what its model needs. `problems` is never empty."""

    reason = "DOCUMENT_INVALID"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlDocument:
    """A parsed document that no model has seen yet.

    Attributes:
        label: the file's name as it appears in problems.
        value: the document as JSON values.
        values: where each value begins.
        keys: where each mapping key stands.
        problems: duplicate keys; reported together with what the model finds.
    """

    label: str
    value: Json
    values: Mapping[KeyPath, Place]
    keys: Mapping[KeyPath, Place]
    problems: tuple[Problem, ...] = ()

    def problem(self, path: KeyPath, message: str, *, at_key: bool = False) -> Problem:
        """A problem at the place of `path`, or of its nearest ancestor that stands in the document."""
        known = tuple(path)
        while known not in self.values and known:
            known = known[:-1]
        place = self.values.get(known, Place(1, 1))
        if at_key:
            place = self.keys.get(known, place)
        return Problem(file=self.label, line=place.line, column=place.column, path=path_text(path), message=message)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M]):
    """A validated model with its document, for checks that need more than one file or field."""

    model: M
    document: YamlDocument


def load_yaml(path_label: str, raw: bytes, model: type[M], *, max_bytes: int = MAX_DOCUMENT_BYTES) -> M:
    """Parse and validate one document.

    Args:
        path_label: the file's name for messages; the file itself is not opened.
        raw: UTF-8 YAML.
        model: what the document must look like. Validation is pydantic's strict mode for JSON: no coercion between
            strings, numbers and booleans; dates, times, durations and paths are written as strings.
        max_bytes: longest document accepted.

    Raises:
        DocumentError: with every problem found.
    """
    return load_document(path_label, raw, model, max_bytes=max_bytes).model


def load_document(path_label: str, raw: bytes, model: type[M], *, max_bytes: int = MAX_DOCUMENT_BYTES) -> Loaded[M]:
    """Like `load_yaml`, and keeps the places of all values. Raises DocumentError."""
    document = parse_yaml(path_label, raw, max_bytes=max_bytes)
    return Loaded(validate(document, model), document)


def validate(document: YamlDocument, model: type[M]) -> M:
    """Validate a parsed document. Raises DocumentError with the document's own problems and the model's."""
    found: M | None = None
    problems = list(document.problems)
    try:
        found = model.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        problems.extend(_model_problem(document, model, detail) for detail in details)
    if found is None or problems:
        raise DocumentError(sorted(problems, key=lambda p: (p.line, p.column, p.path)))
    return found


def parse_yaml(path_label: str, raw: bytes, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> YamlDocument:
    """Parse one YAML document. Raises DocumentError for anything outside the accepted subset."""
    if len(raw) > max_bytes:
        raise _refusal(path_label, None, f"{len(raw)} bytes; the limit is {max_bytes}")
    try:
        text = raw.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        raise _refusal(path_label, _place_of(raw, error.start), "not UTF-8; save the file as UTF-8") from None
    composer = _Composer(path_label)
    try:
        value = composer.compose(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else None
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise _refusal(path_label, place, f"not YAML: {said}") from None
    except yaml.reader.ReaderError as error:
        place = _place_of(text.encode("utf-8"), len(text[: error.position].encode("utf-8")))
        raise _refusal(path_label, place, "a control character; write it as an escape in double quotes") from None
    if composer.fatal:
        raise DocumentError(composer.problems)
    return YamlDocument(
        label=path_label,
        value=value,
        values=composer.values,
        keys=composer.keys,
        problems=tuple(composer.problems),
    )


def path_text(path: Sequence[str | int]) -> str:
    """`("tools", 2, "audience")` as `tools[2].audience`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def nearest(word: str, known: Sequence[str]) -> str:
    """` (did you mean ...?)` when one of `known` is close to `word`, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _refusal(label: str, place: Place | None, message: str) -> DocumentError:
    found = place or Place(0, 0)
    return DocumentError([Problem(file=label, line=found.line, column=found.column, message=message)])


def _place_of(raw: bytes, offset: int) -> Place:
    before = raw[:offset]
    return Place(before.count(b"\n") + 1, offset - (before.rfind(b"\n") + 1) + 1)


@dataclass(slots=True)
class _Composer:
    """Builds values from parser events. The recursion is bounded by MAX_DEPTH."""

    label: str
    fatal: bool = False
    problems: list[Problem] = field(default_factory=list)
    values: dict[KeyPath, Place] = field(default_factory=dict)
    keys: dict[KeyPath, Place] = field(default_factory=dict)

    def compose(self, events: Iterator[yaml.Event]) -> Json:
        value: Json = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(event, (), "a second document; keep one document per file")
                    break
            elif isinstance(event, yaml.NodeEvent):
                value = self._node(event, events, ())
        if not documents:
            self.problems.append(Problem(file=self.label, line=1, column=1, message="the file is empty"))
            self.fatal = True
        return value

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], path: KeyPath) -> Json:
        self.values[path] = _place(event)
        if len(path) > MAX_DEPTH:
            raise _refusal(self.label, _place(event), f"nested deeper than {MAX_DEPTH}")
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, path, "an alias; write the value out")
            return None
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self._refuse(event, path, "an anchor; remove it and write the value out where it is needed")
        if getattr(event, "tag", None) is not None:
            self._refuse(event, path, "a tag; write a plain or a quoted value")
        if isinstance(event, yaml.ScalarEvent):
            try:
                return _scalar(event)
            except UnicodeDecodeError:
                self._refuse(event, path, "a lone surrogate; no other program could read it")
                return None
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path)
        return self._mapping(events, path)

    def _sequence(self, events: Iterator[yaml.Event], path: KeyPath) -> Json:
        items: list[Json] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, events, (*path, len(items))))
        return items

    def _mapping(self, events: Iterator[yaml.Event], path: KeyPath) -> Json:
        members: dict[str, Json] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
                raise _refusal(self.label, _place(event), "a mapping key that is not plain text")
            here = (*path, event.value)
            if event.value in members:
                first = self.keys[here]
                self._note(event, here, f"duplicate key; first given on line {first.line}")
                self._node(next(events), events, (*path, f"{event.value} (again)"))
                continue
            self.keys[here] = _place(event)
            # The key counts as seen while its value is read, so that order of problems follows the file.
            members[event.value] = None
            members[event.value] = self._node(next(events), events, here)
        return members

    def _note(self, event: yaml.Event, path: KeyPath, message: str) -> None:
        place = _place(event)
        self.problems.append(
            Problem(file=self.label, line=place.line, column=place.column, path=path_text(path), message=message)
        )

    def _refuse(self, event: yaml.Event, path: KeyPath, message: str) -> None:
        self.fatal = True
        self._note(event, path, message)


def _place(event: yaml.Event) -> Place:
    mark = event.start_mark
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)


def _scalar(event: yaml.ScalarEvent) -> Json:
    text: str = event.value
    if event.style is not None:
        # PyYAML leaves the two halves of a JSON escape such as \ud83d\ude00 apart.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    if text in _LITERALS:
        return _LITERALS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        number = float(text)
        return number if abs(number) != float("inf") else text
    return text


def _model_problem(document: YamlDocument, model: type[BaseModel], detail: ErrorDetails) -> Problem:
    path, kind = detail["loc"], detail["type"]
    # Pydantic names union branches and validators in the location; only parts that stand in the document help a reader.
    shown: KeyPath = ()
    for part in path:
        if (*shown, part) in document.values or part == path[-1]:
            shown = (*shown, part)
    if kind == "extra_forbidden":
        unknown = str(path[-1])
        hint = nearest(unknown, _known_keys(model, path[:-1]))
        return document.problem(shown, f"unknown key{hint}", at_key=True)
    if kind == "missing":
        return document.problem(shown, "required, but missing")
    return document.problem(shown, _said(detail))


def _said(detail: ErrorDetails) -> str:
    kind, given = detail["type"], detail["input"]
    message = detail["msg"]
    if kind in ("value_error", "assertion_error"):
        return message.partition(", ")[2] or message
    message = message[:1].lower() + message[1:]
    if kind in ("literal_error", "enum") and isinstance(given, str | int):
        return f"{message}, got `{str(given)[:64]}`"
    if kind == "bool_type" and isinstance(given, str) and given.lower() in _OLD_BOOLEANS:
        return f"{message}; write `true` or `false`"
    return message


def _known_keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys that a mapping at `path` may have, over all models that can stand there."""
    models: set[type[BaseModel]] = {model}
    for part in path:
        inner: set[type[BaseModel]] = set()
        for candidate in models:
            for name, info in candidate.model_fields.items():
                if part in (name, info.alias):
                    inner |= _models_in(info.annotation)
        # A list index or a mapping key adds no model: the element's models were collected with the field.
        models = inner or models
    return sorted({info.alias or name for found in models for name, info in found.model_fields.items()})


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {found for part in get_args(annotation) for found in _models_in(part)}
