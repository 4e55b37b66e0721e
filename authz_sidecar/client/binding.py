"""Which arguments a decorated function gets, by name, and whether it wants the grant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from authz_sidecar.client.call import Grant

_GRANT = "grant"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Binding:
    """A function as a tool: its signature without `grant` is what callers and models see."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Raises TypeError for generators, whose body runs later, and for arguments without names."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{_name(function)} is a generator: its body would run after the call was authorized")
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters):
            raise TypeError(f"{_name(function)} takes `*args`, which have no names to authorize; name its parameters")
        self._function = function
        self._rest = next((each.name for each in parameters if each.kind is inspect.Parameter.VAR_KEYWORD), None)
        self._wants_grant = _wants_grant(function, parameters)
        self.signature = signature.replace(parameters=[each for each in parameters if each.name != _GRANT])

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bound:
        """Raises TypeError for arguments that the function does not take."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        named = dict(bound.arguments)
        rest: Mapping[str, Any] = named.pop(self._rest) if self._rest is not None else {}
        if not named.keys().isdisjoint(rest):
            raise TypeError(f"{_name(self._function)} got two arguments of one name")
        return Bound(self._function, bound, {**named, **rest}, self._wants_grant)

    def dress(self, wrapper: Callable[..., Any]) -> None:
        """Make the wrapper look like the function, without `grant`."""
        functools.update_wrapper(wrapper, self._function)
        wrapper.__signature__ = self.signature  # type: ignore[attr-defined]
        wrapper.__annotations__ = {name: each for name, each in wrapper.__annotations__.items() if name != _GRANT}


class Bound:
    """One call of a function: `arguments` by name, defaults included."""

    def __init__(
        self,
        function: Callable[..., Any],
        bound: inspect.BoundArguments,
        arguments: dict[str, Any],
        wants_grant: bool,
    ) -> None:
        self._function = function
        self._bound = bound
        self._wants_grant = wants_grant
        self.arguments = arguments

    def run(self, grant: Grant) -> Any:
        """Call the function with exactly the bound arguments."""
        extra = {_GRANT: grant} if self._wants_grant else {}
        return self._function(*self._bound.args, **self._bound.kwargs, **extra)


def _wants_grant(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> bool:
    positional = [each.name for each in parameters if each.kind in _POSITIONAL]
    for each in parameters:
        if each.name == _GRANT and each.kind is not inspect.Parameter.VAR_KEYWORD:
            if each.kind is inspect.Parameter.POSITIONAL_ONLY or _GRANT in positional[:-1]:
                raise TypeError(f"{_name(function)}: make `grant` keyword-only: `(..., *, grant)`")
            return True
    return False


def _name(function: Callable[..., Any]) -> str:
    return f"`{getattr(function, '__qualname__', type(function).__name__)}`"
