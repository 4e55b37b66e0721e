"""The starter bundle for tests: as shipped, or with edits, and facts about calls and tasks with sensible defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from authz_sidecar.pdp.compile import compile_bundle
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.pdp.request import AgentFacts, DelegationFacts, StartTaskFacts, ToolCallFacts
from authz_sidecar.pdp.task_request import ChangeAction, ChangeTaskFacts, DelegateTaskFacts
from authz_sidecar.policy.bundle import Bundle, BundleFiles, read_bundle
from authz_sidecar.policy.catalog import check_arguments, derive_resource
from authz_sidecar.policy.manifest import Manifest
from authz_sidecar.policy.pattern import in_scope
from authz_sidecar.strictjson import Json
from authz_sidecar.task.attenuation import Excess, child_of
from authz_sidecar.task.model import Hold, Hop, Initiator, Scope, Session, Task, TaskState

STARTER = Path(__file__).parents[2] / "policies"
NOW = datetime(2027, 3, 1, 12, 0, tzinfo=UTC)


@cache
def starter_files() -> BundleFiles:
    return read_bundle(STARTER)


@cache
def starter_pdp() -> Pdp:
    return compile_bundle(starter_files())


# The least that a bundle may have: it bounds the start of tasks and no call.
GUARDRAIL = {
    "guardrails/least.cedar": '@id("g") @reason("r") @tier("hard") '
    'forbid (principal, action == Action::"start_task", resource) when { principal.suspended };'
}


def edited(changes: Mapping[str, str | None]) -> BundleFiles:
    """The starter with files replaced, added, or removed (None)."""
    files = {path: raw for path, raw in starter_files().files.items() if changes.get(path, "") is not None}
    files.update({path: text.encode() for path, text in changes.items() if text is not None})
    return BundleFiles.of(files)


def starter_text(path: str) -> str:
    return starter_files().files[path].decode()


def agent_id(name: str) -> str:
    return f"spiffe://example.org/agent/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is true when the question is asked. The defaults are a healthy task in production."""

    state: str = "active"
    task_agent: str | None = None
    task_environment: str | None = None
    environment: str = "production"
    production: bool = True
    tools: tuple[str, ...] | None = None
    resources: tuple[str, ...] = ("*",)
    ceiling: str = "restricted"
    ttl: timedelta = timedelta(hours=1)
    elapsed: timedelta = timedelta(0)
    verified: bool = True
    suspended: bool = False
    drifted: bool = False
    manifest: str = "approved"
    calls: int = 0
    tool_calls: int = 0
    max_read: int = 0
    days_later: int = 0
    # Above the task, and what is asked about it.
    above_state: str = "active"
    shrinks: bool = True
    manifests_cover: bool = True
    to: str = "analyst"
    exceeds: tuple[str, ...] = ()
    delegate_suspended: bool = False
    delegate_drifted: bool = False
    delegate_manifest: str = "approved"
    caller: str = ""
    operator: bool = False
    above: tuple[str, ...] = ()
    held_by: str = ""


def manifest_for(bundle: Bundle, agent: str, given: Given) -> Manifest | None:
    return _manifest(bundle, agent, given.manifest)


def _manifest(bundle: Bundle, agent: str, kind: str) -> Manifest | None:
    found = bundle.agents.get(agent_id(agent))
    if found is None or kind == "none":
        return None
    if kind == "elsewhere":
        return found.model_copy(update={"environments": ["elsewhere"]})
    if kind == "draft":
        return found.model_copy(update={"status": "draft", "approved_by": "", "approved_at": None})
    return found


def task_for(bundle: Bundle, agent: str, given: Given) -> Task:
    manifest = bundle.agents.get(agent_id(agent))
    tools = given.tools if given.tools is not None else (manifest.tools if manifest else ())
    started = NOW + timedelta(days=given.days_later)
    return Task(
        id="task-1",
        agent=agent_id(given.task_agent or agent),
        purpose="answer ticket 4711",
        initiator=Initiator(kind="human", id="alice@example.org", verified=given.verified),
        scope=Scope(tools=frozenset(tools), resources=given.resources, ceiling=given.ceiling),
        environment=given.task_environment or given.environment,
        started_at=started,
        expires_at=started + given.ttl,
        state=TaskState(given.state),
        held_by=Hold(given.held_by) if given.held_by else None,
        delegation=tuple(Hop(f"above-{depth}", agent_id(name), depth) for depth, name in enumerate(given.above)),
    )


