"""Against the standard library's reader, and against a depth count that looks at every character."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from authz_sidecar.strictjson import MAX_INTEGER, MalformedJson, parse

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts
)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4), max_leaves=20
)
# Mostly punctuation, so that nearly valid texts with brackets inside and outside of strings are common.
_noise = st.text(st.sampled_from('[]{}",:\\ u0d8a1\n'), max_size=40)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


@given(value=_values, ascii_only=st.booleans(), indent=st.none() | st.integers(0, 2))
@settings(max_examples=200, deadline=None)
def test_every_honest_text_is_read_as_the_standard_library_reads_it(
    value: Any, ascii_only: bool, indent: int | None
) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert parse(raw, max_bytes=len(raw), max_depth=_depth(value)) == value


@given(value=_values)
@settings(max_examples=200, deadline=None)
def test_depth_limit_is_exact(value: Any) -> None:
    assume(_depth(value) > 0)
    raw = json.dumps(value).encode()
    try:
        parse(raw, max_bytes=len(raw), max_depth=_depth(value) - 1)
    except MalformedJson as error:
        assert "nested deeper" in str(error)
    else:
        raise AssertionError("a text one level too deep was accepted")


@given(text=_noise, max_depth=st.integers(0, 3))
@settings(max_examples=500, deadline=None)
def test_accepts_nothing_that_the_standard_library_refuses_and_raises_nothing_else(text: str, max_depth: int) -> None:
    raw = text.encode()
    try:
        value = parse(raw, max_bytes=1000, max_depth=max_depth)
    except MalformedJson:
        return
    assert value == json.loads(text)
    assert _depth(value) <= max_depth
    json.dumps(value, ensure_ascii=False).encode()


@given(raw=st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_bytes_of_any_kind_raise_malformed_json_and_nothing_else(raw: bytes) -> None:
    try:
        parse(raw, max_bytes=32, max_depth=2)
    except MalformedJson:
        return
    assert len(raw) <= 32


@given(pairs=st.lists(st.tuples(_texts, st.integers(0, 9)), min_size=2, max_size=5))
@settings(max_examples=200, deadline=None)
def test_object_is_accepted_exactly_when_its_names_differ(pairs: list[tuple[str, int]]) -> None:
    raw = ("{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in pairs) + "}").encode()
    try:
        parse(raw, max_bytes=4096, max_depth=1)
        accepted = True
    except MalformedJson:
        accepted = False
    assert accepted == (len({name for name, _ in pairs}) == len(pairs))
