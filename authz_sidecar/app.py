"""The composition root: the only place that touches the real clock, randomness, keys and paths, and wires the rest."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta
from importlib.metadata import version

import grpc
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from authz_sidecar.clock import system_now
from authz_sidecar.config import Config
from authz_sidecar.engine.commands import CommandLimits
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.expiry import ExpireTasks
from authz_sidecar.engine.introspect import IntrospectToken
from authz_sidecar.engine.options import EngineOptions
from authz_sidecar.engine.startup import complete_cascade
from authz_sidecar.errors import LedgerUnavailable, NotReady, OperatorError
from authz_sidecar.identity.jwt_svid import JwtSvidVerifier
from authz_sidecar.identity.source import FileIdentitySource
from authz_sidecar.identity.x509_svid import X509SvidVerifier
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.options import LedgerOptions
from authz_sidecar.ledger.records import Record, envelope
from authz_sidecar.ledger.store import Ledger
from authz_sidecar.pdp.compile import compile_bundle
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.policy.files import BundleFiles, BundleRejected, read_bundle
from authz_sidecar.server.access import Role, Roles
from authz_sidecar.server.endpoint import (
    Listener,
    SocketLock,
    listen,
    open_to_group,
    server_credentials,
    server_options,
)
from authz_sidecar.server.http import HttpServer, build_http_app
from authz_sidecar.server.identify import Identify
from authz_sidecar.server.rpc import Admission, Guard, handlers
from authz_sidecar.server.services import PolicyStatus, Services
from authz_sidecar.server.stream import AuthorizeStream
from authz_sidecar.server.tasks import TaskService
from authz_sidecar.strictjson import Json
from authz_sidecar.telemetry.logs import configure_logs
from authz_sidecar.telemetry.metrics import Metrics
from authz_sidecar.telemetry.tracing import open_tracing
from authz_sidecar.token.issued import IssuedTokens
from authz_sidecar.token.keys import KeyRing, SigningKey, load_published
from authz_sidecar.token.mint import Minter, TokenLimits
from authz_sidecar.v1 import (
    admin_pb2,
    approval_pb2,
    authorization_pb2,
    ledger_pb2,
    policy_pb2,
    task_pb2,
    token_pb2,
)

_log = structlog.get_logger(__name__)

EXIT_OK = 0
# EX_IOERR of sysexits.h: the store failed in a way that only a restart can clear.
EXIT_LEDGER_POISONED = 74

_CONTRACT = (admin_pb2, approval_pb2, authorization_pb2, ledger_pb2, policy_pb2, task_pb2, token_pb2)
_GRACE_SECONDS = 10.0


def serve(config: Config) -> int:
    """Run the sidecar until SIGTERM or SIGINT. Returns the process's exit code.

    Raises:
        OperatorError, ClockBehind: it cannot start; the message names what is wrong and the remedy.
        IntegrityFailure: the ledger contradicts its checkpoints.
    """
    configure_logs(level=config.log.level, format=config.log.format, stream=sys.stderr, now=system_now)
    return asyncio.run(_run(config))


async def _run(config: Config) -> int:
    """Start in the order of dependence, serve, stop in reverse."""
    async with AsyncExitStack() as stack:
        sidecar = Sidecar(config, asyncio.get_running_loop())
        await sidecar.start(stack)
        return await sidecar.stopped


class Sidecar:
    """One running sidecar."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._loop = loop
        self._metrics = Metrics()
        self._random = Randomness()
        self._pdp: Pdp | None = None
        self._activated_at: datetime | None = None
        self._serving = False
        self._identity_read_at = system_now()
        self.stopped: asyncio.Future[int] = loop.create_future()

    async def start(self, stack: AsyncExitStack) -> None:
        """Start everything; `stack` stops it in reverse order."""
        config = self._config
        listeners = [Listener(address=str(entry.address), auth=entry.auth) for entry in config.listeners]
        for listener in listeners:
            if listener.socket_path is not None:
                stack.callback(SocketLock(listener.socket_path).release)
        self._tracing = open_tracing(
            config.telemetry.otlp_endpoint, service="authz-sidecar", version=version("authz-sidecar")
        )
        stack.callback(self._tracing.close)
        self._identity = _identity_source(config)
        self._signer = _checkpoint_signer(config)
        self._ledger = self._open_ledger()
        stack.push_async_callback(self._ledger.close)
        await self._record("sidecar_started", version=version("authz-sidecar"), pid=os.getpid())
        stack.push_async_callback(self._say_stopped)
        await self._activate_bundle()
        keyring = _key_ring(config)
        core = self._core(keyring)
        if await complete_cascade(core):
            _log.warning("completed a change of a task that the last run had begun")
        stack.push_async_callback(core.voids.written, config.ledger.append_deadline.total_seconds())
        await self._serve_http(stack, keyring, config)
        await self._serve_grpc(stack, core, keyring, listeners)
        watch = asyncio.create_task(self._watch_identity())
        stack.callback(watch.cancel)
        expiry = asyncio.create_task(ExpireTasks(core).run())
        stack.callback(expiry.cancel)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, EXIT_OK)
        self._serving = True
        _log.info(
            "serving",
            listeners=[listener.address for listener in listeners],
            http_port=self._http_port,
            policy=self._active().digest,
            ledger_size=self._ledger.size,
        )

    def _new_id(self) -> str:
        return new_id(system_now(), self._random.take(10))

    def _stop(self, code: int) -> None:
        self._serving = False
        if not self.stopped.done():
            self.stopped.set_result(code)

    def _open_ledger(self) -> Ledger:
        settings = self._config.ledger

        def poisoned(reason: str) -> None:
            _log.critical("ledger poisoned", reason=reason)
            self._metrics.ledger_poisoned()
            self._loop.call_soon_threadsafe(self._stop, EXIT_LEDGER_POISONED)

        return Ledger.open(
            settings.directory,
            signer=self._signer,
            now=system_now,
            new_salt=lambda: self._random.take(16),
            options=LedgerOptions(max_queued=settings.max_queued),
            on_poison=poisoned,
            on_commit=self._metrics.observe_commit,
        )

    async def _record(self, record_type: str, *, payload: dict[str, Json] | None = None, **members: Json) -> None:
        """Append a record about the sidecar itself and wait for it."""
        now = system_now()
        body = envelope(record_type, record_id=self._new_id(), time=max(now, self._ledger.last_time or now), **members)
        await self._ledger.append(Record(type=record_type, body=body, payload=payload, salted=payload is None))

    async def _say_stopped(self) -> None:
        with suppress(LedgerUnavailable):
            await self._record("sidecar_stopped", version=version("authz-sidecar"), pid=os.getpid())

    async def _activate_bundle(self) -> None:
        """All or nothing: a bundle that does not compile is recorded as rejected and the start fails."""
        files = read_bundle(self._config.policy.directory)
        try:
            pdp = compile_bundle(files)
        except BundleRejected as error:
            await self._record(
                "bundle_rejected", policy={"sha256": files.digest}, problems=[str(p)[:300] for p in error.problems[:20]]
            )
            raise
        await self._record(
            "bundle_activated", policy={"sha256": pdp.digest, "engine": pdp.engine}, payload=_content(files)
        )
        self._pdp = pdp
        self._activated_at = system_now()
        self._metrics.policy_active(pdp.digest)

    def _active(self) -> Pdp:
        if self._pdp is None:
            raise NotReady("no policy bundle is active yet")
        return self._pdp

    def _core(self, keyring: KeyRing) -> Core:
        config = self._config
        return Core(
            ledger=self._ledger,
            policy=self._active,
            minter=Minter(
                keyring,
                config.token.issuer,
                new_jti=lambda: self._random.take(16).hex(),
                limits=TokenLimits(ttl=config.token.ttl),
            ),
            options=EngineOptions(
                environment=config.environment.name,
                production=config.environment.production,
                default_task_ttl=config.tasks.default_ttl,
                max_task_ttl=config.tasks.max_ttl,
                append_deadline=config.ledger.append_deadline,
            ),
            metrics=self._metrics,
            now=system_now,
            new_id=self._new_id,
        )

    async def _serve_http(self, stack: AsyncExitStack, keyring: KeyRing, config: Config) -> None:
        app = build_http_app(
            metrics=self._metrics.render,
            jwks=keyring.jwks,
            not_ready=self.not_ready,
            broken=lambda: self._ledger.poisoned,
        )
        http = HttpServer(app, config.http.address)
        await http.start()
        self._http_port = http.port
        stack.push_async_callback(http.stop)

    async def _serve_grpc(self, stack: AsyncExitStack, core: Core, keyring: KeyRing, listeners: list[Listener]) -> None:
        config = self._config
        roles = Roles(
            {
                Role.OPERATOR: map(str, config.access.operators),
                Role.AUDITOR: map(str, config.access.auditors),
                Role.RESOURCE_SERVER: map(str, config.access.resource_servers),
                Role.SECURITY_ENGINEER: map(str, config.access.security_engineers),
            }
        )
        services = Services(
            core=core,
            introspect=IntrospectToken(core, IssuedTokens(keyring, config.token.issuer, now=core.record_time).read),
            roles=roles,
            limits=CommandLimits(max_arguments_bytes=config.limits.max_arguments_bytes),
            jwks=keyring.jwks,
            issuer=config.token.issuer,
            vkey=self._signer.vkey,
            tracing=self._tracing,
            policy_status=lambda: PolicyStatus(activated_at=self._activated_at or system_now()),
        )
        identify = Identify(
            source=self._identity,
            x509=X509SvidVerifier(),
            jwt=JwtSvidVerifier(config.identity.jwt_audience or str(self._identity.current().svid.spiffe_id)),
            now=system_now,
        )
        admission = Admission(config.limits.max_concurrent_rpcs)
        self._metrics.follow(
            inflight=lambda: admission.in_flight,
            ledger_size=lambda: self._ledger.size,
            bundle_age=self._bundle_age,
        )
        guard = Guard(identify, roles, admission, self._metrics)
        streams = AuthorizeStream(services.authorize, window=config.limits.max_stream_inflight)
        server = grpc.aio.server(
            options=server_options(
                max_message_bytes=config.limits.max_message_bytes,
                max_connection_age=config.limits.max_connection_age,
            )
        )
        task_service = TaskService(core=core, roles=roles, tracing=self._tracing)
        server.add_generic_rpc_handlers(
            handlers(
                [service for module in _CONTRACT for service in module.DESCRIPTOR.services_by_name.values()],
                guard,
                unary={**services.unary(), **task_service.unary()},
                server_stream=services.server_stream(),
                bidi={"AuthorizationService/AuthorizeStream": streams},
            )
        )
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        credentials = server_credentials(self._identity.current)
        for listener in listeners:
            listen(server, listener, credentials)
        await server.start()
        for listener in listeners:
            open_to_group(listener)
        await healthy.set("", health_pb2.HealthCheckResponse.SERVING)

        async def stop() -> None:
            await healthy.enter_graceful_shutdown()
            streams.drain()
            await server.stop(_GRACE_SECONDS)

        stack.push_async_callback(stop)

    def not_ready(self) -> list[str]:
        """Why no decision can be made now; empty when it can."""
        reasons = []
        if not self._serving:
            reasons.append("starting or stopping")
        if self._pdp is None:
            reasons.append("no policy bundle is active")
        if self._ledger.poisoned is not None:
            reasons.append(f"the ledger cannot be written: {self._ledger.poisoned}")
        if self._ledger.full:
            reasons.append("the ledger's disk is full; free some space")
        if self._identity.current().svid.not_after <= system_now():
            reasons.append("the sidecar's SVID is expired")
        if self._identity.last_error is not None:
            reasons.append(f"identity files: {self._identity.last_error}")
        newest = self._ledger.last_time
        if newest is not None and newest - system_now() > timedelta(seconds=2):
            reasons.append("the clock is behind the newest ledger entry")
        return reasons

    def _bundle_age(self) -> float:
        return (system_now() - self._identity_read_at).total_seconds()

    async def _watch_identity(self) -> None:
        """Read the SVID and bundles again when they change. A withdrawn authority stops counting within one period."""
        interval = self._config.identity.refresh.total_seconds()
        while True:
            snapshot = self._identity.current()
            self._metrics.svid_expires(snapshot.svid.not_after)
            await asyncio.sleep(interval)
            if await asyncio.to_thread(self._identity.refresh):
                _log.info("identity reloaded", svid_expires=str(self._identity.current().svid.not_after))
            if self._identity.last_error is None:
                self._identity_read_at = system_now()
            else:
                _log.error("identity not reloaded", error=self._identity.last_error)


