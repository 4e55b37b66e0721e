"""Which arguments a decorated function is authorized with."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from authz_sidecar.client import Grant, Permitted
from authz_sidecar.client.binding import Binding

GRANT = Grant(
    Permitted(
        tool="crm/read_contact",
        request_id="r",
        decision_id="d",
        reason_code="permitted",
        policies=(),
        policy_digest="",
        resource="",
        log="",
        index=0,
        recalled=False,
        token="secret",
        audience="",
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
)


def plain(a: int, b: int = 2, *, c: int = 3) -> Any:
    return a, b, c


def keyword_only(a: int, *, grant: Grant, b: int = 2) -> Any:
    return a, b, grant


def last(a: int, grant: Grant) -> Any:
    return a, grant


def rest(a: int, /, b: int, **more: int) -> Any:
    return a, b, more


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "arguments", "result"),
    [
        (plain, (1,), {}, {"a": 1, "b": 2, "c": 3}, (1, 2, 3)),
        (plain, (), {"c": 5, "b": 4, "a": 1}, {"a": 1, "b": 4, "c": 5}, (1, 4, 5)),
        (keyword_only, (1,), {"b": 4}, {"a": 1, "b": 4}, (1, 4, GRANT)),
        (last, (1,), {}, {"a": 1}, (1, GRANT)),
        (rest, (1, 2), {"x": 3}, {"a": 1, "b": 2, "x": 3}, (1, 2, {"x": 3})),
        (functools.partial(plain, c=9), (1,), {}, {"a": 1, "b": 2, "c": 9}, (1, 2, 9)),
    ],
)
def test_arguments_are_named_and_the_function_gets_the_same(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    arguments: dict[str, Any],
    result: Any,
) -> None:
    bound = Binding(function).bind(args, kwargs)

    assert bound.arguments == arguments
    assert bound.run(GRANT) == result


def test_a_caller_cannot_pass_a_grant_of_its_own() -> None:
    with pytest.raises(TypeError, match="grant"):
        Binding(keyword_only).bind((1,), {"grant": object()})


def test_one_name_cannot_carry_two_arguments() -> None:
    with pytest.raises(TypeError, match="two arguments"):
        Binding(rest).bind((1, 2), {"a": 3})


def variadic(*parts: str) -> None: ...


def grant_first(grant: Grant, a: int) -> None: ...


def grant_positional(grant: Grant, /) -> None: ...


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        (variadic, "name its parameters"),
        (grant_first, "keyword-only"),
        (grant_positional, "keyword-only"),
        (generator, "generator"),
    ],
)
def test_a_function_whose_call_cannot_be_authorized_is_refused(function: Callable[..., Any], remedy: str) -> None:
    with pytest.raises(TypeError, match=remedy):
        Binding(function)


def test_the_wrapper_looks_like_the_function_without_the_grant() -> None:
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    Binding(keyword_only).dress(wrapper)

    assert str(inspect.signature(wrapper)) == "(a: 'int', *, b: 'int' = 2) -> 'Any'"
    assert wrapper.__name__ == "keyword_only"
    assert "grant" not in inspect.get_annotations(wrapper)


def test_a_permit_never_shows_its_token() -> None:
    assert "secret" not in repr(GRANT.decision)
    assert "secret" not in repr(GRANT)
