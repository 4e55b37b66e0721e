"""How the cost of a decision grows with the number of policies, when a request matches only a few of them."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from authz_sidecar.clock import system_now
from authz_sidecar.pdp.compile import compile_bundle
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.pdp.request import Query, ToolCallFacts, tool_call_query
from authz_sidecar.pdp.verdict import Permit
from authz_sidecar.policy.catalog import derive_resource
from authz_sidecar.policy.files import BundleFiles, digest_of, read_bundle
from authz_sidecar.task.model import Initiator, Scope, Session, Task, TaskState

SIZES = (10, 100, 1_000, 10_000)
AGENT = "spiffe://example.org/agent/support"
TOOL = "crm/read_contact"
_POLICIES = Path(__file__).parent.parent / "policies"


def run(*, rounds: int, calls: int) -> dict[str, object]:
    """Microseconds a decision (question and evaluation) by number of added policies, interleaved."""
    starter = read_bundle(_POLICIES)
    compiled: dict[int, Pdp] = {}
    compile_ms: dict[str, float] = {}
    for size in SIZES:
        started = time.perf_counter()
        compiled[size] = compile_bundle(_with_policies(starter, size))
        compile_ms[str(size)] = (time.perf_counter() - started) * 1000
    samples: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(rounds):
        for size, pdp in compiled.items():
            started = time.perf_counter()
            for _ in range(calls):
                verdict = pdp.evaluate(_question(pdp))
            samples[size].append((time.perf_counter() - started) / calls * 1e6)
            if not isinstance(verdict, Permit):
                raise SystemExit(f"expected a permit with {size} policies, got {verdict}")
    medians = {str(size): statistics.median(values) for size, values in samples.items()}
    return {
        "decision_us": medians,
        "growth_ratio": medians[str(SIZES[-1])] / medians[str(SIZES[0])],
        "compile_ms": compile_ms,
    }


def _with_policies(starter: BundleFiles, count: int) -> BundleFiles:
    """The starter bundle and `count` permits for another agent and single contacts, spread over four tools."""
    tools = ("crm/read_contact", "crm/search_contacts", "crm/update_contact", "deploy/get_service")
    text = "".join(
        f'@id("extra-{number}")\n@reason("One of many.")\n'
        f'permit (principal == Agent::"spiffe://example.org/agent/analyst", '
        f'action == Action::"{tools[number % len(tools)]}", resource == Resource::"crm:contact/n-{number}");\n'
        for number in range(count)
    )
    files = {**starter.files, "rules/extra.cedar": text.encode()}
    return BundleFiles(files=files, digest=digest_of(files))


def _question(pdp: Pdp) -> Query:
    now = system_now()
    bundle = pdp.bundle
    tool = bundle.catalog.tools[TOOL]
    arguments = {"contact_id": "c-1001"}
    resource = derive_resource(tool, dict(arguments), None)
    task = Task(
        id="01890a5d-ac96-774b-bcce-b302099a8057",
        agent=AGENT,
        purpose="measure",
        initiator=Initiator(kind="workflow", id="bench", verified=False),
        scope=Scope(tools=frozenset({TOOL}), resources=("crm:*",), ceiling="internal"),
        environment="development",
        started_at=now,
        expires_at=now.replace(year=now.year + 1),
    )
    return tool_call_query(
        bundle,
        ToolCallFacts(
            now=now,
            agent=AGENT,
            manifest=bundle.agents[AGENT],
            identity_method="x509-svid",
            task=task,
            task_state=TaskState.ACTIVE,
            resource_in_scope=True,
            tool=tool,
            resource=resource,
            classification=bundle.data.classify(resource.id),
            environment="development",
            production=False,
            session=Session(),
            input=dict(arguments),
            suspended=False,
            drifted=False,
        ),
    )
