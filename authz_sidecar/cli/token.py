"""`authz-sidecar token`: look at tokens, verify and revoke them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.failure import CommandFailed, Unusable
from authz_sidecar.cli.rpc import CallerOptions, calls_sidecar, connected
from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from authz_sidecar.strictjson import Json
    from authz_sidecar.v1 import token_pb2
    from authz_sidecar.verifier import KeySource, Presenter

app = typer.Typer(no_args_is_help=True, help="Look at tokens, verify and revoke them.")

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
    from authz_sidecar.clock import system_now

    screen.line("NOT VERIFIED: neither signature, lifetime, audience nor binding was checked.", "bold red")
    for title, part in (("header", header), ("claims", claims)):
        screen.line(title, "bold")
        _show_claims(screen, part)
    if isinstance(expiry := claims.get("exp"), int):
        left = expiry - int(system_now().timestamp())
        said = f"expires in {_span(left)}" if left > 0 else f"expired {_span(-left)} ago"
        screen.line(f"By its own word it {said}.")


@app.command()
def verify(
    token: TokenArgument,
    *,
    jwks: Annotated[str, typer.Option("--jwks", metavar="FILE|URL", help="The issuer's keys.")],
    issuer: Annotated[str, typer.Option("--issuer", metavar="URL", help="Who must have issued it.")],
    audience: Annotated[str, typer.Option("--audience", metavar="URL", help="The tool server it must be for.")],
    tool: Annotated[str, typer.Option("--tool", metavar="SERVER/NAME", help="The tool that is called.")],
    arguments: Annotated[
        str, typer.Option("--arguments", metavar="FILE|-", help="The call's arguments as JSON; `-` reads them.")
    ],
    presenter: Annotated[
        Path | None, typer.Option("--presenter", metavar="FILE", help="Certificate of who presents it, PEM.")
    ] = None,
    jkt: Annotated[
        str | None, typer.Option("--jkt", metavar="THUMBPRINT", help="Thumbprint of the presenter's proven key.")
    ] = None,
    resource: Annotated[
        str | None, typer.Option("--resource", metavar="ID", help="Compare the resource too, not only the arguments.")
    ] = None,
    leeway: Annotated[
        int, typer.Option("--leeway", metavar="SECONDS", min=0, max=30, help="How much clocks may differ.")
    ] = 10,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Verify a token against one call, offline, as a tool server does. A rejection is a failed check.

    Not checked: whether the task still runs; `token introspect` asks that.
    """
    from authz_sidecar.verifier import TokenRejected, TokenVerifier

    if {token, arguments} == {"-"}:
        raise Unusable("standard input holds the token or the arguments, not both")
    text = read_token(token)
    verifier = TokenVerifier(issuer=issuer, audience=audience, keys=_keys(jwks), leeway=leeway)
    screen = Screen(output)
    try:
        verified = verifier.verify(
            text, presenter=_presenter(presenter, jkt), tool=tool, resource=resource, arguments=_arguments(arguments)
        )
    except TokenRejected as rejected:
        if screen.json:
            screen.document({"verified": False, "reason": rejected.reason.value, "message": rejected.message})
            raise typer.Exit(ExitCode.CHECK_FAILED) from None
        raise CommandFailed(f"rejected: {rejected.message} ({rejected.reason.value})", ExitCode.CHECK_FAILED) from None
    if screen.json:
        screen.document({"verified": True, "claims": dict(verified.claims)})
    else:
        screen.line("verified for this call, by this presenter", "green")
        _show_claims(screen, dict(verified.claims))


@app.command()
@calls_sidecar
def introspect(token: TokenArgument, *, caller: CallerOptions, output: OutputOption = OutputFormat.HUMAN) -> None:
    """Ask the sidecar whether a token is active now. For tool servers and operators; inactive is a failed check."""
    import json

    from authz_sidecar.v1 import token_pb2, token_pb2_grpc

    with connected(caller) as sidecar:
        stub = token_pb2_grpc.TokenServiceStub(sidecar.channel)
        answer = sidecar.call(stub.IntrospectToken, token_pb2.IntrospectTokenRequest(token=read_token(token)))
    claims = json.loads(answer.claims_json) if answer.active else {}
    screen = Screen(output)
    if screen.json:
        screen.document({"active": answer.active, "claims": claims, "revocation_epoch": answer.revocation_epoch})
    elif answer.active:
        screen.line("active", "green")
        _show_claims(screen, claims)
    else:
        screen.line("not active: unknown, expired, revoked and malformed look the same", "red")
    if not answer.active:
        raise typer.Exit(ExitCode.CHECK_FAILED)


