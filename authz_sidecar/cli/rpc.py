"""Calls to a running sidecar: as whom, where, and what its refusals mean for the exit code."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.failure import CommandFailed, Unreachable, Unusable
from authz_sidecar.cli.settings import DEFAULT_CONFIG, ConfigOption, load_config
from authz_sidecar.cli.workspace import BUNDLE, CERTIFICATE, PRIVATE_KEY, Workspace

if TYPE_CHECKING:
    import grpc

    from authz_sidecar.config import Config

Request = TypeVar("Request")
Response = TypeVar("Response")

TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="ADDRESS",
        envvar="AUTHZ_SIDECAR_TARGET",
        help="`unix:/path` or `host:port` of the sidecar; else the configuration's first mTLS listener.",
    ),
]
AsOption = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME", help="Call as this workload of `init`: DIR/svids/NAME beside the configuration."
    ),
]
SvidOption = Annotated[Path | None, typer.Option("--svid", metavar="FILE", help="Certificate chain to call with, PEM.")]
KeyOption = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its private key, PEM.")]
BundleOption = Annotated[
    Path | None, typer.Option("--bundle", metavar="FILE", help="Authorities of the sidecar's trust domain, PEM.")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.1, max=300, help="How long to wait.")
]

# The DNS name in every sidecar's SVID; gRPC compares names, not SPIFFE IDs.
_SERVER_NAME = "authz-sidecar"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerOptions:
    """What the command line says about a call."""

    config: Path
    target: str | None
    as_: str | None
    svid: Path | None
    key: Path | None
    bundle: Path | None
    timeout: float


def calls_sidecar(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the command line options of a call in place of its parameter `caller: CallerOptions`."""
    declared = inspect.signature(command, eval_str=True)
    options = list(inspect.signature(_options, eval_str=True).parameters.values())

    @functools.wraps(command)
    def run(**given: Any) -> None:
        caller = CallerOptions(**{option.name: given.pop(option.name) for option in options})
        command(caller=caller, **given)

    parameters = [
        each
        for declared_one in declared.parameters.values()
        for each in (options if declared_one.name == "caller" else [declared_one])
    ]
    # Typer reads both.
    run.__signature__ = declared.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _options(
    *,
    config: ConfigOption = DEFAULT_CONFIG,
    target: TargetOption = None,
    as_: AsOption = None,
    svid: SvidOption = None,
    key: KeyOption = None,
    bundle: BundleOption = None,
    timeout: TimeoutOption = 10.0,
) -> None:
    """The parameters that `calls_sidecar` adds. Never called."""


class Connection:
    """A channel to one sidecar."""

    def __init__(self, channel: grpc.Channel, target: str, timeout: float) -> None:
        self.channel = channel
        self._target = target
        self._timeout = timeout

    def call(self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        """Make one call. Raises CommandFailed: code 1 when the sidecar refuses it, 3 when there is no answer."""
        import grpc

        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._failure(error) from None

    def stream(self, method: grpc.UnaryStreamMultiCallable[Request, Response], request: Request) -> Iterator[Response]:
        """Follow a stream for as long as it lasts. Raises CommandFailed as `call` does."""
        import grpc

        try:
            yield from method(request)
        except grpc.RpcError as error:
            raise self._failure(error) from None

    def _failure(self, error: grpc.RpcError) -> CommandFailed:
        import grpc

        from authz_sidecar.client.errors import RequestRejected
        from authz_sidecar.client.failures import from_status

        # The synchronous error has the methods that are read here.
        failure = from_status(cast("grpc.aio.AioRpcError", error))
        if isinstance(failure, RequestRejected):
            return CommandFailed(f"refused: {failure.message} ({failure.reason})", ExitCode.CHECK_FAILED)
        if failure.reason == grpc.StatusCode.UNAVAILABLE.name:
            return Unreachable(
                f"no sidecar answers at {self._target} ({failure.message}); start it with `authz-sidecar serve`, "
                "or correct `--target` and the SVID"
            )
        return Unreachable(f"no answer from {self._target}: {failure.message} ({failure.reason})")


@contextmanager
def connected(options: CallerOptions) -> Iterator[Connection]:
    """Connect with mutual TLS. Raises Unusable, DocumentError or OSError; an unreachable sidecar shows at the call."""
    given = (options.svid, options.key, options.bundle)
    if any(given) and not all(given):
        raise Unusable("`--svid`, `--key` and `--bundle` go together")
    files = given if all(given) else _workload_files(options)
    config = load_config(options.config, check_paths=False) if options.target is None else None
    target = options.target or _first_listener(config)
    chain, key, bundle = (cast("Path", path).read_bytes() for path in files)

    import grpc

    credentials = grpc.ssl_channel_credentials(root_certificates=bundle, private_key=key, certificate_chain=chain)
    arguments = (
        ("grpc.ssl_target_name_override", _SERVER_NAME),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
    )
    with grpc.secure_channel(target, credentials, options=arguments) as channel:
        yield Connection(channel, target, options.timeout)


def _workload_files(options: CallerOptions) -> tuple[Path, Path, Path]:
    if options.as_ is None:
        raise Unusable("say as whom to call: `--as NAME` for a workload of `init`, or `--svid`, `--key` and `--bundle`")
    directory = Workspace(options.config.absolute().parent).svids / options.as_
    if Path(options.as_).name != options.as_ or not directory.is_dir():
        raise Unreachable(
            f"`--as {options.as_[:64]}`: no such workload beside {options.config}; "
            f"make one with `authz-sidecar init {options.config.parent} --agent {options.as_[:64]}`"
        )
    return directory / CERTIFICATE, directory / PRIVATE_KEY, directory / BUNDLE


def _first_listener(config: Config | None) -> str:
    from authz_sidecar.cli.healthcheck import reachable
    from authz_sidecar.config.values import TcpAddress

    for listener in config.listeners if config is not None else ():
        if listener.auth == "mtls":
            address = listener.address
            if isinstance(address, TcpAddress):
                return str(TcpAddress(reachable(address.host), address.port))
            return str(address)
    raise Unusable("the configuration has no mTLS listener; name the sidecar with `--target`")
