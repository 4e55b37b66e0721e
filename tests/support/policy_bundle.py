"""The starter bundle for tests: as shipped, or with edits, and facts about calls and tasks with sensible defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from authz_sidecar.pdp.compile import compile_bundle
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.pdp.request import StartTaskFacts, ToolCallFacts
from authz_sidecar.policy.bundle import Bundle, BundleFiles, read_bundle
from authz_sidecar.policy.catalog import check_arguments, derive_resource
from authz_sidecar.policy.manifest import Manifest
from authz_sidecar.policy.pattern import in_scope
from authz_sidecar.strictjson import Json
from authz_sidecar.task.model import Initiator, Scope, Session, Task, TaskState

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


def manifest_for(bundle: Bundle, agent: str, given: Given) -> Manifest | None:
    found = bundle.agents.get(agent_id(agent))
    if found is None or given.manifest == "none":
        return None
    if given.manifest == "draft":
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
