"""What is sent as arguments, what is refused, and when there is a digest."""

from __future__ import annotations

import enum
import hashlib
from typing import Any

import pytest

from authz_sidecar.client import RequestRejected
from authz_sidecar.client.arguments import encode_arguments, result_sha256


class Colour(enum.StrEnum):
    RED = "red"


class Names(dict[str, str]):
    pass


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (2**53, "2^53-1"),
        (-(2**53), "2^53-1"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (Colour.RED, "got Colour"),
        (Names(), "got Names"),
        (b"bytes", "got bytes"),
        ({1: "one"}, "member name"),
        ({"set": {1}}, "got set"),
        (nested(32), "nested too deeply"),
        ([1.5, object()], "got object"),
    ],
)
def test_what_would_not_arrive_as_it_is_is_refused_by_name(value: object, problem: str) -> None:
    with pytest.raises(RequestRejected) as caught:
        encode_arguments({"fine": 1, "wrong": value})

    assert caught.value.reason == "INVALID_REQUEST"
    assert problem in caught.value.message
    assert "`wrong`" in caught.value.message
    assert [violation.field for violation in caught.value.violations] == ["arguments_json"]


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(RequestRejected, match="surrogate"):
        encode_arguments({"name": "\ud800"})


def test_a_refusal_never_shows_a_value() -> None:
    with pytest.raises(RequestRejected) as caught:
        encode_arguments({"password": {"hunter2": b"hunter2"}})

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", [0.5, {"é": 1}, [{"ok": [1, 2, 0.0]}]])
def test_without_an_exact_digest_there_is_none(value: object) -> None:
    encoded = encode_arguments({"value": value})

    assert encoded.json
    assert encoded.sha256 == b""


def test_the_deepest_arguments_that_the_sidecar_accepts_are_sent() -> None:
    assert encode_arguments({"value": nested(31)}).sha256


@pytest.mark.parametrize(
    ("result", "hashed"),
    [(b"raw", b"raw"), ("Zoë", "Zoë".encode()), ([1, None, True], b"[1,null,true]"), (0, b"0")],
)
def test_a_result_is_hashed_as_it_is_or_in_canonical_form(result: object, hashed: bytes) -> None:
    assert result_sha256(result) == hashlib.sha256(hashed).digest()


@pytest.mark.parametrize("result", [None, 0.5, object(), "\ud800", {1: 2}, nested(40)])
def test_a_result_without_an_exact_form_has_no_digest_and_no_error(result: object) -> None:
    assert result_sha256(result) == b""
