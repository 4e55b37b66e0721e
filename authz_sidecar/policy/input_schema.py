"""The input of a tool: a closed subset of JSON Schema whose every value has a Cedar type.

Objects are closed whether or not the schema says so, because a member that nobody declared is a fact that no policy can
see. Anything outside the subset is refused when the bundle is loaded, not when a call arrives.
Source of the keywords: JSON Schema 2020-12, validation vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError

from authz_sidecar.documents import KeyPath, nearest
from authz_sidecar.strictjson import MAX_INTEGER, Json

MAX_INPUT_DEPTH = 8
# Cedar's decimal: a signed 64-bit count of ten-thousandths.
MAX_DECIMAL = Decimal(2**63 - 1) / 10000

_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$-]{0,63}")
_ANNOTATIONS = frozenset({"type", "title", "description", "default", "examples"})
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "string": _ANNOTATIONS | {"enum", "minLength", "maxLength", "pattern"},
    "integer": _ANNOTATIONS | {"enum"} | _BOUNDS,
    "number": _ANNOTATIONS | _BOUNDS,
    "boolean": _ANNOTATIONS,
    "array": _ANNOTATIONS | {"items", "minItems", "maxItems", "uniqueItems"},
    "object": _ANNOTATIONS | {"properties", "required", "additionalProperties"},
}


class ArgumentsInvalid(ValueError):
    """The arguments do not fit the tool's input. The text names members of the schema and never a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """A string, integer, boolean or number. A number becomes a Cedar decimal, with at most 4 fraction digits."""

    kind: Literal["string", "integer", "boolean", "number"]
    nullable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """A list; in Cedar a set, so order and repetition are not visible to policies."""

    items: InputType
    nullable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """A closed record. `required` members are always present; null counts as absent where it is allowed."""

    properties: Mapping[str, InputType]
    required: frozenset[str]
    nullable: bool = False

    def always_present(self, name: str) -> bool:
        """Whether the member is in every input: required, and never null."""
        return name in self.required and not self.properties[name].nullable


InputType: TypeAlias = Scalar | Array | Object


@dataclass(frozen=True, slots=True)
class InputSchema:
    """A compiled input. Made by `compile_input` only."""

    type: Object
    _validator: Any = field(repr=False, compare=False)

    def check(self, arguments: Mapping[str, Json]) -> None:
        """Raises ArgumentsInvalid when the arguments do not fit, or hold a number that Cedar cannot represent."""
        error: ValidationError | None = next(self._validator.iter_errors(arguments), None)
        if error is not None:
            raise ArgumentsInvalid(_explain(error))
        self.to_cedar(arguments)

    def to_cedar(self, arguments: Mapping[str, Json]) -> dict[str, Json]:
        """The arguments as the value of `context.input`; assumes that `check` passed. Raises ArgumentsInvalid."""
        return _record(self.type, arguments, "")


def compile_input(schema: Json) -> InputSchema | list[tuple[KeyPath, str]]:
    """Compile the `input` of a tool, or say everything that is wrong with it: path below `input`, and message."""
    compiler = _Compiler()
    compiled, normal = compiler.compile(schema, (), top=True)
    if compiler.problems or not isinstance(compiled, Object):
        return compiler.problems or [((), "expected `type: object`")]
    try:
        Draft202012Validator.check_schema(normal)
    except SchemaError as error:
        return [(tuple(error.absolute_path), f"not a JSON schema: {error.message}")]
    return InputSchema(compiled, Draft202012Validator(normal))


