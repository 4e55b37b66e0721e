"""Step 4 of the decision cycle: establish the facts. Code finds out; whether they mean yes or no is Cedar's business.

Nothing here believes the agent: identity comes from the SVID, tool and audience from the catalog, the resource from the
arguments by a catalog rule, its class from the data classification, history from the ledger. A fact without which no
policy could be asked (no such tool, no such task, a resource that cannot be named) is a denial with its own reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from authz_sidecar.engine.commands import AuthorizeCommand
from authz_sidecar.engine.lineage import Lineage
from authz_sidecar.engine.live import LiveTask
from authz_sidecar.engine.options import EngineOptions
from authz_sidecar.identity.subject import Subject
from authz_sidecar.pdp.request import DelegationFacts, Query, ToolCallFacts, tool_call_query
from authz_sidecar.pdp.verdict import Deny
from authz_sidecar.policy.bundle import Bundle
from authz_sidecar.policy.catalog import (
    ArgumentsInvalid,
    DerivedResource,
    ResourceMismatch,
    ResourceUnderivable,
    Tool,
    check_arguments,
    derive_resource,
)
from authz_sidecar.policy.data import Classification
from authz_sidecar.policy.pattern import in_scope
from authz_sidecar.task.attenuation import chain_shrinks
from authz_sidecar.task.model import Session, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """What was established about a call. `query` is None exactly when `missing` says which fact could not be."""

    task: Task | None
    session: Session | None
    tool: Tool | None
    audience: str
    resource: DerivedResource | None
    classification: Classification | None
    query: Query | None
    missing: Deny

    @property
    def level(self) -> int:
        """Data class level of the resource. Raises when no resource was established."""
        if self.classification is None:
            raise ValueError("no resource was established")
        return self.classification.level

    @property
    def deadline(self) -> datetime:
        """When the task ends at the latest. Raises when there is no task."""
        if self.task is None:
            raise ValueError("no task was established")
        return self.task.expires_at


def establish(
    *,
    options: EngineOptions,
    bundle: Bundle,
    subject: Subject,
    command: AuthorizeCommand,
    live: LiveTask | None,
    suspended: bool,
    above: Lineage,
    now: datetime,
) -> CallFacts:
    """Gather the facts of one call at `now`. Never raises for what the caller sent; missing facts deny.

    `above`: the tasks above the task, as they stand.
    """
    task = live.task if live else None
    session = live.session if live else None
    tool = bundle.catalog.tools.get(command.tool)
    audience = tool.audience if tool else ""
    resource: DerivedResource | None = None
    classification: Classification | None = None
    missing: Deny | None = None

    if task is None:
        missing = Deny(reason_code="task_not_found", errors=("no such task for this agent",))
    elif tool is None:
        missing = Deny(reason_code="unknown_tool", errors=(f"`{command.tool}` is not in the catalog",))
    elif command.audience not in (None, tool.audience):
        missing = Deny(reason_code="audience_mismatch", errors=(f"the catalog's audience is `{tool.audience}`",))
    elif tool.arguments == "full" and command.arguments is None:
        missing = Deny(reason_code="arguments_missing", errors=("the catalog asks for the arguments of this tool",))
    else:
        try:
            arguments = command.arguments if tool.arguments == "full" else None
            if arguments is not None:
                check_arguments(tool, arguments)
            resource = derive_resource(tool, arguments, command.declared_resource)
            classification = bundle.data.classify(resource.id)
        except ArgumentsInvalid as error:
            missing = Deny(reason_code="arguments_invalid", errors=(str(error),))
        except ResourceMismatch as error:
            missing = Deny(reason_code="resource_mismatch", errors=(str(error),))
        except ResourceUnderivable as error:
            missing = Deny(reason_code="resource_underivable", errors=(str(error),))

    query: Query | None = None
    if missing is None and task and session is not None and tool and resource and classification:
        query = tool_call_query(
            bundle,
            ToolCallFacts(
                now=now,
                agent=str(subject.spiffe_id),
                manifest=bundle.agents.get(str(subject.spiffe_id)),
                identity_method=subject.method,
                task=task,
                task_state=task.state_at(now),
                resource_in_scope=in_scope(task.scope.resources, resource.id),
                tool=tool,
                resource=resource,
                classification=classification,
                environment=options.environment,
                production=options.production,
                session=session,
                input=command.arguments if tool.arguments == "full" else None,
                suspended=suspended,
                drifted=False,
                delegation=_delegation(bundle, task, above, tool, classification),
            ),
        )
    return CallFacts(
        task=task,
        session=session,
        tool=tool,
        audience=audience,
        resource=resource,
        classification=classification,
        query=query,
        missing=missing or Deny(reason_code="facts_incomplete"),
    )


def _delegation(
    bundle: Bundle, task: Task, above: Lineage, tool: Tool, classification: Classification
) -> DelegationFacts:
    """Whether the chain still holds: compared again at every use, with the data classes and manifests of now."""
    if not task.delegation:
        return DelegationFacts()
    level = bundle.data.level
    whole = len(above.tasks) == len(task.delegation)
    manifests = [bundle.agents.get(hop.agent) for hop in task.delegation]
    return DelegationFacts(
        state=above.state,
        shrinks=whole and chain_shrinks((*above.tasks, task), level),
        manifests_cover=all(
            manifest is not None
            and tool.id in manifest.tools
            and (boundary := level(manifest.boundary)) is not None
            and classification.level <= boundary
            for manifest in manifests
        ),
    )
