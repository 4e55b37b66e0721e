"""The questions whether a task may be delegated, and whether its state may be changed. Pure, like `request.py`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from authz_sidecar.pdp.query import JsonObject, Query
from authz_sidecar.pdp.request import AgentFacts, agents_layer, datetime_text, task_entity
from authz_sidecar.pdp.schema import DELEGATE_TASK
from authz_sidecar.policy.bundle import Bundle
from authz_sidecar.policy.entities import uid
from authz_sidecar.strictjson import Json
from authz_sidecar.task.attenuation import Excess
from authz_sidecar.task.model import Task

ChangeAction = Literal["suspend_task", "resume_task", "complete_task", "cancel_task"]

_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegateTaskFacts:
    """Everything that is known about a delegation.

    Attributes:
        caller: the verified agent that delegates.
        delegate: the agent that would get the child.
        child: the task as it would be.
        parent: as it stands, its state that of `now`.
        parent_chain: "active" when every task above the parent is, otherwise the state of one that is not.
        exceeds: in what the child has more than its parent.
    """

    now: datetime
    caller: AgentFacts
    delegate: AgentFacts
    identity_method: str
    child: Task
    parent: Task
    parent_chain: str
    exceeds: frozenset[Excess]
    environment: str
    production: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeTaskFacts:
    """Everything that is known about a change of state.

    Attributes:
        caller: the verified workload that asks.
        owner: the agent of the task.
        task: as it stands, its state that of `now`.
        chain: "active" when every task above is, otherwise the state of one that is not.
        operator: whether the configuration makes the caller an operator.
    """

    now: datetime
    action: ChangeAction
    caller: AgentFacts
    owner: AgentFacts
    identity_method: str
    task: Task
    chain: str
    operator: bool
    environment: str
    production: bool


def delegate_task_query(bundle: Bundle, facts: DelegateTaskFacts) -> Query:
    """The question whether the caller may give this child task to the delegate."""
    missing: list[Json] = []
    ceiling = bundle.data.level(facts.child.scope.ceiling)
    if ceiling is None:
        missing.append("task_ceiling")
    if facts.caller.manifest is None:
        missing.append("manifest")
    if facts.delegate.manifest is None:
        missing.append("delegate_manifest")
    ttl = facts.child.expires_at - facts.child.started_at
    context: JsonObject = {
        "now": datetime_text(facts.now),
        "ttl": f"{ttl // _MILLISECOND}ms",
        "parent": uid("Task", facts.parent.id),
        "parent_chain": facts.parent_chain,
        "exceeds": [*sorted(kind.value for kind in facts.exceeds)],
        "environment": uid("Environment", facts.environment),
        "identity_method": facts.identity_method,
        "missing": missing,
    }
    return Query(
        principal=uid("Agent", facts.caller.agent),
        action=uid("Action", DELEGATE_TASK),
        resource=uid("Task", facts.child.id),
        context=context,
        layers=(
            agents_layer(
                bundle,
                facts.caller,
                facts.delegate,
                now=facts.now,
                environment=facts.environment,
                production=facts.production,
            ),
            (_task(bundle, facts.parent), _task(bundle, facts.child)),
        ),
    )


def change_task_query(bundle: Bundle, facts: ChangeTaskFacts) -> Query:
    """The question whether the caller may change the state of the task."""
    task = facts.task
    context: JsonObject = {
        "now": datetime_text(facts.now),
        "operator": facts.operator,
        "delegator": any(hop.agent == facts.caller.agent for hop in task.delegation),
        "held_by": task.held_by.value if task.held_by else "",
        "chain": facts.chain,
        "environment": uid("Environment", facts.environment),
        "identity_method": facts.identity_method,
    }
    return Query(
        principal=uid("Agent", facts.caller.agent),
        action=uid("Action", facts.action),
        resource=uid("Task", task.id),
        context=context,
        layers=(
            agents_layer(
                bundle,
                facts.caller,
                facts.owner,
                now=facts.now,
                environment=facts.environment,
                production=facts.production,
            ),
            (_task(bundle, task),),
        ),
    )


def _task(bundle: Bundle, task: Task) -> JsonObject:
    return task_entity(task, task.state, bundle.data.level(task.scope.ceiling))
