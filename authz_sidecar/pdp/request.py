"""From established facts to the question that Cedar answers. Pure: no clock, no look-ups, nothing is decided here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from authz_sidecar.pdp.query import JsonObject, Query
from authz_sidecar.pdp.schema import START_TASK
from authz_sidecar.policy.bundle import Bundle
from authz_sidecar.policy.catalog import DerivedResource, Tool
from authz_sidecar.policy.data import Classification
from authz_sidecar.policy.entities import NO_LEVEL, agent_attributes, entity, uid
from authz_sidecar.policy.manifest import Manifest
from authz_sidecar.strictjson import Json
from authz_sidecar.task.model import Session, Task, TaskState

__all__ = [
    "AgentFacts",
    "DelegationFacts",
    "Query",
    "StartTaskFacts",
    "ToolCallFacts",
    "agents_layer",
    "datetime_text",
    "start_task_query",
    "task_entity",
    "tool_call_query",
]

_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFacts:
    """What is known about an agent: its manifest, None when the bundle has none, and what became of it."""

    agent: str
    manifest: Manifest | None
    suspended: bool
    drifted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationFacts:
    """What is known about the tasks above a delegated one. The defaults are those of a root task.

    Attributes:
        state: "active" when all of them are, otherwise the state of the highest one that is not.
        shrinks: whether no task of the chain has more than its parent, as the classes are ordered now.
        manifests_cover: whether the manifest of each agent above lists the tool and reaches the data class.
    """

    state: str = TaskState.ACTIVE.value
    shrinks: bool = True
    manifests_cover: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallFacts:
    """Everything that is known about one tool call, at one `now`.

    Attributes:
        now: aware UTC; policies see milliseconds.
        agent: SPIFFE ID of the verified caller.
        manifest: of the agent, None when the bundle has none.
        identity_method: how the caller was verified.
        task: as loaded.
        task_state: the task's state at `now`.
        resource_in_scope: whether the task's resource patterns cover the resource.
        tool: of the catalog.
        resource: as derived by the catalog's rule.
        classification: of the resource.
        environment: name, from the configuration.
        production: whether that environment is production.
        session: permitted calls of the task before this one.
        input: the checked arguments; required for a tool with `arguments: full`, ignored for `digest`.
        suspended: whether an operator suspended the agent.
        drifted: whether the agent differs from its manifest.
        delegation: about the tasks above.
    """

    now: datetime
    agent: str
    manifest: Manifest | None
    identity_method: str
    task: Task
    task_state: TaskState
    resource_in_scope: bool
    tool: Tool
    resource: DerivedResource
    classification: Classification
    environment: str
    production: bool
    session: Session
    input: dict[str, Json] | None
    suspended: bool
    drifted: bool
    delegation: DelegationFacts = DelegationFacts()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTaskFacts:
    """Everything that is known about a task that an agent wants to start.

    Attributes:
        task: as it would be created.
        ceiling_level: level of the requested ceiling, None for a class that does not exist.
        ttl: how long it may run.
    The others are as in ToolCallFacts.
    """

    now: datetime
    agent: str
    manifest: Manifest | None
    identity_method: str
    task: Task
    ceiling_level: int | None
    environment: str
    production: bool
    ttl: timedelta
    suspended: bool
    drifted: bool


def tool_call_query(bundle: Bundle, facts: ToolCallFacts) -> Query:
    """The question whether the agent may make this call.

    Raises:
        ArgumentsInvalid: an argument has no Cedar value; `check_arguments` has refused those before.
    """
    missing: list[Json] = []
    ceiling = bundle.data.level(facts.task.scope.ceiling)
    if ceiling is None:
        missing.append("task_ceiling")
    if facts.manifest is None:
        missing.append("manifest")
    tool, task, session, resource = facts.tool, facts.task, facts.session, facts.resource
    classification = facts.classification
    context: JsonObject = {
        "now": datetime_text(facts.now),
        "task": uid("Task", task.id),
        "tool": uid("Tool", tool.id),
        "environment": uid("Environment", facts.environment),
        "session": uid("Session", task.id),
        "calls": {"task": session.calls, "tool": session.tool_calls.get(tool.id, 0)},
        "identity_method": facts.identity_method,
        "resource_in_scope": facts.resource_in_scope,
        "declared_resource": resource.source == "declared",
        "delegation": {
            "agents": [uid("Agent", hop.agent) for hop in task.delegation],
            "state": facts.delegation.state,
            "shrinks": facts.delegation.shrinks,
            "manifests_cover": facts.delegation.manifests_cover,
        },
        "missing": missing,
    }
    if tool.arguments == "full" and tool.input is not None and facts.input is not None:
        context["input"] = tool.input.to_cedar(facts.input)
    collections = [uid("Collection", name) for name in classification.collections]
    about: dict[str, Json] = {
        "classification": classification.level,
        "class_name": classification.name,
        "owner": classification.owner,
    }
    return Query(
        principal=uid("Agent", facts.agent),
        action=uid("Action", tool.id),
        resource=uid("Resource", resource.id),
        context=context,
        layers=(
            (*_agent_layer(bundle, facts), *bundle.entities.tools[tool.id]),
            (task_entity(task, facts.task_state, ceiling),),
            (_session(task, session),),
            (
                entity("Resource", resource.id, about, collections),
                *(entity("Collection", name) for name in classification.collections),
            ),
        ),
    )


def start_task_query(bundle: Bundle, facts: StartTaskFacts) -> Query:
    """The question whether the agent may start this task."""
    missing: list[Json] = []
    if facts.ceiling_level is None:
        missing.append("task_ceiling")
    if facts.manifest is None:
        missing.append("manifest")
    return Query(
        principal=uid("Agent", facts.agent),
        action=uid("Action", START_TASK),
        resource=uid("Task", facts.task.id),
        context={
            "now": datetime_text(facts.now),
            "ttl": f"{facts.ttl // _MILLISECOND}ms",
            "environment": uid("Environment", facts.environment),
            "identity_method": facts.identity_method,
            "missing": missing,
        },
        layers=(_agent_layer(bundle, facts), (task_entity(facts.task, facts.task.state, facts.ceiling_level),)),
    )


def datetime_text(moment: datetime) -> str:
    """Cedar's datetime: UTC, milliseconds, rounded down; so a deadline comes up to 1 ms early and never late."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def _agent_layer(bundle: Bundle, facts: ToolCallFacts | StartTaskFacts) -> tuple[JsonObject, ...]:
    agent = AgentFacts(agent=facts.agent, manifest=facts.manifest, suspended=facts.suspended, drifted=facts.drifted)
    return agents_layer(bundle, agent, now=facts.now, environment=facts.environment, production=facts.production)


