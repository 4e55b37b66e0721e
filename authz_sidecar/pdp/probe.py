"""One sample request per action. Shows at load that the schema has what the sidecar supplies, nothing less or more.

Without it a schema that lost an attribute would deny every call, and the reason would show at the first call only.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import get_args

import orjson
from cedarpy import Decision, Entities, PolicySet, Schema, is_authorized

from authz_sidecar.documents import Problem
from authz_sidecar.pdp.request import (
    AgentFacts,
    Query,
    StartTaskFacts,
    ToolCallFacts,
    start_task_query,
    tool_call_query,
)
from authz_sidecar.pdp.source import Statement
from authz_sidecar.pdp.task_request import (
    ChangeAction,
    ChangeTaskFacts,
    DelegateTaskFacts,
    change_task_query,
    delegate_task_query,
)
from authz_sidecar.policy.bundle import Bundle
from authz_sidecar.policy.catalog import DerivedResource, Tool
from authz_sidecar.policy.data import Classification
from authz_sidecar.policy.files import SCHEMA_FILE
from authz_sidecar.policy.input_schema import Array, InputType, Object
from authz_sidecar.policy.manifest import Manifest
from authz_sidecar.strictjson import Json
from authz_sidecar.task.attenuation import child_of
from authz_sidecar.task.model import Initiator, Scope, Session, Task, TaskState

_NOW = datetime(2000, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_AGENT = "spiffe://sample/agent"
_SAMPLES: dict[str, Json] = {"string": "a", "integer": 1, "boolean": True, "number": 1.5}


def probe_problems(bundle: Bundle, schema: Schema, actions_only: Entities) -> Iterator[Problem]:
    """What the engine has against well-formed requests. Whether they would be permitted does not matter."""
    anything = PolicySet.from_str("permit (principal, action, resource);")
    questions = [
        *(start_task_query(bundle, _start(bundle, manifest)) for manifest in (None, *bundle.agents.values())),
        delegate_task_query(bundle, _delegation(bundle)),
        *(change_task_query(bundle, _change(bundle, action)) for action in get_args(ChangeAction)),
        *(tool_call_query(bundle, _call(bundle, tool)) for tool in bundle.catalog.tools.values()),
    ]
    statement = Statement(SCHEMA_FILE, bundle.schema, 1, 1)
    seen: set[str] = set()
    for question in questions:
        refusal = _refusal(question, schema, actions_only, anything)
        if refusal is None or refusal[0] in seen:
            continue
        message, declaration = refusal
        seen.add(message)
        text = (
            f"does not take what the sidecar supplies for action `{question.action['id']}`: {message}; "
            "keep the shipped attributes, and make your own optional (`?`)"
        )
        yield statement.problem(text, max(bundle.schema.find(declaration), 0))


def _refusal(query: Query, schema: Schema, actions_only: Entities, policies: PolicySet) -> tuple[str, str] | None:
    """What the engine says, and the declaration that it says it about."""
    for entity in query.entities:
        try:
            actions_only.with_added_json_str(orjson.dumps([entity]).decode(), schema)
        except ValueError as error:
            uid = entity["uid"]
            kind = uid["type"] if isinstance(uid, dict) else ""
            return f"entity type `{kind}`: {error}", f"entity {kind}"
    entities = actions_only.with_added_json_str(orjson.dumps(query.entities).decode(), schema)
    request = {
        "principal": query.principal,
        "action": query.action,
        "resource": query.resource,
        "context": orjson.dumps(query.context).decode(),
    }
    result = is_authorized(request, policies, entities, schema)
    if result.decision is Decision.NoDecision:
        return "; ".join(result.diagnostics.errors) or "no decision", f'action "{query.action["id"]}"'
    return None


def _task(bundle: Bundle) -> Task:
    worst = max(bundle.data.classes, key=bundle.data.classes.__getitem__)
    return Task(
        id="sample",
        agent=_AGENT,
        purpose="sample",
        initiator=Initiator(kind="human", id="sample", verified=False),
        scope=Scope(tools=frozenset(bundle.catalog.tools), resources=("*",), ceiling=worst),
        environment="sample",
        started_at=_NOW,
        expires_at=_NOW + _HOUR,
    )


def _start(bundle: Bundle, manifest: Manifest | None) -> StartTaskFacts:
    return StartTaskFacts(
        now=_NOW,
        agent=_AGENT if manifest is None else manifest.agent,
        manifest=manifest,
        identity_method="x509-svid",
        task=_task(bundle),
        ceiling_level=0,
        environment="sample",
        production=False,
        ttl=_HOUR,
        suspended=False,
        drifted=False,
    )


def _delegation(bundle: Bundle) -> DelegateTaskFacts:
    parent = _task(bundle)
    child = child_of(
        parent,
        task_id="sample-child",
        agent=f"{_AGENT}/child",
        purpose="sample",
        scope=parent.scope,
        now=_NOW,
        end=parent.expires_at,
    )
    return DelegateTaskFacts(
        now=_NOW,
        caller=_agent(parent.agent),
        delegate=_agent(child.agent),
        identity_method="x509-svid",
        child=child,
        parent=parent,
        parent_chain="active",
        exceeds=frozenset(),
        environment="sample",
        production=False,
    )


def _change(bundle: Bundle, action: ChangeAction) -> ChangeTaskFacts:
    return ChangeTaskFacts(
        now=_NOW,
        action=action,
        caller=_agent(_AGENT),
        owner=_agent(_AGENT),
        identity_method="x509-svid",
        task=_task(bundle),
        chain="active",
        operator=False,
        environment="sample",
        production=False,
    )


def _agent(spiffe_id: str) -> AgentFacts:
    return AgentFacts(agent=spiffe_id, manifest=None, suspended=False, drifted=False)


def _call(bundle: Bundle, tool: Tool) -> ToolCallFacts:
    return ToolCallFacts(
        now=_NOW,
        agent=_AGENT,
        manifest=None,
        identity_method="x509-svid",
        task=_task(bundle),
        task_state=TaskState.ACTIVE,
        resource_in_scope=True,
        tool=tool,
        resource=DerivedResource("sample:sample", "fixed"),
        classification=Classification(name="sample", level=0, owner="", known=True, collections=("sample",)),
        environment="sample",
        production=False,
        session=Session(1, {tool.id: 1}, 0),
        input=None if tool.input is None else _members(tool.input.type),
        suspended=False,
        drifted=False,
    )


def _members(kind: Object) -> dict[str, Json]:
    return {name: _sample(member) for name, member in kind.properties.items()}


def _sample(kind: InputType) -> Json:
    if isinstance(kind, Object):
        return _members(kind)
    if isinstance(kind, Array):
        return [_sample(kind.items)]
    return _SAMPLES[kind.kind]
