from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import orjson
import pytest

from authz_sidecar.pdp.compile import BundleRejected, compile_bundle
from authz_sidecar.pdp.evaluate import Pdp, short_error
from authz_sidecar.pdp.query import JsonObject, MalformedQuery, Query
from authz_sidecar.pdp.request import datetime_text, start_task_query, tool_call_query
from authz_sidecar.pdp.verdict import ApprovalRequired, Deny, Permit
from tests.support.policy_bundle import GUARDRAIL, NOW, Given, call_facts, edited, start_facts, starter_pdp

SEARCH = {"tool": "crm/search_contacts", "arguments": {"query": "miller secret", "limit": 7}}


def with_rule(text: str) -> Pdp:
    return compile_bundle(edited({"rules/x.cedar": text}))


def search_query(pdp: Pdp, given: Given | None = None) -> Query:
    arguments = SEARCH["arguments"]
    assert isinstance(arguments, dict)
    return tool_call_query(pdp.bundle, call_facts(pdp.bundle, "support", "crm/search_contacts", arguments, given=given))


OVERFLOW = "context.input has limit && context.input.limit + 9223372036854775807 > 0"


@pytest.mark.parametrize("effect", ['permit', '@tier("hard") forbid', '@tier("soft") @approval("r") @approval_ttl("1h") forbid'])  # fmt: skip
def test_a_policy_that_fails_denies_although_another_one_permits(effect: str) -> None:
    annotations, _, keyword = effect.rpartition(" ")
    pdp = with_rule(
        f'@id("fails") @reason("r") {annotations}\n'
        f'{keyword} (principal, action == Action::"crm/search_contacts", resource) when {{ {OVERFLOW} }};'
    )
    assert isinstance(starter_pdp().evaluate(search_query(starter_pdp())), Permit)
    verdict = pdp.evaluate(search_query(pdp))
    assert verdict == Deny(reason_code="evaluation_error", errors=("fails: integer overflow",))


def test_all_errors_are_named_in_order_and_without_values() -> None:
    rule = '@id("{0}") @reason("r") permit (principal, action == Action::"crm/search_contacts", resource) when {{ {1} }};\n'
    pdp = with_rule(rule.format("z", OVERFLOW) + rule.format("a", OVERFLOW.replace("+", "*")))
    verdict = pdp.evaluate(search_query(pdp))
    assert verdict.errors == ("a: integer overflow", "z: integer overflow")


def test_error_texts_lose_everything_that_they_quote() -> None:
    prefix = "error while evaluating policy `p`: "
    secret = "miller `secret`"
    for text in (
        f"integer overflow while attempting to add the values `1` and `{secret}`",
        f'entity `Resource::"{secret}"` does not exist',
        f'`Resource::"{secret}"` does not have the attribute `x`',
        f"record does not have the attribute `{secret}`",
        f"error while evaluating `decimal` extension function: `{secret}` is not a well-formed decimal value",
        "type error: expected long, got string",
        f"something new about {secret}",
    ):
        short = short_error(prefix + text)
        assert short.startswith("p: ") and "secret" not in short and "`" not in short
    assert short_error(f"failed to build request: {secret}") == "request: does not fit the schema of the bundle"


def change_context(query: Query, **changes: object) -> Query:
    document = orjson.loads(orjson.dumps(query.to_json()))
    document["context"].update(changes)
    return Query.from_json(document)


@pytest.mark.parametrize(
    "changes",
    [
        {"extra": 1},
        {"now": "yesterday"},
        {"missing": [1]},
        {"resource_in_scope": "yes"},
        {"input": {"query": 1}},
        {"input": {"query": {"__entity": {"type": "Agent", "id": "a"}}}},
        {"input": {"query": "x", "limit": 2**63}},
        {"input": {}},
        {"calls": None},
    ],
)
def test_what_the_engine_does_not_decide_is_denied(changes: dict[str, object]) -> None:
    verdict = starter_pdp().evaluate(change_context(search_query(starter_pdp()), **changes))
    assert isinstance(verdict, Deny) and verdict.reason_code == "no_decision"
    assert all("miller" not in error for error in verdict.errors)


