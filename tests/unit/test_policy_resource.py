from __future__ import annotations

import pytest

from authz_sidecar.policy.catalog import ResourceMismatch, ResourceUnderivable, derive_resource
from authz_sidecar.policy.pattern import MalformedResource, check_pattern, check_resource_id, in_scope, matches
from authz_sidecar.policy.resource import DerivedResource, MalformedTemplate, Template
from authz_sidecar.strictjson import Json
from tests.support.policy_bundle import starter_pdp

TOOLS = starter_pdp().bundle.catalog.tools


def test_the_resource_follows_from_the_arguments() -> None:
    found = derive_resource(TOOLS["crm/read_contact"], {"contact_id": "c-42"}, None)
    assert found == DerivedResource("crm:contact/c-42", "arguments")


def test_an_integer_argument_may_be_part_of_a_resource() -> None:
    assert Template.parse("crm:contact/{n}").fill({"n": 42}) == "crm:contact/42"


@pytest.mark.parametrize(
    "value",
    ["", "a/b", "..", ".", "*", "vip-*", "a\n", "a\x00b", "a b", "a%2Fb", "a\\b", "é", "a?b", "a#b", "{x}", "x" * 257],
)
def test_an_argument_that_could_name_another_resource_is_refused(value: str) -> None:
    with pytest.raises(ResourceUnderivable) as caught:
        Template.parse("crm:contact/{contact_id}").fill({"contact_id": value})
    assert "contact_id" in str(caught.value)
    assert value == "" or value in (".", "..", "*") or value not in str(caught.value)


@pytest.mark.parametrize("value", [None, True, 1.5, ["a"], {"a": "b"}])
def test_an_argument_of_another_type_is_refused(value: Json) -> None:
    with pytest.raises(ResourceUnderivable):
        Template.parse("crm:contact/{contact_id}").fill({"contact_id": value})


def test_a_missing_argument_is_refused() -> None:
    with pytest.raises(ResourceUnderivable):
        derive_resource(TOOLS["crm/read_contact"], {}, "crm:contact/c-42")


def test_without_arguments_a_template_gives_nothing() -> None:
    with pytest.raises(ResourceUnderivable):
        derive_resource(TOOLS["crm/read_contact"], None, "crm:contact/c-42")


@pytest.mark.parametrize(
    ("tool", "arguments"), [("crm/read_contact", {"contact_id": "a"}), ("crm/search_contacts", {})]
)
def test_a_declaration_may_repeat_the_resource_and_nothing_else(tool: str, arguments: dict[str, Json]) -> None:
    right = derive_resource(TOOLS[tool], arguments, None)
    assert derive_resource(TOOLS[tool], arguments, right.id) == right
    assert derive_resource(TOOLS[tool], arguments, "") == right
    with pytest.raises(ResourceMismatch):
        derive_resource(TOOLS[tool], arguments, right.id + "x")


def test_a_declared_resource_must_match_the_patterns_of_the_tool() -> None:
    tool = TOOLS["mail/send_external"]
    assert derive_resource(tool, None, "mail:outside/x").source == "declared"
    for declared in (None, "", "mail:inside/x", "mail:outside/*", "mail:outside/../inside", "mail:outside/", "outside"):
        with pytest.raises(ResourceUnderivable):
            derive_resource(tool, None, declared)


@pytest.mark.parametrize(
    "text", ["", "{a}", "x{a}", "a:{a}{b}", "a:{a}:{b}", "a:x", "a:{}", "a:{a}/..", "A:{a}", "a:{a", "a:*/{a}"]
)
def test_a_template_that_could_be_filled_two_ways_is_refused(text: str) -> None:
    with pytest.raises(MalformedTemplate):
        Template.parse(text)


def test_templates_keep_their_values_apart() -> None:
    template = Template.parse("arn:aws:{account}/x-{name}.txt/{part}")
    assert template.fill({"account": "1:2", "name": "n", "part": "p"}) == "arn:aws:1:2/x-n.txt/p"


@pytest.mark.parametrize("text", ["a:b", "crm:contact/c-42", "s3:bucket/dir/key.txt", "a+b:c@d,e=f:g"])
def test_resource_ids(text: str) -> None:
    assert check_resource_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a:",
        ":a",
        "a:/b",
        "a:b/",
        "a:b//c",
        "a:b/../c",
        "a:.",
        "A:b",
        "a:b*",
        "a:b c",
        "a:é",
        "a:" + "b" * 512,
        "a:b\n",
    ],
)
def test_what_is_no_resource_id(text: str) -> None:
    with pytest.raises(MalformedResource):
        check_resource_id(text)


@pytest.mark.parametrize(
    ("pattern", "resource", "expected"),
    [
        ("crm:contact/*", "crm:contact/c-42", True),
        ("crm:contact/*", "crm:contact/a/b", True),
        ("crm:contact/*", "crm:contacts", False),
        ("crm:contact/vip-*", "crm:contact/c-42", False),
        ("*", "a:b", True),
        ("a:*b", "a:b", True),
        ("a:*b*b", "a:b", False),
        ("a:*b*b", "a:bb", True),
        ("a:ab*ba", "a:aba", False),
        ("a:b", "a:b", True),
        ("a:b", "a:bc", False),
        ("a:*c", "a:bcd", False),
        ("a:**b", "a:xb", True),
        ("a:.", "a:x", False),
    ],
)
def test_patterns(pattern: str, resource: str, expected: bool) -> None:
    assert matches(check_pattern(pattern), resource) is expected


def test_nothing_is_in_an_empty_scope() -> None:
    assert not in_scope((), "a:b")
    assert in_scope(("x:*", "a:*"), "a:b")


@pytest.mark.parametrize("text", ["", "a b", "é", "a:\n*", "x" * 513])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(MalformedResource):
        check_pattern(text)
