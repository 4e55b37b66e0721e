"""`authz-sidecar token`: look at tokens and verify them."""

from __future__ import annotations

from typing import Annotated

import typer

from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.failure import CommandFailed
from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen

app = typer.Typer(no_args_is_help=True, help="Look at tokens and verify them.")

TokenArgument = Annotated[
    str, typer.Argument(metavar="TOKEN|-", help="The token; `-` reads it from standard input, out of sight of `ps`.")
]


@app.command()
def inspect(token: TokenArgument, output: OutputOption = OutputFormat.HUMAN) -> None:
    """Decode a token without verifying anything. For reading only: what it shows may be forged."""
    from authz_sidecar.cli.compact_jws import decode_unverified

    header, claims = decode_unverified(read_token(token))
    screen = Screen(output)
    if screen.json:
        screen.document({"verified": False, "header": header, "claims": claims})
        return
    import json

    from authz_sidecar.clock import system_now

    screen.line("NOT VERIFIED: neither signature, lifetime, audience nor binding was checked.", "bold red")
    for title, part in (("header", header), ("claims", claims)):
        screen.line(title, "bold")
        screen.fields({name: value if isinstance(value, str) else json.dumps(value) for name, value in part.items()})
    if isinstance(expiry := claims.get("exp"), int):
        left = expiry - int(system_now().timestamp())
        said = f"expires in {_span(left)}" if left > 0 else f"expired {_span(-left)} ago"
        screen.line(f"By its own word it {said}.")


def read_token(argument: str) -> str:
    """The token given, or the first line of standard input for `-`. Raises CommandFailed for an empty one."""
    import sys

    text = sys.stdin.readline().strip() if argument == "-" else argument.strip()
    if not text:
        raise CommandFailed("no token given; pass it as an argument or on standard input with `-`", ExitCode.USAGE)
    return text


def _span(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
