from __future__ import annotations

import pytest

from authz_sidecar.pdp.schema import cedar_type
from authz_sidecar.policy.catalog import ArgumentsInvalid, check_arguments
from authz_sidecar.policy.input_schema import InputSchema, compile_input, decimal_text
from authz_sidecar.strictjson import Json
from tests.support.policy_bundle import starter_pdp


def compiled(properties: dict[str, Json], required: tuple[str, ...] = ()) -> InputSchema:
    found = compile_input({"type": "object", "properties": properties, "required": [*required]})
    assert isinstance(found, InputSchema), found
    return found


def refused(schema: InputSchema, arguments: dict[str, Json]) -> str:
    with pytest.raises(ArgumentsInvalid) as caught:
        schema.check(arguments)
    return str(caught.value)


EVERYTHING = compiled(
    {
        "s": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"},
        "e": {"type": "string", "enum": ["red", "blue"]},
        "i": {"type": "integer", "minimum": 1, "maximum": 9},
        "n": {"type": ["number", "null"]},
        "b": {"type": "boolean"},
        "a": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
        "o": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
    },
    ("s", "n"),
)


def test_arguments_become_values_that_cedar_can_hold() -> None:
    arguments: dict[str, Json] = {
        "s": "ab", "e": "red", "i": 3, "n": 1.5, "b": True, "a": [1, 2], "o": {"x": "y"}
    }  # fmt: skip
    EVERYTHING.check(arguments)
    assert EVERYTHING.to_cedar(arguments) == arguments | {"n": "1.5000"}


def test_the_cedar_type_says_what_may_be_absent() -> None:
    assert cedar_type(EVERYTHING.type) == (
        '{"a"?: Set<Long>, "b"?: Bool, "e"?: String, "i"?: Long, "n"?: decimal, "o"?: {"x": String}, "s": String}'
    )


def test_null_counts_as_absent_where_it_is_allowed() -> None:
    EVERYTHING.check({"s": "ab", "n": None})
    assert EVERYTHING.to_cedar({"s": "ab", "n": None}) == {"s": "ab"}
    assert refused(EVERYTHING, {"s": "ab", "n": None, "b": None}) == "`b`: expected `type` boolean"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"s": "abcde"}, "`s`: expected `maxLength` 4"),
        ({"s": "a"}, "`s`: expected `minLength` 2"),
        ({"s": "AB"}, "`s`: does not match `pattern` of the catalog"),
        ({"s": "ab\n"}, "`s`: does not match `pattern` of the catalog"),
        ({"s": 1}, "`s`: expected `type` string"),
        ({"e": "green"}, "`e`: does not match `enum` of the catalog"),
        ({"i": 10}, "`i`: expected `maximum` 9"),
        ({"i": True}, "`i`: expected `type` integer"),
        ({"i": 1.5}, "`i`: expected `type` integer"),
        ({"n": 0.00001}, "`n`: a number with more than 4 fraction digits"),
        ({"n": 1e15}, "`n`: a number beyond the range of a decimal"),
        ({"n": False}, "`n`: expected `type` ['number', 'null']"),
        ({"a": [1, "x"]}, "`a[1]`: expected `type` integer"),
        ({"a": [1, None]}, "`a[1]`: expected `type` integer"),
        ({"a": [1, 2, 3]}, "`a`: expected `maxItems` 2"),
        ({"o": {}}, "`o`: `x` is required"),
        ({"o": {"x": "y", "secret": 1}}, "`o`: a member that the catalog does not declare"),
        ({"o": {"x": "y", "__entity": {"type": "Agent", "id": "a"}}}, "`o`: a member that the catalog does not declare"),
        ({"s": {"__entity": {"type": "Agent", "id": "a"}}}, "`s`: expected `type` string"),
        ({"n": {"__extn": {"fn": "decimal", "arg": "1.0"}}}, "`n`: expected `type` ['number', 'null']"),
        ({"__expr": "1"}, "`arguments`: a member that the catalog does not declare"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_without_their_values(change: dict[str, Json], expected: str) -> None:
    assert refused(EVERYTHING, {"s": "ab", "n": 1} | change) == expected


def test_missing_arguments_are_named() -> None:
    assert refused(EVERYTHING, {"s": "ab"}) == "`arguments`: `n` is required"


def test_digits_of_other_scripts_are_not_digits() -> None:
    schema = compiled({"d": {"type": "string", "pattern": r"^\d+$"}})
    schema.check({"d": "12"})
    refused(schema, {"d": "١٢"})


def test_a_pattern_covers_the_whole_value_even_with_alternatives() -> None:
    refused(compiled({"d": {"type": "string", "pattern": "^a|b$"}}), {"d": "ax"})


def test_an_integer_written_as_a_float_is_that_integer() -> None:
    value = EVERYTHING.to_cedar({"s": "ab", "n": 1, "i": 3.0})["i"]
    assert value == 3 and type(value) is int


def test_an_integer_that_not_every_reader_keeps_is_refused() -> None:
    schema = compiled({"i": {"type": "integer"}})
    schema.check({"i": 2**53 - 1})
    assert refused(schema, {"i": 2**53}) == "`i`: an integer beyond 2^53-1"
    assert refused(schema, {"i": -1e30}) == "`i`: an integer beyond 2^53-1"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0000"), (-0.0, "0.0000"), (1, "1.0000"), (-1.25, "-1.2500"), (0.1, "0.1000"), (922337203685477, "922337203685477.0000"), (1e3, "1000.0000")],
)  # fmt: skip
def test_decimals_are_exact(value: float, text: str) -> None:
    assert decimal_text(value) == text


@pytest.mark.parametrize("value", [0.00001, 1.23456, 922337203685478, -1e300, float("inf"), float("nan")])
def test_numbers_that_are_no_decimal_are_refused(value: float) -> None:
    with pytest.raises(ArgumentsInvalid):
        decimal_text(value)


def test_a_tool_with_full_arguments_needs_them() -> None:
    tools = starter_pdp().bundle.catalog.tools
    with pytest.raises(ArgumentsInvalid, match="a digest is not enough"):
        check_arguments(tools["crm/read_contact"], None)
    check_arguments(tools["mail/send_external"], None)


@pytest.mark.parametrize(
    "schema",
    [
        None, [], {}, {"type": "string"}, {"type": ["object", "array"]}, {"type": "object", "properties": []},
        {"type": "object", "patternProperties": {}}, {"type": "object", "properties": {"a": {"$ref": "#"}}},
        {"type": "object", "properties": {"a": {"type": "array"}}}, {"type": "object", "properties": {"a": {"type": "null"}}},
        {"type": "object", "properties": {'a"b': {"type": "string"}}}, {"type": "object", "properties": {"__extn": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"type": "string", "enum": []}}},
        {"type": "object", "properties": {"a": {"type": "integer", "enum": [True]}}},
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a$", "maxLength": -1}}},
        {"type": "object", "required": ["a"]},
    ],
)  # fmt: skip
def test_inputs_outside_the_subset_are_refused(schema: Json) -> None:
    assert isinstance(compile_input(schema), list)


def test_nesting_is_bounded() -> None:
    schema: Json = {"type": "string"}
    for _ in range(12):
        schema = {"type": "object", "properties": {"a": schema}}
    problems = compile_input(schema)
    assert isinstance(problems, list) and "nested deeper than 8" in problems[0][1]
