"""The command tree. Command modules import only Typer at the top; each command imports what it needs when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from authz_sidecar.cli import (
    agent,
    audit,
    audit_verify,
    config,
    doctor,
    healthcheck,
    init,
    policy,
    serve,
    task,
    token,
    version,
)
from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.failure import explain, report

PROGRAM = "authz-sidecar"


class CommandLine(TyperGroup):
    """The root of the commands, which turns every failure into a line and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and, in standalone mode, leave with its exit code."""
        try:
            # Outside standalone mode an `Exit` comes back as its code and usage errors are raised.
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra) or ExitCode.OK
        except typer.TyperException as error:
            code = error.exit_code
            _report_usage(error)
        except typer.Abort:
            code = ExitCode.INTERRUPTED
        if standalone_mode:
            raise SystemExit(int(code))
        return code

    def invoke(self, ctx: Any) -> Any:
        """Run the command; no exception leaves as a traceback, unless `--debug` is given and it is a bug."""
        try:
            return super().invoke(ctx)
        except (typer.TyperException, typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            message, code = explain(error)
            if code is ExitCode.INTERNAL and ctx.params.get("debug"):
                raise
            report(message)
            raise typer.Exit(code) from None


def _report_usage(error: typer.TyperException) -> None:
    message = error.format_message()
    # Asking for a group without a command has printed the help already, and has nothing to add.
    if not message.strip():
        return
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else PROGRAM
    # Typer's own validation errors carry the words of the library that found them.
    first, *rest = message.replace("Value error, ", "").rstrip(".").splitlines()
    said = " ".join([first[:1].lower() + first[1:], *(line.strip() for line in rest)])
    report(f"{said}; see `{path} --help`")


app = typer.Typer(
    name=PROGRAM,
    cls=CommandLine,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def authz_sidecar(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    """Decides every tool call of an AI agent, records it, and mints a token for that one call."""


app.command("init")(init.init)
app.command("serve")(serve.serve)
app.command("healthcheck")(healthcheck.healthcheck)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")
app.add_typer(policy.app, name="policy")
app.add_typer(task.app, name="task")
app.add_typer(token.app, name="token")
app.add_typer(agent.app, name="agent")
audit.app.command("verify")(audit_verify.verify)
app.add_typer(audit.app, name="audit")
app.command("version")(version.show)


def run(arguments: Sequence[str]) -> None:
    """Run the command line. Leaves by SystemExit."""
    typer.main.get_command(app).main(args=list(arguments), prog_name=PROGRAM)
