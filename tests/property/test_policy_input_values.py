"""Arguments that pass the check have a Cedar value that the engine takes: `check` is never weaker than the schema."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz_sidecar.pdp.compile import compile_bundle
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.pdp.request import tool_call_query
from authz_sidecar.pdp.verdict import Permit
from authz_sidecar.policy.catalog import ArgumentsInvalid
from tests.support.policy_bundle import GUARDRAIL, call_facts, edited, starter_pdp

_CATALOG = """
version: 1
servers:
  - name: x
    audience: a
    tools:
      - name: any
        permission: write
        resource: {fixed: "x:y"}
        input:
          type: object
          properties:
            text: {type: [string, "null"]}
            count: {type: integer}
            price: {type: number}
            flag: {type: boolean}
            rows: {type: array, items: {type: object, properties: {id: {type: string}, type: {type: [number, "null"]}}, required: [id, type]}}
            $odd.name-1: {type: array, items: {type: array, items: {type: number}}}
          required: [text, count]
"""


def _pdp() -> Pdp:
    files = {
        path: None for path in starter_pdp().bundle.files.files if path.startswith(("rules/", "guardrails/", "agents/"))
    }
    rule = '@id("p") @reason("r") permit (principal, action == Action::"x/any", resource);'
    return compile_bundle(edited({**files, **GUARDRAIL, "catalog/tools.yaml": _CATALOG, "rules/x.cedar": rule}))


PDP = _pdp()
_text = st.text(st.characters(codec="utf-8"), max_size=8)
_number = st.one_of(
    st.integers(-(2**54), 2**54),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**7), 10**7).map(lambda n: n / 10000),
)
_anything = st.recursive(
    st.none() | st.booleans() | _number | _text | st.sampled_from(["__entity", "__extn", "type", "id"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["id", "type", "__entity", "__extn", "__expr", "fn", "arg"]), inner, max_size=2
        )
    ),
    max_leaves=6,
)


def _mostly(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(right, right, right, right, _anything)


_arguments = st.fixed_dictionaries(
    {"text": _mostly(st.none() | _text), "count": _mostly(st.integers(-(2**53), 2**53))},
    optional={
        "price": _mostly(_number),
        "flag": _mostly(st.booleans()),
        "rows": _mostly(st.lists(st.fixed_dictionaries({"id": _text, "type": st.none() | _number}), max_size=2)),
        "$odd.name-1": _mostly(st.lists(st.lists(_number, max_size=2), max_size=2)),
        "__entity": _anything,
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(_arguments)
def test_checked_arguments_are_always_decided(arguments: dict[str, Any]) -> None:
    try:
        facts = call_facts(PDP.bundle, "x", "x/any", arguments)
    except ArgumentsInvalid:
        return
    assert isinstance(PDP.evaluate(tool_call_query(PDP.bundle, facts)), Permit)