class Randomness:
    """Bytes of the operating system's generator, fetched in blocks: a call costs more than the bytes. One thread."""

    _BLOCK = 4096

    def __init__(self) -> None:
        self._block = b""
        self._used = 0

    def take(self, count: int) -> bytes:
        """`count` bytes, at most 4096, that were never given before."""
        if self._used + count > len(self._block):
            self._block, self._used = secrets.token_bytes(self._BLOCK), 0
        taken = self._block[self._used : self._used + count]
        self._used += count
        return taken


def new_id(now: datetime, random_bytes: bytes) -> str:
    """A UUIDv7 (RFC 9562 section 5.7): 74 random bits, so unguessable; ordered by time, so kind to an index.

    `random_bytes`: ten of them.
    """
    milliseconds = int(now.timestamp() * 1000)
    random = int.from_bytes(random_bytes) & ((1 << 74) - 1)
    value = (milliseconds << 80) | (0x7 << 76) | ((random >> 62) << 64) | (0x2 << 62) | (random & ((1 << 62) - 1))
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _identity_source(config: Config) -> FileIdentitySource:
    svid = config.identity.svid
    return FileIdentitySource(svid_cert=svid.certificate, svid_key=svid.private_key, bundles=config.identity.bundles)


def _checkpoint_signer(config: Config) -> Signer:
    """The log's key. The file is PEM (PKCS #8) so that ordinary tools can make and inspect it."""
    path = config.ledger.checkpoint_key
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise OperatorError(
            f"`{path}` is not a readable Ed25519 private key (PEM, PKCS #8); see `ledger.checkpoint_key`"
        )
    return Signer(config.ledger.origin, key.private_bytes_raw())


def _key_ring(config: Config) -> KeyRing:
    published = load_published(config.token.published_keys) if config.token.published_keys else ()
    return KeyRing(SigningKey.load(config.token.signing_key), published)


def _content(files: BundleFiles) -> dict[str, Json]:
    return {"files": {path: content.decode("utf-8") for path, content in files.files.items()}}
