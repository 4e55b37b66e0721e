"""`authz-sidecar init`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from authz_sidecar.cli.failure import Unsafe, Unusable
from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen

if TYPE_CHECKING:
    from authz_sidecar.cli.initialise import Report
    from authz_sidecar.cli.workspace import Workspace
    from authz_sidecar.identity.spiffe_id import TrustDomain


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made when it does not exist.")],
    *,
    trust_domain: Annotated[
        str | None,
        typer.Option("--trust-domain", metavar="NAME", help="Name of the trust domain; `example.org` unless given."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option("--agent", metavar="NAME", help="Also make an SVID for this agent; may be repeated."),
    ] = None,
    service: Annotated[
        list[str] | None,
        typer.Option("--service", metavar="NAME", help="Also make an SVID for this tool server; may be repeated."),
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Issue all SVIDs again, and nothing else.")] = False,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Make a trust domain, keys, SVIDs, a configuration and policies to develop with.

    For development only: every key, the authority's too, lies in DIR. What exists is never overwritten; a second run
    makes what is missing. A directory whose configuration is not of the `dev` profile is refused.
    """
    import os

    from authz_sidecar.cli import initialise
    from authz_sidecar.cli.workspace import Workspace
    from authz_sidecar.clock import system_now

    workspace = Workspace(directory)
    refuse_production(workspace, os.environ)
    if renew:
        if trust_domain or agent or service:
            raise Unusable(
                "`--renew` stands alone: it issues the SVIDs that exist again; run init once more to add any"
            )
        report = initialise.renew(workspace, now=system_now())
    else:
        report = initialise.initialise(
            workspace,
            trust_domain=_chosen(trust_domain, initialise.existing_trust_domain(workspace)),
            agents=agent or (),
            services=service or (),
            now=system_now(),
        )
    steps = _next_steps(workspace, report, agent or (), service or ())
    screen = Screen(output)
    if screen.json:
        screen.document(
            {
                "directory": str(directory),
                "created": [*report.created],
                "renewed": [*report.renewed],
                "kept": [*report.kept],
                "expired": [*report.expired],
                "next": [*steps],
            }
        )
    else:
        _show(screen, report, steps)


def refuse_production(workspace: Workspace, environment: Mapping[str, str]) -> None:
    """Raises Unsafe when the workspace's configuration is, or cannot be shown not to be, of another profile than `dev`.

    The configuration's own default is `production`, so a file that does not say `profile: dev` is refused.
    """
    from authz_sidecar.documents import DocumentError, parse_yaml

    remedy = "this command puts an authority's keys on disk, for development only; choose another directory"
    forced = environment.get("AUTHZ_SIDECAR_PROFILE", "dev")
    if forced != "dev":
        raise Unsafe(f"AUTHZ_SIDECAR_PROFILE is `{forced[:32]}`: {remedy}")
    if not workspace.config.exists():
        return
    try:
        document = parse_yaml(str(workspace.config), workspace.config.read_bytes()).value
    except DocumentError:
        document = None
    if not isinstance(document, dict) or document.get("profile") != "dev":
        raise Unsafe(f"`{workspace.config}` does not say `profile: dev`: {remedy}")


def _chosen(name: str | None, existing: TrustDomain | None) -> TrustDomain:
    from authz_sidecar.identity.spiffe_id import MalformedSpiffeId, TrustDomain

    if name is None:
        return existing or TrustDomain("example.org")
    try:
        return TrustDomain(name)
    except MalformedSpiffeId as error:
        raise Unusable(f"`--trust-domain`: {error}") from None


def _next_steps(
    workspace: Workspace, report: Report, agents: tuple[str, ...] | list[str], services: tuple[str, ...] | list[str]
) -> list[str]:
    steps = [f"write a manifest for agent `{name}` in {workspace.policies}/agents/" for name in agents]
    steps += [f"list `{name}` under `access.resource_servers` in {workspace.config}" for name in services]
    steps += [f"{path} has expired: authz-sidecar init {workspace.root} --renew" for path in report.expired]
    if "config.yaml" in report.created:
        steps += [
            f"authz-sidecar policy check {workspace.policies}",
            f"authz-sidecar serve --config {workspace.config}",
        ]
    return steps


def _show(screen: Screen, report: Report, steps: list[str]) -> None:
    if not report.created and not report.renewed:
        screen.line("Nothing to do: everything is there.")
    for verb, style, paths in (
        ("created", "green", report.created),
        ("renewed", "green", report.renewed),
        ("kept", "", report.kept),
    ):
        for path in paths:
            screen.line(f"{verb}  {path}", style)
    if report.kept:
        screen.line("Kept files differ from the starter; they are yours now.")
    if report.created or report.renewed:
        screen.line("For development only: every key lies in this directory.", "yellow")
    if steps:
        screen.line("Next:")
        for step in steps:
            screen.line(f"  {step}")