def edit(query: Query, change: Callable[[JsonObject], object]) -> Query:
    document = orjson.loads(orjson.dumps(query.to_json()))
    change(document)
    return Query.from_json(document)


def _without(kind: str) -> Callable[[JsonObject], object]:
    def change(document: JsonObject) -> None:
        entities = document["entities"]
        assert isinstance(entities, list)
        document["entities"] = [found for found in entities if found["uid"]["type"] != kind]  # type: ignore[index, call-overload]

    return change


@pytest.mark.parametrize("kind", ["Agent", "Resource", "Task", "Tool", "Session", "Environment"])
def test_an_entity_that_is_not_in_the_store_never_helps(kind: str) -> None:
    verdict = starter_pdp().evaluate(edit(search_query(starter_pdp()), _without(kind)))
    assert isinstance(verdict, Deny) and verdict.reason_code in ("no_decision", "evaluation_error")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("action", {"type": "Action", "id": "crm/nothing"}),
        ("action", {"type": "Tool", "id": "crm/search_contacts"}),
        ("action", {"type": "Action", "id": "read"}),
        ("action", {"type": "Action", "id": ""}),
        ("principal", {"type": "Human", "id": "a"}),
        ("resource", {"type": "Collection", "id": "contacts"}),
    ],
)
def test_a_question_that_the_schema_does_not_know_is_denied(name: str, value: JsonObject) -> None:
    verdict = starter_pdp().evaluate(edit(search_query(starter_pdp()), lambda document: document.update({name: value})))
    assert isinstance(verdict, Deny) and verdict.reason_code in ("no_decision", "empty_policy_set")


def test_two_versions_of_one_entity_are_denied() -> None:
    def change(document: JsonObject) -> None:
        entities = document["entities"]
        assert isinstance(entities, list)
        agent = orjson.loads(orjson.dumps(entities[0]))
        agent["attrs"]["boundary"] = 3
        entities.append(agent)

    verdict = starter_pdp().evaluate(edit(search_query(starter_pdp()), change))
    assert isinstance(verdict, Deny) and verdict.reason_code == "no_decision"


def only(kept: str) -> dict[str, str | None]:
    """All policies removed but those of one file, and the least guardrail."""
    return {**{path: None for path in starter_pdp().bundle.cedar if path != kept}, **GUARDRAIL}


def test_an_action_without_any_policy_says_so() -> None:
    pdp = compile_bundle(edited(only("rules/tasks.cedar")))
    assert pdp.evaluate(search_query(pdp)) == Deny(reason_code="empty_policy_set")
    assert isinstance(pdp.evaluate(start_task_query(pdp.bundle, start_facts(pdp.bundle))), Permit)


def test_only_soft_forbids_and_no_permit_is_no_reason_to_ask_a_human() -> None:
    pdp = compile_bundle(edited(only("rules/approvals.cedar")))
    facts = call_facts(pdp.bundle, "support", "mail/send_external", declared="mail:outside/x")
    verdict = pdp.evaluate(tool_call_query(pdp.bundle, facts))
    assert isinstance(verdict, Deny) and verdict.reason_code == "no_permit"
    assert [ref.id for ref in verdict.determining] == ["external-posting-needs-approval"]


def test_reasons_come_sorted_however_often_one_asks() -> None:
    pdp = starter_pdp()
    query = search_query(
        pdp, Given(state="completed", suspended=True, drifted=True, tools=(), resources=(), manifest="none")
    )
    verdicts = {repr(pdp.evaluate(query)) for _ in range(50)}
    assert len(verdicts) == 1
    ids = [ref.id for ref in pdp.evaluate(query).determining]
    assert len(ids) > 5 and ids == sorted(ids)


def test_entities_that_changed_are_not_taken_from_the_cache() -> None:
    pdp = starter_pdp()
    healthy, stopped = search_query(pdp), search_query(pdp, Given(state="suspended"))
    drifted, read = search_query(pdp, Given(drifted=True)), search_query(pdp, Given(manifest="draft"))
    for _ in range(2):
        assert isinstance(pdp.evaluate(healthy), Permit)
        for query in (stopped, drifted, read):
            assert isinstance(pdp.evaluate(query), Deny)


