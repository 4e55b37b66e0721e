"""Canonical JSON is what another RFC 8785 implementation writes, and everything outside the profile is refused by name."""

from __future__ import annotations

import enum

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from authz_sidecar.ledger.canonical import MAX_DEPTH, NotCanonical, canonical
from authz_sidecar.strictjson import MAX_INTEGER, Json

names = st.text(st.characters(max_codepoint=127), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)
documents = st.recursive(
    scalars, lambda below: st.lists(below, max_size=5) | st.dictionaries(names, below, max_size=5), max_leaves=30
)


@given(documents)
def test_same_bytes_as_another_implementation(document: Json) -> None:
    assert canonical(document) == rfc8785.dumps(document)  # type: ignore[arg-type]


@given(documents)
def test_reading_and_writing_again_changes_nothing(document: Json) -> None:
    written = canonical(document)
    assert orjson.loads(written) == document
    assert canonical(orjson.loads(written)) == written


class Colour(enum.StrEnum):
    RED = "red"


class Text(str):
    __slots__ = ()


outside = st.sampled_from(
    [1.0, float("nan"), -0.0, 1e16, MAX_INTEGER + 1, -MAX_INTEGER - 1, "\ud800", Colour.RED, Text("x"), (), b"", object(),
     {"é": 1}, {1: 1}, {Text("x"): 1}, {None: 1}, {"\ud800": 1}]
)  # fmt: skip


@given(st.lists(st.integers(0, 2) | names, max_size=6), outside)
def test_outside_the_profile_is_refused_wherever_it_stands(path: list[int | str], bad: object) -> None:
    value, place = bad, ""
    for step in reversed(path):
        value = {step: value} if isinstance(step, str) else [*([None] * step), value]
        place = (f".{step}" if isinstance(step, str) else f"[{step}]") + place
    with pytest.raises(NotCanonical) as caught:
        canonical(value)  # type: ignore[arg-type]
    assert caught.value.path == "$" + place


def test_nesting_is_bounded_and_deep_values_do_not_exhaust_the_stack() -> None:
    def nested(containers: int) -> Json:
        value: Json = 1
        for _ in range(containers):
            value = [value]
        return value

    assert canonical(nested(MAX_DEPTH)).count(b"[") == MAX_DEPTH
    for containers in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(NotCanonical, match="nested deeper"):
            canonical(nested(containers))
