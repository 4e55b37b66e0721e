"""JSON that two readers would read differently is refused, one case per rule."""

from __future__ import annotations

import time

import pytest

from authz_sidecar.strictjson import MalformedJson, parse, parse_object


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a":1,"a":1}', "duplicate member 'a'"),
        (b'[{"a":{"b":1,"\\u0062":2}}]', "duplicate member 'b'"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"9007199254740992", "integer"),
        (b"-9007199254740992", "integer"),
        (b"1" * 5000, "integer"),
        (b"1e400", "double"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b'["\\\\", "\\uD83D"]', "surrogate"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b"[1,]", "not JSON"),
        (b"01", "not JSON"),
        (b'"tab\there"', "not JSON"),
        (b"[[[[[]]]]]", "deeper than 4"),
        (b'{"a":[{"b":[{}]}]}', "deeper than 4"),
        (b'["' + b"a" * 6000 + b'"]', "longer than 6000"),
    ],
)
def test_ambiguous_json_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(MalformedJson, match=message):
        parse(raw, max_bytes=6000, max_depth=4)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a":[[[1]]]}', {"a": [[[1]]]}),
        (b"9007199254740991", 2**53 - 1),
        (b"-9007199254740991", 1 - 2**53),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"[[[[[[{{{{{{"', "[[[[[[{{{{{{"),
        (b'["\\"[[[[[", "\\\\"]', ['"[[[[[', "\\"]),
        (b" \n[ 1.5 ]\t", [1.5]),
    ],
)
def test_unambiguous_json_is_read(raw: bytes, value: object) -> None:
    assert parse(raw, max_bytes=6000, max_depth=4) == value


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"{}"', b"null"])
def test_what_must_be_an_object_is_one(raw: bytes) -> None:
    with pytest.raises(MalformedJson, match="object"):
        parse_object(raw, max_bytes=100, max_depth=4)


@pytest.mark.parametrize("raw", [b'"' + b'\\"' * 250_000, b'"a' * 250_001, b"[]" * 250_000, b'["' + b"\\" * 500_001])
def test_hostile_half_megabyte_takes_linear_time(raw: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(MalformedJson):
        parse(raw + b"[" * 40, max_bytes=1_000_000, max_depth=32)
    # Quadratic scanning of any of these takes minutes.
    assert time.perf_counter() - started < 5