@app.command()
@calls_sidecar
def revoke(
    token: Annotated[
        str | None,
        typer.Argument(
            metavar="TOKEN|-",
            help="The token itself; `-` reads it from standard input, out of sight of `ps`.",
            show_default=False,
        ),
    ] = None,
    *,
    jti: Annotated[str | None, typer.Option("--jti", metavar="ID", help="One token, by its identifier.")] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="ID", help="Every token of a task so far; the task goes on.")
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option("--agent", metavar="SPIFFE-ID", help="Every token of an agent so far; the agent goes on."),
    ] = None,
    kid: Annotated[
        str | None, typer.Option("--kid", metavar="KEY", help="Everything that a signing key signed or will sign.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; recorded, may be erased later.")] = "",
    caller: CallerOptions,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Revoke one token, a task's or an agent's tokens so far, or a key. Agents may revoke tokens of their own."""
    from authz_sidecar.v1 import token_pb2, token_pb2_grpc

    targets = {"token": token, "jti": jti, "task_id": task, "agent": agent, "kid": kid}
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) != 1:
        raise Unusable("say what to revoke: a token, or one of `--jti`, `--task`, `--agent` and `--kid`")
    request = token_pb2.RevokeTokenRequest(reason=reason)
    for name, value in given.items():
        setattr(request, name, read_token(value) if name == "token" else value)
    with connected(caller) as sidecar:
        answer = sidecar.call(token_pb2_grpc.TokenServiceStub(sidecar.channel).RevokeToken, request)
    screen = Screen(output)
    if screen.json:
        position: dict[str, Json] = {"log": answer.position.log, "index": answer.position.index}
        screen.document({"ledger": position, "revocation_epoch": answer.revocation_epoch})
    else:
        screen.line(f"revoked; record {answer.position.index}, revocation epoch {answer.revocation_epoch}", "green")


@app.command()
@calls_sidecar
def watch(
    after: Annotated[
        int, typer.Option("--after", metavar="N", min=0, help="Go on after this number; 0 starts with all in force.")
    ] = 0,
    *,
    heartbeats: Annotated[bool, typer.Option("--heartbeats", help="Show signs of life too.")] = False,
    caller: CallerOptions,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Follow the revocation feed until interrupted or cut off; as JSON, one revocation a line."""
    from authz_sidecar.v1 import token_pb2, token_pb2_grpc

    screen = Screen(output)
    with connected(caller) as sidecar:
        stub = token_pb2_grpc.TokenServiceStub(sidecar.channel)
        for message in sidecar.stream(stub.WatchRevocations, token_pb2.WatchRevocationsRequest(after_sequence=after)):
            event = message.WhichOneof("event")
            told = message.snapshot.revocations if event == "snapshot" else [message.revocation]
            for revocation in told if event in ("snapshot", "revocation") else ():
                _show_revocation(screen, revocation)
            if event == "heartbeat" and heartbeats:
                if screen.json:
                    screen.json_line({"sequence": message.sequence, "heartbeat": _time(message.heartbeat.time)})
                else:
                    screen.line(f"alive at {message.sequence}", "dim")


def _show_revocation(screen: Screen, revocation: token_pb2.Revocation) -> None:
    kind = revocation.WhichOneof("target") or ""
    target = str(getattr(revocation, kind)) if kind else ""
    until = _time(revocation.expires_at) if revocation.HasField("expires_at") else None
    if screen.json:
        screen.json_line({"sequence": revocation.sequence, "kind": kind, "target": target, "expires_at": until})
    else:
        screen.row((str(revocation.sequence), kind, target, until or "for ever"), (8, 8, 48, 0))


def _time(moment: Timestamp) -> str:
    from datetime import UTC

    from authz_sidecar.clock import format_time

    return format_time(moment.ToDatetime(UTC))


@app.command()
@calls_sidecar
def jwks(*, caller: CallerOptions, output: OutputOption = OutputFormat.HUMAN) -> None:
    """Print the keys that verify tokens, as a JWK Set; the HTTP port serves the same at /.well-known/jwks.json."""
    import json

    from authz_sidecar.v1 import token_pb2, token_pb2_grpc

    with connected(caller) as sidecar:
        stub = token_pb2_grpc.TokenServiceStub(sidecar.channel)
        answer = sidecar.call(stub.GetJwks, token_pb2.GetJwksRequest())
    # The document is the output in both formats: what reads it is a program.
    Screen(output).document(json.loads(answer.jwks_json))


def _keys(source: str) -> KeySource:
    from authz_sidecar.verifier import JwksFile, JwksUrl

    if not source.startswith(("http://", "https://")):
        Path(source).stat()
        return JwksFile(Path(source))
    try:
        return JwksUrl(source)
    except ValueError as error:
        raise Unusable(f"`--jwks`: {error}") from None


def _presenter(certificate: Path | None, jkt: str | None) -> Presenter:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from authz_sidecar.verifier import Presenter

    if (certificate is None) == (jkt is None):
        raise Unusable("a token is bound to its presenter: give either `--presenter` or `--jkt`")
    try:
        if certificate is None:
            return Presenter(jkt=jkt)
        leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
        return Presenter.from_certificate(leaf.public_bytes(Encoding.DER))
    except ValueError as error:
        raise Unusable(f"`{'--jkt' if certificate is None else '--presenter'}`: {error}") from None


def _arguments(source: str) -> dict[str, Json]:
    import sys

    from authz_sidecar.strictjson import MalformedJson, parse_object

    raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    try:
        return parse_object(raw, max_bytes=1 << 20, max_depth=64)
    except MalformedJson as error:
        raise Unusable(f"`--arguments`: {error}") from None


def _show_claims(screen: Screen, claims: dict[str, Json]) -> None:
    import json

    screen.fields({name: value if isinstance(value, str) else json.dumps(value) for name, value in claims.items()})


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