def test_the_cache_of_entities_stays_bounded() -> None:
    pdp = compile_bundle(edited({}))
    for count in range(600):
        assert isinstance(pdp.evaluate(search_query(pdp, Given(ttl=timedelta(seconds=60 + count)))), Permit)
    assert len(pdp._cache) <= 1024


def test_policies_that_name_one_agent_or_one_resource_apply_to_it_alone() -> None:
    pdp = with_rule(
        '@id("no-42") @reason("r") @tier("hard")\n'
        'forbid (principal, action in Action::"crm/*", resource == Resource::"crm:contact/c-42");\n'
        '@id("no-analyst") @reason("r") @tier("hard")\n'
        'forbid (principal == Agent::"spiffe://example.org/agent/analyst", action in Action::"read", resource);\n'
        '@id("no-vip") @reason("r") @tier("hard")\n'
        'forbid (principal is Agent in AgentGroup::"analysts", action, resource in Collection::"contacts");\n'
    )

    def ids(agent: str, contact: str) -> list[str]:
        facts = call_facts(pdp.bundle, agent, "crm/read_contact", {"contact_id": contact})
        return [ref.id for ref in pdp.evaluate(tool_call_query(pdp.bundle, facts)).determining]

    for _ in range(2):
        assert ids("support", "c-1") == ["support-reads-contacts"]
        assert ids("support", "c-42") == ["no-42"]
        assert ids("analyst", "c-1") == ["no-analyst", "no-vip"]
        assert ids("analyst", "c-42") == ["no-42", "no-analyst", "no-vip"]


def test_policies_can_tell_a_declared_resource_from_a_derived_one() -> None:
    pdp = with_rule(
        '@id("no-declared") @reason("r") @tier("hard")\n'
        'forbid (principal, action in Action::"call_tool", resource) when { context.declared_resource };\n'
    )

    def ids(tool: str, declared: str | None) -> list[str]:
        facts = call_facts(pdp.bundle, "support", tool, declared=declared)
        return [ref.id for ref in pdp.evaluate(tool_call_query(pdp.bundle, facts)).determining]

    assert "no-declared" in ids("mail/send_external", "mail:outside/x")
    assert ids("crm/read_contact", "crm:contact/c-42") == ["support-reads-contacts"]


def test_the_review_day_itself_still_counts_as_reviewed() -> None:
    manifest = starter_pdp().bundle.agents["spiffe://example.org/agent/support"]
    assert manifest.review_by == date(2028, 6, 30)
    assert not manifest.review_overdue(datetime(2028, 6, 30, 23, 59, 59, tzinfo=UTC))
    assert manifest.review_overdue(datetime(2028, 7, 1, tzinfo=UTC))


def test_an_approval_asks_every_role_and_ends_with_the_shortest() -> None:
    pdp = starter_pdp()
    given = Given(verified=False)
    facts = call_facts(pdp.bundle, "support", "crm/delete_contact", {"contact_id": "c", "reason": "r"}, given=given)
    verdict = pdp.evaluate(tool_call_query(pdp.bundle, facts))
    assert isinstance(verdict, ApprovalRequired)
    assert (verdict.role, verdict.ttl) == (("data-owner", "task-owner"), timedelta(minutes=15))


def test_the_caller_s_texts_stay_texts() -> None:
    pdp = starter_pdp()
    facts = call_facts(pdp.bundle)
    nasty = 'x"}; permit(principal, action, resource); // \\ \n {"__entity": {"type": "Agent", "id": "a"}}'
    task = replace(facts.task, purpose=nasty, id=nasty)
    verdict = pdp.evaluate(tool_call_query(pdp.bundle, replace(facts, task=task)))
    assert [ref.id for ref in verdict.determining] == ["support-reads-contacts"]


