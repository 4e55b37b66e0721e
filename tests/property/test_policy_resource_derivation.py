"""No argument, whatever it holds, makes a template name a resource that belongs to another template or pattern."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from authz_sidecar.policy.pattern import check_resource_id, matches
from authz_sidecar.policy.resource import ResourceUnderivable, Template

# Mostly what an attacker would try, and anything else.
_hostile = st.one_of(
    st.text(st.sampled_from("abAB09/.*%-_~:@{}\\ \n\0\u00e9\uff0a\uff0f\u202e"), max_size=12),
    st.text(max_size=12),
    st.sampled_from(["..", ".", "", "vip-1", "*", "a/../b", "contacts", "x" * 300]),
    st.integers(),
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.lists(st.text(max_size=3), max_size=2),
)
_TEMPLATES = [
    Template.parse(text)
    for text in ("crm:contact/{a}", "crm:notes/{a}", "crm:{a}/x/{b}", "git:org/{a}/repo/{b}/file-{c}.txt")
]


@given(st.sampled_from(_TEMPLATES), _hostile, _hostile, _hostile)
def test_a_filled_template_stays_inside_its_own_literals(template: Template, a: object, b: object, c: object) -> None:
    arguments = {"a": a, "b": b, "c": c}
    try:
        found = template.fill(arguments)  # type: ignore[arg-type]
    except ResourceUnderivable:
        return
    assert check_resource_id(found) == found
    shape = "([^/]+)".join(re.escape(literal) for literal in template.literals)
    values = re.fullmatch(shape, found)
    assert values is not None
    # One way to read it back, and it gives the arguments: no two argument tuples share a resource.
    assert values.groups() == tuple(str(arguments[name]) for name in template.names)
    assert matches("*".join(template.literals), found)


@given(_hostile)
def test_no_argument_of_one_tool_names_a_resource_of_another(value: object) -> None:
    try:
        found = _TEMPLATES[0].fill({"a": value})  # type: ignore[dict-item]
    except ResourceUnderivable:
        return
    assert not any(matches(other, found) for other in ("crm:contacts", "crm:notes/*", "crm:*/x/*", "crm:contact/*/*"))


@given(st.text("ab*/", min_size=1, max_size=10), st.text("ab/", max_size=12))
def test_patterns_agree_with_regular_expressions(pattern: str, text: str) -> None:
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    assert matches(pattern, text) is expected
