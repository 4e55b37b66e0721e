"""`authz-sidecar policy`: check a bundle before it ships, and see which one decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from authz_sidecar.cli.problems import show_problems
from authz_sidecar.cli.rpc import CallerOptions, calls_sidecar, connected
from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen
from authz_sidecar.cli.settings import DEFAULT_CONFIG, ConfigOption, load_config

if TYPE_CHECKING:
    from authz_sidecar.documents import Problem
    from authz_sidecar.v1 import policy_pb2

app = typer.Typer(no_args_is_help=True, help="Check policies, and see which ones decide.")


@app.command()
def check(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The bundle's directory; else the configuration's.")
    ] = None,
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Compile a bundle as the sidecar does before it activates one; print every problem with file, line and column."""
    from authz_sidecar.pdp.compile import BundleRejected, compile_bundle
    from authz_sidecar.policy.bundle import read_bundle

    bundle = directory or load_config(config, check_paths=False).policy.directory
    screen = Screen(output)
    try:
        pdp = compile_bundle(read_bundle(bundle))
    except BundleRejected as error:
        raise show_problems(screen, [_located(problem, bundle) for problem in error.problems]) from None
    counts = {
        "policies": len(pdp.policies),
        "tools": len(pdp.bundle.catalog.tools),
        "agents": len(pdp.bundle.agents),
    }
    if screen.json:
        screen.document({"ok": True, "problems": [], "digest": pdp.digest, "engine": pdp.engine, **counts})
    else:
        screen.line(f"{bundle}: ok", "green")
        screen.fields({"digest": pdp.digest, **{name: str(count) for name, count in counts.items()}})


@app.command()
@calls_sidecar
def status(*, caller: CallerOptions, output: OutputOption = OutputFormat.HUMAN) -> None:
    """Ask the sidecar which bundle decides, and whether a newer one was refused."""
    from authz_sidecar.v1 import policy_pb2, policy_pb2_grpc

    with connected(caller) as sidecar:
        stub = policy_pb2_grpc.PolicyServiceStub(sidecar.channel)
        answer = sidecar.call(stub.GetPolicyStatus, policy_pb2.GetPolicyStatusRequest())
    screen = Screen(output)
    if screen.json:
        screen.document(
            {**_fields(answer), "policies": answer.policies, "tools": answer.tools, "agents": answer.agents}
        )
        return
    screen.fields({name: value for name, value in _fields(answer).items() if value})
    if answer.rejected_digest:
        screen.line("the newest bundle was refused; the one above still decides", "yellow")


def _located(problem: Problem, bundle: Path) -> Problem:
    """The problem with a file name that an editor can open from here."""
    return problem if problem.file == str(bundle) else replace(problem, file=str(bundle / problem.file))


def _fields(answer: policy_pb2.GetPolicyStatusResponse) -> dict[str, str]:
    from datetime import UTC

    from authz_sidecar.clock import format_time

    return {
        "digest": answer.policy_digest,
        "activated_at": format_time(answer.activated_at.ToDatetime(UTC)) if answer.HasField("activated_at") else "",
        "policies": str(answer.policies),
        "tools": str(answer.tools),
        "agents": str(answer.agents),
        "engine": answer.engine,
        "rejected_digest": answer.rejected_digest,
        "rejected_reason": answer.rejected_reason,
    }