def test_arguments_named_like_references_are_records() -> None:
    catalog = """
version: 1
servers:
  - name: x
    audience: https://x.example.org
    tools:
      - name: tag
        permission: write
        resource: {fixed: "x:tags"}
        input: {type: object, properties: {type: {type: string}, id: {type: string}, in: {type: object, properties: {type: {type: string}, id: {type: string}}, required: [type, id]}}, required: [type, id, in]}
"""
    rule = '@id("p") @reason("r") permit (principal, action == Action::"x/tag", resource) when { context.input.type == "Agent" && context.input["in"].id == "a" };'
    files = {
        path: None for path in starter_pdp().bundle.files.files if path.startswith(("rules/", "guardrails/", "agents/"))
    }
    pdp = compile_bundle(edited({**files, **GUARDRAIL, "catalog/tools.yaml": catalog, "rules/x.cedar": rule}))
    arguments = {"type": "Agent", "id": "a", "in": {"type": "Agent", "id": "a"}}
    query = tool_call_query(pdp.bundle, call_facts(pdp.bundle, "x", "x/tag", arguments))  # type: ignore[arg-type]
    assert isinstance(pdp.evaluate(query), Permit)


def test_deadlines_round_down() -> None:
    moment = NOW + timedelta(microseconds=999)
    assert datetime_text(moment) == "2027-03-01T12:00:00.000Z"
    pdp = starter_pdp()
    facts = call_facts(pdp.bundle)
    task = replace(facts.task, expires_at=facts.now + timedelta(microseconds=900))
    verdict = pdp.evaluate(tool_call_query(pdp.bundle, replace(facts, task=task)))
    assert [ref.id for ref in verdict.determining] == ["task-expired"]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("context"),
        lambda d: d.update(extra=1),
        lambda d: d.update(principal="Agent"),
        lambda d: d.update(principal={"type": "Agent"}),
        lambda d: d.update(principal={"type": "Agent", "id": 1}),
        lambda d: d.update(entities={}),
        lambda d: d.update(entities=[1]),
        lambda d: d.update(entities=[{"uid": {"type": "Agent", "id": "a"}}]),
    ],
)
def test_a_document_that_is_no_question_is_refused(change: Callable[[JsonObject], object]) -> None:
    with pytest.raises(MalformedQuery):
        edit(search_query(starter_pdp()), change)


def test_policy_digests_follow_meaning_and_not_layout() -> None:
    def sha(text: str) -> str:
        return with_rule(text).policies["p"].sha256

    plain = sha(
        '@id("p") @reason("r") permit (principal, action == Action::"crm/read_contact", resource) when { true };'
    )
    assert plain == sha(
        '@reason("r")\n@id("p")\n// a comment\npermit(principal,\naction==Action::"crm/read_contact",resource)when{true};'
    )
    assert plain != sha(
        '@id("p") @reason("s") permit (principal, action == Action::"crm/read_contact", resource) when { true };'
    )
    assert plain != sha(
        '@id("p") @reason("r") permit (principal, action == Action::"crm/read_contact", resource) when { false };'
    )


def test_a_catalog_beyond_the_schemas_made_at_load_still_answers() -> None:
    tools = "".join(
        f"      - {{name: t{n}, permission: read, resource: {{fixed: 'x:r{n}'}}, input: {{type: object}}}}\n"
        for n in range(100)
    )
    catalog = f"version: 1\nservers:\n  - name: x\n    audience: a\n    tools:\n{tools}"
    rule = '@id("p") @reason("r") permit (principal, action in Action::"x/*", resource);'
    files = {
        path: None for path in starter_pdp().bundle.files.files if path.startswith(("rules/", "guardrails/", "agents/"))
    }
    pdp = compile_bundle(edited({**files, **GUARDRAIL, "catalog/tools.yaml": catalog, "rules/x.cedar": rule}))
    for n in (0, 99):
        assert isinstance(pdp.evaluate(tool_call_query(pdp.bundle, call_facts(pdp.bundle, "x", f"x/t{n}", {}))), Permit)


def test_a_bundle_that_nothing_bounds_is_refused() -> None:
    changes = {path: None for path in starter_pdp().bundle.cedar if path.startswith("guardrails/")}
    with pytest.raises(BundleRejected, match=r"guardrails/: no policy of the bundle is a hard guardrail; copy"):
        compile_bundle(edited(changes))