@dataclass(slots=True)
class _Compiler:
    """Walks a schema once: the typed form for Cedar, the closed and anchored form for validation, the problems."""

    problems: list[tuple[KeyPath, str]] = field(default_factory=list)

    def compile(self, schema: Json, path: KeyPath, *, top: bool = False) -> tuple[InputType, dict[str, Json]]:
        nothing = Scalar(kind="string")
        if not isinstance(schema, dict):
            self._say(path, "expected a mapping with `type`")
            return nothing, {}
        if len(path) > 2 * MAX_INPUT_DEPTH:
            self._say(path, f"nested deeper than {MAX_INPUT_DEPTH}")
            return nothing, {}
        kind, nullable = self._kind(schema.get("type"), path)
        if kind is None:
            return nothing, {}
        allowed = _KEYWORDS[kind] | ({"$schema"} if top else frozenset())
        for keyword in sorted(schema.keys() - allowed):
            hint = nearest(keyword, sorted(allowed)) or "; remove it, or say it in a policy"
            self._say((*path, keyword), f"keyword `{keyword}` is not supported for type `{kind}`{hint}")
        normal: dict[str, Json] = {key: schema[key] for key in sorted(allowed & schema.keys() - {"$schema"})}
        if kind == "object":
            return self._object(schema, normal, nullable, path)
        if kind == "array":
            items, normal["items"] = self.compile(schema.get("items"), (*path, "items"))
            if items.nullable:
                self._say((*path, "items"), "items may not be null")
            return Array(items=items, nullable=nullable), normal
        self._enum(schema, kind, path)
        if isinstance(pattern := schema.get("pattern"), str):
            normal["pattern"] = self._pattern(pattern, (*path, "pattern"))
        return Scalar(kind=cast(Any, kind), nullable=nullable), normal

    def _kind(self, given: Json, path: KeyPath) -> tuple[str | None, bool]:
        kinds = given if isinstance(given, list) else [given]
        named = [kind for kind in kinds if kind != "null"]
        if len(named) == 1 and len(kinds) - len(named) <= 1 and isinstance(named[0], str) and named[0] in _KEYWORDS:
            return named[0], len(kinds) == 2
        expected = ", ".join(f"`{kind}`" for kind in _KEYWORDS)
        self._say(path, f"`type` must be one of {expected}, or a list of one of them and `null`")
        return None, False

    def _object(
        self, schema: Mapping[str, Json], normal: dict[str, Json], nullable: bool, path: KeyPath
    ) -> tuple[InputType, dict[str, Json]]:
        if schema.get("additionalProperties", False) is not False:
            self._say((*path, "additionalProperties"), "inputs are closed; declare the members or write `false`")
        given, required = schema.get("properties", {}), schema.get("required", [])
        properties: dict[str, InputType] = {}
        closed: dict[str, Json] = {}
        if not isinstance(given, dict) or not isinstance(required, list):
            self._say(path, "`properties` must be a mapping and `required` a list")
            given, required = {}, []
        for name, member in given.items():
            here = (*path, "properties", name)
            if not _NAME.fullmatch(name) or name.startswith("__"):
                self._say(here, "expected a name of letters, digits and `_.$-`, not starting with `__`")
                continue
            properties[name], closed[name] = self.compile(member, here)
        for index, wanted in enumerate(required):
            if wanted not in properties:
                known = nearest(str(wanted), list(properties))
                self._say((*path, "required", index), f"`{wanted}` is not in `properties`{known}")
        normal |= {"properties": closed, "additionalProperties": False}
        names = frozenset(str(name) for name in required)
        return Object(properties=MappingProxyType(properties), required=names, nullable=nullable), normal

    def _enum(self, schema: Mapping[str, Json], kind: str, path: KeyPath) -> None:
        if "enum" not in schema:
            return
        values = schema["enum"]
        wanted = str if kind == "string" else int
        if not isinstance(values, list) or not values or any(type(value) is not wanted for value in values):
            self._say((*path, "enum"), f"expected a list of values of type `{kind}`")

    def _pattern(self, pattern: str, path: KeyPath) -> str:
        # `re.search` with `$` accepts a trailing newline, `\d` accepts digits of every script: neither is meant.
        if not (pattern.startswith("^") and pattern.endswith("$") and len(pattern) > 1):
            self._say(path, "write the pattern as `^...$`, so that it covers the whole value")
            return ""
        try:
            re.compile(pattern[1:-1])
        except re.error as error:
            self._say(path, f"not a regular expression: {error.msg}")
            return ""
        return rf"\A(?a:{pattern[1:-1]})\Z"

    def _say(self, path: KeyPath, message: str) -> None:
        self.problems.append((path, message))


def decimal_text(value: float) -> str:
    """A JSON number as Cedar's decimal literal. Raises ArgumentsInvalid for more than 4 fraction digits or overflow."""
    # Adding zero turns -0 into 0, so that one value has one spelling.
    exact = Decimal(repr(value)) + 0
    if not exact.is_finite() or abs(exact) > MAX_DECIMAL:
        raise ArgumentsInvalid("a number beyond the range of a decimal")
    text = f"{exact:.4f}"
    if Decimal(text) != exact:
        raise ArgumentsInvalid("a number with more than 4 fraction digits")
    return text


def _record(kind: Object, value: Mapping[str, Json], path: str) -> dict[str, Json]:
    # A member that the schema does not declare raises KeyError on purpose: `check` has refused it before.
    return {
        name: _cedar(kind.properties[name], member, f"{path}.{name}" if path else name)
        for name, member in value.items()
        if member is not None
    }


def _cedar(kind: InputType, value: Json, path: str) -> Json:
    match kind, value:
        case Object(), dict():
            return _record(kind, value, path)
        case Array(items=items), list():
            return [_cedar(items, item, f"{path}[]") for item in value]
        case Scalar(kind="number"), int() | float():
            try:
                return decimal_text(value)
            except ArgumentsInvalid as error:
                raise ArgumentsInvalid(f"`{path}`: {error}") from None
        case Scalar(kind="integer"), int() | float():
            # JSON Schema counts 1.0 as an integer; RFC 8785 writes it as 1, so both have the same digest.
            if abs(value) > MAX_INTEGER:
                raise ArgumentsInvalid(f"`{path}`: an integer beyond 2^53-1")
            return int(value)
        case _:
            return value


def _explain(error: ValidationError) -> str:
    path = "".join(_steps(error)).lstrip(".") or "arguments"
    if error.validator == "required":
        present: Any = error.instance
        missing = [name for name in cast("list[str]", error.validator_value) if name not in present]
        return f"`{path}`: `{missing[0]}` is required"
    if error.validator == "additionalProperties":
        return f"`{path}`: a member that the catalog does not declare"
    if error.validator in ("enum", "pattern"):
        return f"`{path}`: does not match `{error.validator}` of the catalog"
    return f"`{path}`: expected `{error.validator}` {error.validator_value}"


def _steps(error: ValidationError) -> Iterator[str]:
    # Indexes say where in the caller's data, names come from the catalog: neither is a value.
    for step in error.absolute_path:
        yield f"[{step}]" if isinstance(step, int) else f".{step}"
