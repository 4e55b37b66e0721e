"""`AUTHZ_SIDECAR_*` variables and `--set` flags, laid over the parsed file before it is validated.

The target's type decides how text is read: numbers and booleans as such, lists and mappings as YAML flow (`[a, b]`),
everything else as it stands. A value from outside the file is reported under the name of its variable or flag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from authz_sidecar.documents import (
    DocumentError,
    Place,
    Problem,
    YamlDocument,
    nearest,
    parse_yaml,
    path_text,
)
from authz_sidecar.strictjson import Json

PREFIX = "AUTHZ_SIDECAR_"
# Read by the command line and the client; no keys of the file.
_NOT_KEYS = frozenset({"CONFIG", "TARGET"})
# What Kubernetes sets for a Service named `authz-sidecar` (documentation of `enableServiceLinks`).
_SERVICE_LINK = re.compile(r"(SERVICE_HOST|SERVICE_PORT|PORT)(_[A-Z0-9_]+)?")


@dataclass(frozen=True, slots=True)
class Setting:
    """One value from outside the file. `label` is how a problem names it."""

    label: str
    path: tuple[str, ...]
    text: str


def from_environment(environment: Mapping[str, str]) -> list[Setting]:
    """`AUTHZ_SIDECAR_HTTP__ADDRESS` -> `http.address`, in the order of names."""
    settings = []
    for name in sorted(environment):
        key = name.removeprefix(PREFIX)
        if key == name or key in _NOT_KEYS or _SERVICE_LINK.fullmatch(key):
            continue
        settings.append(Setting(f"environment {name}", tuple(key.lower().split("__")), environment[name]))
    return settings


def from_flags(flags: Sequence[str]) -> list[Setting]:
    """`http.address=127.0.0.1:9180` -> a setting. Raises DocumentError for a flag without `=`."""
    settings = []
    for flag in flags:
        key, equals, text = flag.partition("=")
        if not equals:
            raise DocumentError([Problem(file=f"--set {flag[:64]}", message="expected `key.key=value`")])
        settings.append(Setting(f"--set {key}", tuple(key.split(".")), text))
    return settings


def lay_over(document: YamlDocument, settings: Sequence[Setting], model: type[BaseModel]) -> YamlDocument:
    """The document with every setting in its place; later settings win.

    Raises:
        DocumentError: for every setting that names no key, names a whole section, or cannot be read as the key's type.
    """
    root = document.value if isinstance(document.value, dict) else None
    if root is None or not settings:
        return document
    problems: list[Problem] = []
    values = dict(document.values)
    for setting in settings:
        try:
            value = _read(setting, _annotation(setting, model))
        except DocumentError as error:
            problems.extend(error.problems)
            continue
        merged = _placed(root, setting.path, value)
        if merged is not None:
            root = merged
            # Places below a replaced value are the file's no longer.
            values = {path: place for path, place in values.items() if path[: len(setting.path)] != setting.path}
            for depth in range(1, len(setting.path)):
                # A section that only this setting opens: without a place, problems would be named without it.
                values.setdefault(setting.path[:depth], Place(0, 0))
            values[setting.path] = Place(0, 0)
    if problems:
        raise DocumentError([*document.problems, *problems])
    return replace(document, value=root, values=values)


def name_origins(error: DocumentError, settings: Sequence[Setting]) -> DocumentError:
    """The error with problems of overlaid values under the name of their variable or flag."""
    return DocumentError([_with_origin(problem, settings) for problem in error.problems])


def _with_origin(problem: Problem, settings: Sequence[Setting]) -> Problem:
    for setting in reversed(settings):
        key = path_text(setting.path)
        if problem.path == key or problem.path.startswith((f"{key}.", f"{key}[")):
            return replace(problem, file=setting.label, line=0, column=0)
    return problem


def _annotation(setting: Setting, model: type[BaseModel]) -> Any:
    """The type of the key that a setting names. Raises DocumentError."""
    section: type[BaseModel] = model
    for depth, part in enumerate(setting.path):
        info = section.model_fields.get(part)
        if info is None:
            hint = nearest(part, list(section.model_fields))
            raise _refused(setting, f"unknown key `{path_text(setting.path[: depth + 1])}`{hint}")
        inner = _section(info.annotation)
        if inner is None and depth + 1 < len(setting.path):
            key = path_text(setting.path[: depth + 1])
            raise _refused(setting, f"`{key}` has no keys of its own to set; set it as a whole")
        if inner is None:
            return info.annotation
        section = inner
    keys = ", ".join(f"`{name}`" for name in section.model_fields)
    raise _refused(setting, f"`{path_text(setting.path)}` is a section; set one of its keys: {keys}")


def _read(setting: Setting, annotation: Any) -> Json:
    kinds = _kinds(annotation)
    text = setting.text.strip()
    # Python carries bytes of the environment that are not UTF-8 as lone surrogates.
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise _refused(setting, "not UTF-8 text")
    if NoneType in kinds and not text:
        return None
    if bool in kinds:
        if text not in ("true", "false"):
            raise _refused(setting, f"expected `true` or `false`, got `{text[:16]}`")
        return text == "true"
    if int in kinds:
        if not re.fullmatch(r"0|[1-9][0-9]{0,15}", text):
            raise _refused(setting, f"expected a whole number, got `{text[:16]}`")
        return int(text)
    if kinds & {tuple, Mapping}:
        try:
            return parse_yaml(setting.label, text.encode()).value
        except DocumentError as error:
            raise _refused(setting, error.problems[0].message) from None
    return text


def _placed(root: dict[str, Json], path: Sequence[str], value: Json) -> dict[str, Json] | None:
    """A copy of `root` with `value` at `path`; None when the file has something other than a section on the way."""
    if len(path) == 1:
        return {**root, path[0]: value}
    below = root.get(path[0])
    if below is None:
        below = {}
    if not isinstance(below, dict):
        return None
    placed = _placed(below, path[1:], value)
    return None if placed is None else {**root, path[0]: placed}


def _refused(setting: Setting, message: str) -> DocumentError:
    return DocumentError([Problem(file=setting.label, message=message)])


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section behind an annotation, through `Optional`; None for a value."""
    for kind in _kinds(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _kinds(annotation: Any) -> set[Any]:
    """The plain types of an annotation, through `Annotated` and unions; containers without what they hold."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return {kind for part in get_args(annotation) for kind in _kinds(part)}
    return {origin or annotation}