def call_facts(
    bundle: Bundle,
    agent: str = "support",
    tool: str = "crm/read_contact",
    arguments: dict[str, Json] | None = None,
    *,
    declared: str | None = None,
    given: Given | None = None,
) -> ToolCallFacts:
    """Facts as the engine would establish them, for a call whose arguments are valid."""
    given = given or Given()
    found = bundle.catalog.tools[tool]
    if arguments is None and found.arguments == "full":
        arguments = {"contact_id": "c-42"}
    check_arguments(found, arguments)
    resource = derive_resource(found, arguments, declared)
    task = task_for(bundle, agent, given)
    counts = {tool: given.tool_calls} if given.tool_calls else {}
    return ToolCallFacts(
        now=task.started_at + given.elapsed,
        agent=agent_id(agent),
        manifest=manifest_for(bundle, agent, given),
        identity_method="x509-svid",
        task=task,
        task_state=TaskState(given.state),
        resource_in_scope=in_scope(task.scope.resources, resource.id),
        tool=found,
        resource=resource,
        classification=bundle.data.classify(resource.id),
        environment=given.environment,
        production=given.production,
        session=Session(given.calls, counts, given.max_read),
        input=arguments,
        suspended=given.suspended,
        drifted=given.drifted,
        delegation=DelegationFacts(
            state=given.above_state, shrinks=given.shrinks, manifests_cover=given.manifests_cover
        ),
    )


def start_facts(bundle: Bundle, agent: str = "support", given: Given | None = None) -> StartTaskFacts:
    given = given or Given()
    task = task_for(bundle, agent, given)
    return StartTaskFacts(
        now=task.started_at,
        agent=agent_id(agent),
        manifest=manifest_for(bundle, agent, given),
        identity_method="x509-svid",
        task=task,
        ceiling_level=bundle.data.level(given.ceiling),
        environment=given.environment,
        production=given.production,
        ttl=given.ttl,
        suspended=given.suspended,
        drifted=given.drifted,
    )


def delegate_facts(bundle: Bundle, agent: str = "support", given: Given | None = None) -> DelegateTaskFacts:
    """The agent gives `given.tools`, or all of the delegate's that it has itself, to `given.to`."""
    given = given or Given()
    parent = replace(task_for(bundle, agent, replace(given, tools=None)), state=TaskState(given.state))
    delegate = bundle.agents.get(agent_id(given.to))
    shared = parent.scope.tools & set(delegate.tools if delegate else ())
    child = child_of(
        parent,
        task_id="task-2",
        agent=agent_id(given.to),
        purpose="look it up",
        scope=replace(parent.scope, tools=frozenset(given.tools) if given.tools is not None else shared),
        now=parent.started_at,
        end=parent.expires_at,
    )
    return DelegateTaskFacts(
        now=parent.started_at,
        caller=AgentFacts(
            agent=agent_id(given.caller or agent),
            manifest=manifest_for(bundle, given.caller or agent, given),
            suspended=given.suspended,
            drifted=given.drifted,
        ),
        delegate=AgentFacts(
            agent=agent_id(given.to),
            manifest=_manifest(bundle, given.to, given.delegate_manifest),
            suspended=given.delegate_suspended,
            drifted=given.delegate_drifted,
        ),
        identity_method="x509-svid",
        child=child,
        parent=parent,
        parent_chain=given.above_state,
        exceeds=frozenset(map(Excess, given.exceeds)),
        environment=given.environment,
        production=given.production,
    )


def change_facts(
    bundle: Bundle, action: ChangeAction, agent: str = "support", given: Given | None = None
) -> ChangeTaskFacts:
    """`given.caller`, or the agent itself, changes the state of the agent's task."""
    given = given or Given()
    caller = given.caller or agent
    task = task_for(bundle, agent, given)
    return ChangeTaskFacts(
        now=task.started_at,
        action=action,
        caller=AgentFacts(
            agent=agent_id(caller),
            manifest=manifest_for(bundle, caller, given),
            suspended=given.suspended,
            drifted=given.drifted,
        ),
        owner=AgentFacts(
            agent=agent_id(agent), manifest=manifest_for(bundle, agent, given), suspended=False, drifted=False
        ),
        identity_method="x509-svid",
        task=task,
        chain=given.above_state,
        operator=given.operator,
        environment=given.environment,
        production=given.production,
    )


CREW = ("crew-0", "crew-1", "crew-2", "crew-3", "crew-4", "crew-5")


@cache
def crew_pdp() -> Pdp:
    """The starter with six more support agents, so that a task can be handed on as often as it goes."""
    manifest = starter_text("agents/support.yaml")
    return compile_bundle(
        edited({f"agents/{name}.yaml": manifest.replace("/agent/support", f"/agent/{name}") for name in CREW})
    )