def agents_layer(
    bundle: Bundle, *agents: AgentFacts, now: datetime, environment: str, production: bool
) -> tuple[JsonObject, ...]:
    """Agents with their groups, the environment and the data classes: what seldom changes between calls.

    An agent that is named twice counts as named first.
    """
    distinct = {facts.agent: facts for facts in reversed(agents)}.values()
    groups = {name: None for facts in distinct if facts.manifest for name in facts.manifest.sorted_groups}
    return (
        *(_agent(bundle, facts, now) for facts in distinct),
        *(entity("AgentGroup", name) for name in groups),
        entity("Environment", environment, {"name": environment, "production": production}),
        *bundle.entities.classes,
    )


def _agent(bundle: Bundle, facts: AgentFacts, now: datetime) -> JsonObject:
    manifest = facts.manifest
    if manifest is not None and manifest is bundle.agents.get(facts.agent):
        of_manifest = bundle.entities.agents[facts.agent]
    else:
        of_manifest = agent_attributes(manifest, bundle.data)
    attrs: dict[str, Json] = {
        **of_manifest,
        "review_overdue": manifest is None or manifest.review_overdue(now),
        "suspended": facts.suspended,
        "drifted": facts.drifted,
    }
    groups = [] if manifest is None else manifest.sorted_groups
    return entity("Agent", facts.agent, attrs, [uid("AgentGroup", name) for name in groups])


def task_entity(task: Task, state: TaskState, ceiling: int | None) -> JsonObject:
    """The task, in all the tasks above it. `ceiling`: level of its class, None for one that does not exist."""
    attrs: dict[str, Json] = {
        "id": task.id,
        "agent": uid("Agent", task.agent),
        "purpose": task.purpose,
        "initiator": {
            "kind": task.initiator.kind,
            "id": task.initiator.id,
            "verified": task.initiator.verified,
        },
        "tools": [uid("Tool", name) for name in sorted(task.scope.tools)],
        "ceiling": NO_LEVEL if ceiling is None else ceiling,
        "environment": task.environment,
        "state": state.value,
        "expires_at": datetime_text(task.expires_at),
        "epoch": task.epoch,
        "depth": task.depth,
    }
    return entity("Task", task.id, attrs, [uid("Task", hop.task_id) for hop in task.delegation])


def _session(task: Task, session: Session) -> JsonObject:
    used: list[Json] = [uid("Tool", name) for name in sorted(session.tool_calls)]
    return entity("Session", task.id, {"tools_used": used, "max_read": session.max_read})
