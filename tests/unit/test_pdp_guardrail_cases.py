"""tests/cases/guardrails.yaml against the starter bundle, and each policy of the bundle against the cases."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from pydantic import Field

from authz_sidecar.documents import DocumentModel, load_yaml
from authz_sidecar.pdp.annotations import parse_ttl
from authz_sidecar.pdp.compile import compile_bundle
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.pdp.query import Query
from authz_sidecar.pdp.request import start_task_query, tool_call_query
from authz_sidecar.pdp.source import split
from authz_sidecar.pdp.task_request import ChangeAction, change_task_query, delegate_task_query
from authz_sidecar.pdp.verdict import ApprovalRequired, Deny, Permit, Verdict
from tests.support.policy_bundle import (
    Given,
    call_facts,
    change_facts,
    delegate_facts,
    edited,
    start_facts,
    starter_pdp,
    starter_text,
)

CASES = Path(__file__).parents[1] / "cases" / "guardrails.yaml"


class Expect(DocumentModel):
    outcome: Literal["permit", "deny", "approval_required"]
    reason_code: str
    determining: list[str]
    role: list[str] = Field(default_factory=list)
    ttl: str = ""


class Case(DocumentModel):
    name: str
    agent: str
    start: bool = False
    delegate: bool = False
    change: ChangeAction | None = None
    tool: str = ""
    arguments: dict[str, Any] | None = None
    declared: str | None = None
    given: dict[str, Any] = Field(default_factory=dict)
    expect: Expect

    def query(self, pdp: Pdp) -> Query:
        values: dict[str, Any] = {
            key: timedelta(seconds=value)
            if key in ("ttl", "elapsed")
            else tuple(value)
            if isinstance(value, list)
            else value
            for key, value in self.given.items()
        }
        given = Given(**values)
        if self.start:
            return start_task_query(pdp.bundle, start_facts(pdp.bundle, self.agent, given))
        if self.delegate:
            return delegate_task_query(pdp.bundle, delegate_facts(pdp.bundle, self.agent, given))
        if self.change is not None:
            return change_task_query(pdp.bundle, change_facts(pdp.bundle, self.change, self.agent, given))
        facts = call_facts(pdp.bundle, self.agent, self.tool, self.arguments, declared=self.declared, given=given)
        return tool_call_query(pdp.bundle, facts)


class Cases(DocumentModel):
    cases: list[Case]


def load_cases() -> list[Case]:
    cases = load_yaml(CASES.name, CASES.read_bytes(), Cases).cases
    assert len({case.name for case in cases}) == len(cases)
    return cases


def outcome(verdict: Verdict) -> Expect:
    ids = [ref.id for ref in verdict.determining]
    match verdict:
        case Permit():
            return Expect(outcome="permit", reason_code=verdict.reason_code, determining=ids)
        case Deny():
            assert verdict.errors == ()
            return Expect(outcome="deny", reason_code=verdict.reason_code, determining=ids)
        case ApprovalRequired():
            minutes = f"{verdict.ttl // timedelta(minutes=1)}m"
            assert parse_ttl(minutes) == verdict.ttl
            return Expect(
                outcome="approval_required",
                reason_code=verdict.reason_code,
                determining=ids,
                role=list(verdict.role),
                ttl=minutes,
            )


@pytest.mark.parametrize("case", load_cases(), ids=lambda case: case.name)
def test_the_starter_bundle_decides(case: Case) -> None:
    pdp = starter_pdp()
    query = case.query(pdp)
    verdict = pdp.evaluate(query)
    assert outcome(verdict) == case.expect
    # What is recorded answers the same: as bytes, in another process, against a PDP that has seen nothing yet.
    recorded = Query.from_json(orjson.loads(orjson.dumps(query.to_json())))
    assert pdp.evaluate(recorded) == verdict


def _policies() -> list[tuple[str, str]]:
    return [(ref.id, ref.tier) for ref in starter_pdp().policies.values()]


def without(policy_id: str) -> Pdp:
    """The starter without one policy."""
    for path in starter_pdp().bundle.cedar:
        text = starter_text(path)
        for statement in split(path, text):
            if f'@id("{policy_id}")' in statement.text:
                return compile_bundle(edited({path: text.replace(statement.text, "")}))
    raise AssertionError(policy_id)


@pytest.mark.parametrize("policy_id", [name for name, _ in _policies()])
def test_every_policy_has_a_case_that_notices_when_it_is_gone(policy_id: str) -> None:
    pdp = without(policy_id)
    changed = [case.name for case in load_cases() if outcome(pdp.evaluate(case.query(pdp))) != case.expect]
    assert changed


@pytest.mark.parametrize("policy_id", [name for name, tier in _policies() if tier == "hard"])
def test_every_guardrail_stops_something_by_itself(policy_id: str) -> None:
    """Some case is let through, or waits only for an approval, once the guardrail is gone. Overlap is not cover."""
    alone = [
        case
        for case in load_cases()
        if policy_id in case.expect.determining
        and not any(
            starter_pdp().policies[name].tier == "hard" for name in case.expect.determining if name != policy_id
        )
    ]
    pdp = without(policy_id)
    assert any(not isinstance(pdp.evaluate(case.query(pdp)), Deny) for case in alone)
