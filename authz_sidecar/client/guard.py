"""The enforcement point: authorize, run with the grant, report. After any failure the body does not run."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from authz_sidecar.client.binding import Binding, Bound
from authz_sidecar.client.call import Grant, GuardedCall

R = TypeVar("R")
OpenCall = Callable[[Mapping[str, object]], GuardedCall]
OpenCallAsync = Callable[[Mapping[str, object]], Awaitable[GuardedCall]]


class AsyncGuard:
    """What `AsyncTask.guard` returns: a decorator for async functions, or an async context manager for one call."""

    def __init__(self, open_call: OpenCallAsync, arguments: Mapping[str, object] | None) -> None:
        self._open_call = open_call
        self._arguments = arguments
        self._entered = Entered()

    def __call__(self, function: Callable[..., R]) -> Callable[..., R]:
        """Decorate. Raises TypeError for what cannot be guarded on an event loop."""
        return guarded_async(function, self._arguments, self._open_call)

    async def __aenter__(self) -> Grant:
        arguments = self._entered.once(self._arguments)
        return self._entered.begin(await self._open_call(arguments))

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._entered.end(error)


class Guard:
    """What `Task.guard` returns: a decorator for functions, async ones included, or a context manager for one call."""

    def __init__(
        self, open_call: OpenCall, open_call_async: OpenCallAsync, arguments: Mapping[str, object] | None
    ) -> None:
        self._open_call = open_call
        self._open_call_async = open_call_async
        self._arguments = arguments
        self._entered = Entered()

    def __call__(self, function: Callable[..., R]) -> Callable[..., R]:
        """Decorate. Raises TypeError for what cannot be guarded."""
        if inspect.iscoroutinefunction(function):
            return guarded_async(function, self._arguments, self._open_call_async)
        return guarded(function, self._arguments, self._open_call)

    def __enter__(self) -> Grant:
        arguments = self._entered.once(self._arguments)
        return self._entered.begin(self._open_call(arguments))

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._entered.end(error)


class Entered:
    """The one call of a guard that is used as a context manager."""

    def __init__(self) -> None:
        self._used = False
        self._call: GuardedCall | None = None

    def once(self, arguments: Mapping[str, object] | None) -> Mapping[str, object]:
        """Raises TypeError without arguments and RuntimeError the second time: a permit is for one call."""
        if arguments is None:
            raise TypeError("a guard that is used by `with` needs the arguments of the call as its third parameter")
        if self._used:
            raise RuntimeError("a guard is for one call; make a new one for the next")
        self._used = True
        return arguments

    def begin(self, call: GuardedCall) -> Grant:
        grant = call.begin()
        self._call = call
        return grant

    def end(self, error: BaseException | None) -> None:
        if self._call is not None:
            self._call.end(error)


def guarded(function: Callable[..., R], fixed: Mapping[str, object] | None, open_call: OpenCall) -> Callable[..., R]:
    """Wrap a function."""
    binding = _binding(function, fixed)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        bound = binding.bind(args, kwargs)
        call = open_call(bound.arguments)
        grant = call.begin()
        try:
            result = _finished(bound.run(grant))
        except BaseException as error:
            call.end(error)
            raise
        _give(grant, result)
        call.end(None)
        return result

    binding.dress(wrapper)
    return wrapper


def guarded_async(
    function: Callable[..., Any], fixed: Mapping[str, object] | None, open_call: OpenCallAsync
) -> Callable[..., Any]:
    """Wrap an async function."""
    binding = _binding(function, fixed)
    if not inspect.iscoroutinefunction(function):
        raise TypeError("only an async function can be guarded by an `AsyncClient`; use `Client` for the others")

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        bound: Bound = binding.bind(args, kwargs)
        call = await open_call(bound.arguments)
        grant = call.begin()
        try:
            result = _finished(await bound.run(grant))
        except BaseException as error:
            call.end(error)
            raise
        _give(grant, result)
        call.end(None)
        return result

    binding.dress(wrapper)
    return wrapper


def _binding(function: Callable[..., Any], fixed: Mapping[str, object] | None) -> Binding:
    if fixed is not None:
        raise TypeError("a decorating guard takes the arguments of each call; do not give it others")
    return Binding(function)


def _finished(result: Any) -> Any:
    """Refuse a result that is still to be computed: that would happen after the outcome was reported."""
    if inspect.iscoroutine(result):
        result.close()
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(
            "a guarded function returned an awaitable or a generator; guard the function that does the work"
        )
    return result


def _give(grant: Grant, result: object) -> None:
    """The returned value is the result, unless the body gave another."""
    if grant.result_digest is None:
        grant.result(result)
