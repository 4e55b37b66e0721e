"""`authz-sidecar agent`: the kill switch of a running sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from authz_sidecar.cli.failure import Unusable
from authz_sidecar.cli.rpc import CallerOptions, calls_sidecar, connected
from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen
from authz_sidecar.strictjson import Json

if TYPE_CHECKING:
    from authz_sidecar.v1 import common_pb2

app = typer.Typer(no_args_is_help=True, help="Stop agents, and let them go on.")

AgentArgument = Annotated[
    str | None, typer.Argument(metavar="SPIFFE-ID", help="The agent; leave it out with `--all`.", show_default=False)
]
AllOption = Annotated[bool, typer.Option("--all", help="Every agent.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; recorded, may be erased later.")]


@app.command()
@calls_sidecar
def suspend(
    agent: AgentArgument = None,
    *,
    reason: ReasonOption,
    everyone: AllOption = False,
    caller: CallerOptions,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Stop an agent, or all of them: nothing is permitted any more, and every token so far is dead. For operators."""
    from authz_sidecar.v1 import admin_pb2, admin_pb2_grpc

    named = _one(agent, everyone)
    with connected(caller) as sidecar:
        stub = admin_pb2_grpc.AdminServiceStub(sidecar.channel)
        answer: admin_pb2.SuspendAllResponse | admin_pb2.SuspendAgentResponse
        if named is None:
            answer = sidecar.call(stub.SuspendAll, admin_pb2.SuspendAllRequest(reason=reason))
        else:
            answer = sidecar.call(stub.SuspendAgent, admin_pb2.SuspendAgentRequest(agent=named, reason=reason))
    _show(Screen(output), "suspended", named, answer.position, answer.revocation_epoch)


@app.command()
@calls_sidecar
def resume(
    agent: AgentArgument = None,
    *,
    reason: ReasonOption,
    everyone: AllOption = False,
    caller: CallerOptions,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Let an agent go on. Its old tokens stay dead. `--all` lifts the stop of all, and of nobody by name."""
    from authz_sidecar.v1 import admin_pb2, admin_pb2_grpc

    named = _one(agent, everyone)
    with connected(caller) as sidecar:
        stub = admin_pb2_grpc.AdminServiceStub(sidecar.channel)
        answer = sidecar.call(stub.ResumeAgent, admin_pb2.ResumeAgentRequest(agent=named or "*", reason=reason))
    _show(Screen(output), "resumed", named, answer.position, None)


def _one(agent: str | None, everyone: bool) -> str | None:
    """The agent, or None for all of them. Raises Unusable."""
    if (agent is None) != everyone:
        raise Unusable("name one agent by its SPIFFE ID, or give `--all`")
    return agent


def _show(screen: Screen, done: str, agent: str | None, position: common_pb2.LedgerPosition, epoch: int | None) -> None:
    if screen.json:
        document: dict[str, Json] = {
            "agent": agent or "*",
            "state": done,
            "ledger": {"log": position.log, "index": position.index},
        }
        screen.document(document if epoch is None else {**document, "revocation_epoch": epoch})
        return
    screen.line(f"{agent or 'every agent'} {done}; record {position.index}", "red" if done == "suspended" else "green")
