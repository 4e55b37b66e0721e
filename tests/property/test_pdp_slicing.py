"""Slices, caches and small schemas change nothing: the PDP against one engine call over the whole set.

Policies are random: every kind of scope, permits, hard and soft forbids, conditions that hold, do not hold, or fail.
"""

from __future__ import annotations

import orjson
from cedarpy import Decision, Entities, PolicySet, Schema, is_authorized
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz_sidecar.pdp.compile import compile_bundle
from authz_sidecar.pdp.evaluate import Pdp, short_error
from authz_sidecar.pdp.policies import policy_set, read_policies
from authz_sidecar.pdp.query import Query
from authz_sidecar.pdp.request import start_task_query, tool_call_query
from authz_sidecar.pdp.verdict import ApprovalRequired, Deny, Permit
from tests.support.policy_bundle import GUARDRAIL, Given, call_facts, edited, start_facts, starter_pdp

AGENTS = ("support", "analyst", "ops", "stranger")
_principal = st.sampled_from(
    [
        "principal", "principal is Agent", 'principal == Agent::"spiffe://example.org/agent/support"',
        'principal in Agent::"spiffe://example.org/agent/analyst"', 'principal in AgentGroup::"workers"',
        'principal in AgentGroup::"analysts"', 'principal is Agent in AgentGroup::"operations"',
    ]
)  # fmt: skip
_tool_action = st.sampled_from(
    [
        "action", 'action == Action::"crm/read_contact"', 'action in Action::"call_tool"', 'action in Action::"crm/*"',
        'action in [Action::"external_posting", Action::"crm/update_contact"]', 'action in Action::"high_risk"',
        'action in Action::"crm/delete_contact"', 'action in Action::"read"',
    ]
)  # fmt: skip
_tool_resource = st.sampled_from(
    [
        "resource", "resource is Resource", 'resource == Resource::"crm:contact/c-42"', 'resource in Collection::"contacts"',
        'resource in Resource::"crm:contact/vip-1"', 'resource is Resource in Collection::"outside"',
    ]
)  # fmt: skip
_start = st.sampled_from(
    [('action == Action::"start_task"', "resource"), ("action", "resource is Task"), ("action", "resource")]
)
_condition = st.sampled_from(
    [
        "", "when { true }", "unless { true }", "when { principal.suspended }", "when { principal.boundary > 1 }",
        # Fails for every agent with a boundary above public.
        "when { principal.boundary + 9223372036854775807 > 0 }", "when { principal.boundary * 9223372036854775807 > 0 }",
    ]
)  # fmt: skip
_effect = st.sampled_from(
    [
        "permit", "permit", "permit", '@tier("hard") forbid', '@tier("soft") @approval("a") @approval_ttl("10m") forbid',
        '@tier("soft") @approval("b") @approval_ttl("5m") forbid',
    ]
)  # fmt: skip


@st.composite
def policy_texts(draw: st.DrawFn) -> str:
    texts = []
    for number in range(draw(st.integers(1, 25))):
        action, resource = draw(st.one_of(_start, st.tuples(_tool_action, _tool_resource)))
        annotations, _, effect = draw(_effect).rpartition(" ")
        texts.append(
            f'@id("p{number}") @reason("r") {annotations} '
            f"{effect} ({draw(_principal)}, {action}, {resource}) {draw(_condition)};"
        )
    return "\n".join(texts)


def questions(pdp: Pdp) -> list[Query]:
    bundle = pdp.bundle
    found = []
    for agent in AGENTS:
        for suspended in (False, True):
            given = Given(suspended=suspended, tools=())
            found.append(start_task_query(bundle, start_facts(bundle, agent, given)))
            for tool, contact in (("read_contact", "c-42"), ("read_contact", "vip-1"), ("update_contact", "c-42")):
                facts = call_facts(bundle, agent, f"crm/{tool}", {"contact_id": contact}, given=given)
                found.append(tool_call_query(bundle, facts))
            facts = call_facts(bundle, agent, "mail/send_external", declared="mail:outside/x", given=given)
            found.append(tool_call_query(bundle, facts))
    return found


def ask(query: Query, policies: PolicySet, schema: Schema) -> tuple[Decision, list[str], list[str]]:
    """The engine with everything at once: all policies, the whole schema, no cache."""
    entities = Entities.from_json_str(orjson.dumps(query.entities).decode(), schema)
    request = {
        "principal": query.principal, "action": query.action, "resource": query.resource, "context": query.context
    }  # fmt: skip
    result = is_authorized(request, policies, entities, schema)
    return result.decision, sorted(result.diagnostics.reasons), sorted(map(short_error, result.diagnostics.errors))


_NOTHING_SHIPPED = {**dict.fromkeys(starter_pdp().bundle.cedar), **GUARDRAIL}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy_texts())
def test_the_pdp_agrees_with_the_whole_set(text: str) -> None:
    pdp = compile_bundle(edited({**_NOTHING_SHIPPED, "rules/x.cedar": text}))
    policies, problems = read_policies(pdp.bundle.cedar)
    assert not problems
    schema = Schema.from_str(pdp.schema_text)
    everything = policy_set(policies)
    hard = [policy for policy in policies if not policy.soft]
    for query in questions(pdp):
        decision, reasons, errors = ask(query, everything, schema)
        verdict = pdp.evaluate(query)
        assert pdp.evaluate(Query.from_json(orjson.loads(orjson.dumps(query.to_json())))) == verdict
        if errors:
            # Never a permit beside an error, whatever the engine decided.
            assert verdict == Deny(reason_code="evaluation_error", errors=tuple(errors))
            continue
        if verdict.reason_code == "empty_policy_set":
            assert (decision, reasons) == (Decision.Deny, [])
            continue
        assert [ref.id for ref in verdict.determining] == reasons
        assert isinstance(verdict, Permit) == (decision is Decision.Allow)
        lifted = ask(query, policy_set(hard), schema)[0] if hard else Decision.Deny
        assert isinstance(verdict, ApprovalRequired) == (decision is Decision.Deny and lifted is Decision.Allow)
