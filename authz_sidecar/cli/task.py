"""`authz-sidecar task`: start, look at and complete tasks of a running sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.failure import Unusable
from authz_sidecar.cli.rpc import CallerOptions, calls_sidecar, connected
from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen
from authz_sidecar.strictjson import Json

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from authz_sidecar.v1 import common_pb2, task_pb2

app = typer.Typer(no_args_is_help=True, help="Start, look at and complete tasks.")

TaskArgument = Annotated[str, typer.Argument(metavar="ID", help="The task.")]


@app.command()
@calls_sidecar
def start(
    purpose: Annotated[str, typer.Option("--purpose", metavar="TEXT", help="Why, in one line; recorded in the clear.")],
    *,
    tool: Annotated[
        list[str], typer.Option("--tool", metavar="SERVER/NAME", help="A tool it may use; may be repeated.")
    ],
    ceiling: Annotated[str, typer.Option("--ceiling", metavar="CLASS", help="Highest data class it may touch.")],
    resource: Annotated[
        list[str] | None,
        typer.Option(
            "--resource", metavar="PATTERN", help="Resources it may touch; may be repeated; all unless given."
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option("--objective", metavar="TEXT", help="The full objective; may be erased later.")
    ] = "",
    initiator: Annotated[
        str | None,
        typer.Option("--initiator", metavar="KIND:ID", help="human:ID or workflow:ID; the current user unless given."),
    ] = None,
    ttl: Annotated[str | None, typer.Option("--ttl", metavar="DURATION", help="How long, like 15m.")] = None,
    request_id: Annotated[
        str | None, typer.Option("--request-id", metavar="ID", help="Idempotency key; random unless given.")
    ] = None,
    caller: CallerOptions,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Start a task for the agent whose SVID is used. A refusal is a failed check."""
    import secrets

    from authz_sidecar.cli.moment import parse_duration
    from authz_sidecar.v1 import common_pb2, task_pb2, task_pb2_grpc

    request = task_pb2.StartTaskRequest(
        request_id=request_id or secrets.token_urlsafe(16),
        purpose=purpose,
        objective=objective,
        initiator=_initiator(initiator),
        scope=task_pb2.TaskScope(tools=tool, resources=resource or ["*"], ceiling=ceiling),
    )
    if duration := parse_duration("--ttl", ttl):
        request.ttl.FromTimedelta(duration)
    with connected(caller) as sidecar:
        answer = sidecar.call(task_pb2_grpc.TaskServiceStub(sidecar.channel).StartTask, request)
    started = answer.outcome == common_pb2.OUTCOME_PERMIT
    screen = Screen(output)
    if screen.json:
        screen.document(_answer_json(answer, started))
    elif started:
        _show_task(screen, answer.task)
    else:
        screen.line(f"refused: {answer.reason_code}", "red")
        for policy in answer.determining_policies:
            screen.line(f"  {policy.id}: {policy.reason}")
    if not started:
        raise typer.Exit(ExitCode.CHECK_FAILED)


@app.command()
@calls_sidecar
def show(
    task: TaskArgument,
    *,
    caller: CallerOptions,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Show a task: agents see their own, operators see all."""
    from authz_sidecar.v1 import task_pb2, task_pb2_grpc

    with connected(caller) as sidecar:
        stub = task_pb2_grpc.TaskServiceStub(sidecar.channel)
        answer = sidecar.call(stub.GetTask, task_pb2.GetTaskRequest(task_id=task))
    _print_task(Screen(output), answer.task)


@app.command()
@calls_sidecar
def complete(
    task: TaskArgument,
    *,
    summary: Annotated[
        str, typer.Option("--summary", metavar="TEXT", help="What came of it; may be erased later.")
    ] = "",
    caller: CallerOptions,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """End a task that is done. Its tokens are no longer active."""
    from authz_sidecar.v1 import task_pb2, task_pb2_grpc

    with connected(caller) as sidecar:
        stub = task_pb2_grpc.TaskServiceStub(sidecar.channel)
        answer = sidecar.call(stub.CompleteTask, task_pb2.CompleteTaskRequest(task_id=task, summary=summary))
    _print_task(Screen(output), answer.task)


def _initiator(text: str | None) -> common_pb2.Initiator:
    """`human:ID` or `workflow:ID`. Raises Unusable."""
    import getpass

    from authz_sidecar.v1 import common_pb2

    kinds = {"human": common_pb2.INITIATOR_KIND_HUMAN, "workflow": common_pb2.INITIATOR_KIND_WORKFLOW}
    kind, _, identifier = (text if text is not None else f"human:{getpass.getuser()}").partition(":")
    if not identifier or kind not in kinds:
        raise Unusable(f"`--initiator {kind[:16]}:...`: expected human:ID or workflow:ID")
    return common_pb2.Initiator(kind=kinds[kind], id=identifier)


def _print_task(screen: Screen, task: task_pb2.Task) -> None:
    if screen.json:
        screen.document(task_json(task))
    else:
        _show_task(screen, task)


def _show_task(screen: Screen, task: task_pb2.Task) -> None:
    from authz_sidecar.cli.record_view import flattened

    screen.fields({name: value for name, value in flattened(task_json(task)).items() if value not in ("null", "")})


def _answer_json(answer: task_pb2.StartTaskResponse, started: bool) -> dict[str, Json]:
    return {
        "started": started,
        "reason_code": answer.reason_code,
        "determining_policies": [
            {"id": policy.id, "effect": policy.effect, "tier": policy.tier, "reason": policy.reason}
            for policy in answer.determining_policies
        ],
        "task": task_json(answer.task) if started else None,
        "policy_digest": answer.policy_digest,
        "ledger": {"log": answer.position.log, "index": answer.position.index},
        "recalled": answer.recalled,
    }


def task_json(task: task_pb2.Task) -> dict[str, Json]:
    """A task of the wire as JSON, in the words of the ledger's task documents."""
    from datetime import UTC

    from authz_sidecar.clock import format_time
    from authz_sidecar.v1 import common_pb2

    def time(moment: Timestamp) -> str | None:
        return format_time(moment.ToDatetime(UTC)) if moment.ByteSize() else None

    return {
        "id": task.task_id,
        "agent": task.agent,
        "state": common_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower(),
        "purpose": task.purpose,
        "initiator": {
            "kind": common_pb2.InitiatorKind.Name(task.initiator.kind).removeprefix("INITIATOR_KIND_").lower(),
            "id": task.initiator.id,
            "verified": task.initiator.verified,
        },
        "tools": [*task.scope.tools],
        "resources": [*task.scope.resources],
        "ceiling": task.scope.ceiling,
        "environment": task.environment,
        "started_at": time(task.started_at),
        "expires_at": time(task.expires_at),
        "ended_at": time(task.ended_at),
        "epoch": task.epoch,
        "parent_id": task.parent_task_id or None,
        "depth": task.depth,
    }
