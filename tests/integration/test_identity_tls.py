"""What gRPC's TLS layer lets through, and what the verifier then refuses, over real connections (grpc.aio)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509

from authz_sidecar.errors import Unauthenticated
from authz_sidecar.files import write_private, write_public
from authz_sidecar.identity.bundle import BundleSet, parse_bundle
from authz_sidecar.identity.source import FileIdentitySource
from authz_sidecar.identity.spiffe_id import TrustDomain
from authz_sidecar.identity.x509_svid import X509SvidVerifier
from tests.support.identity import BOTH_PURPOSES, Authority, Leaf, key_usage, pem

OURS, PARTNER = TrustDomain("example.org"), TrustDomain("partner.test")
AGENT = "spiffe://example.org/agent"
SIDECAR = "spiffe://example.org/authz-sidecar"
SERVER_NAME = "authz-sidecar"

# TLS reads the real clock, so these certificates have to be valid now and not at the tests' usual moment.
START = datetime.now(UTC).replace(microsecond=0)
CA_LIFE: dict[str, Any] = {"not_before": START - timedelta(days=1), "not_after": START + timedelta(days=1)}
LIFE: dict[str, Any] = {"not_before": START - timedelta(minutes=1), "not_after": START + timedelta(hours=1)}
ROOT = Authority.root("example.org", **CA_LIFE)
PARTNER_ROOT = Authority.root("partner.test", **CA_LIFE)


def leaf(*uris: str, issuer: Authority = ROOT, **changes: Any) -> Leaf:
    return issuer.leaf(*(uris or (AGENT,)), **{**LIFE, **changes})


SERVER_SVID = leaf(SIDECAR, dns=[SERVER_NAME])


def bundle_set(ours: Authority, partner: Authority | None = None) -> BundleSet:
    bundles = [parse_bundle(OURS, pem(ours.certificate))]
    if partner is not None:
        bundles.append(parse_bundle(PARTNER, pem(partner.certificate)))
    return BundleSet.of(*bundles)


@dataclass
class WhoAmI(grpc.GenericRpcHandler):
    """Answers every call with the verified SPIFFE ID, or UNAUTHENTICATED with the reason."""

    bundles: BundleSet = field(default_factory=lambda: bundle_set(ROOT, PARTNER_ROOT))
    verifier: X509SvidVerifier = field(default_factory=X509SvidVerifier)
    seen: list[Mapping[str, Any]] = field(default_factory=list)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    async def answer(self, _request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.seen.append(context.auth_context())
        try:
            subject = self.verifier.verify_peer(context.auth_context(), bundles=self.bundles, now=datetime.now(UTC))
        except Unauthenticated as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)
        return str(subject.spiffe_id).encode()


@pytest.fixture
def socket_path() -> Iterator[Path]:
    # A Unix socket path has at most 107 characters; pytest's own directories can be longer.
    directory = Path(tempfile.mkdtemp(prefix="az-", dir="/tmp"))
    yield directory / "s"
    shutil.rmtree(directory)


@contextlib.asynccontextmanager
async def serve(handler: WhoAmI, address: str, credentials: grpc.ServerCredentials) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def static_credentials(roots: bytes, svid: Leaf = SERVER_SVID) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials([(svid.key_pem, svid.chain_pem)], roots, require_client_auth=True)


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, socket_path: Path) -> str:
    return "127.0.0.1:0" if request.param == "tcp" else f"unix:{socket_path}"


@pytest.fixture
def handler() -> WhoAmI:
    return WhoAmI()


@pytest.fixture
async def target(address: str, handler: WhoAmI) -> AsyncIterator[str]:
    async with serve(handler, address, static_credentials(handler.bundles.x509_roots_pem())) as target:
        yield target


def connect(target: str, client: Leaf | None, *, server_name: str | None = SERVER_NAME) -> grpc.aio.Channel:
    """A channel with a connection of its own."""
    identity = {} if client is None else {"private_key": client.key_pem, "certificate_chain": client.chain_pem}
    credentials = grpc.ssl_channel_credentials(pem(ROOT.certificate), **identity)
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.aio.secure_channel(target, credentials, options=options)


async def ask(channel: grpc.aio.Channel) -> str:
    answer: bytes = await channel.unary_unary("/test.WhoAmI/Ask")(b"", timeout=10)
    return answer.decode()


async def ask_once(target: str, client: Leaf | None, **options: Any) -> str:
    async with connect(target, client, **options) as channel:
        return await ask(channel)


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value.code(), failed.value.details() or ""


async def test_valid_svid_is_accepted_and_reported_by_grpc_as_a_spiffe_id(target: str, handler: WhoAmI) -> None:
    assert await ask_once(target, leaf(dns=["agent.internal"])) == AGENT

    (context,) = handler.seen
    assert context["peer_spiffe_id"] == [AGENT.encode()]
    assert context["x509_subject_alternative_name"] == [AGENT.encode(), b"agent.internal"]
    assert context["transport_security_type"] == [b"ssl"]
    assert "x509_pem_cert_chain" not in context


async def test_intermediates_arrive_without_the_leaf_and_complete_the_path(target: str, handler: WhoAmI) -> None:
    client = leaf(issuer=ROOT.intermediate(**CA_LIFE))

    assert await ask_once(target, client) == AGENT

    (context,) = handler.seen
    assert context["x509_pem_cert"] == [client.pem]
    assert context["x509_pem_cert_chain"] == [client.intermediates_pem]


async def test_federated_workload_is_accepted_under_its_own_trust_domain(target: str) -> None:
    assert await ask_once(target, leaf("spiffe://partner.test/x", issuer=PARTNER_ROOT)) == "spiffe://partner.test/x"


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(lambda: None, id="no-certificate"),
        pytest.param(lambda: leaf(issuer=Authority.root("example.org", **CA_LIFE)), id="foreign-ca"),
        pytest.param(lambda: leaf(not_after=START - timedelta(seconds=1)), id="expired"),
        pytest.param(lambda: leaf(not_before=START + timedelta(minutes=30)), id="not-yet-valid"),
        pytest.param(lambda: leaf(purposes=BOTH_PURPOSES[:1]), id="server-certificate"),
    ],
)
async def test_refused_by_the_handshake(target: str, handler: WhoAmI, client: Callable[[], Leaf | None]) -> None:
    code, _ = await status_of(ask_once(target, client()))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert not handler.seen


@pytest.mark.parametrize(
    ("client", "message"),
    [
        pytest.param(lambda: leaf(AGENT, AGENT + "2"), "exactly one uri san, got 2", id="two-uri-sans"),
        pytest.param(lambda: leaf("https://example.org/agent"), "not the SPIFFE ID of a workload", id="https-uri"),
        pytest.param(lambda: leaf("spiffe://example.org"), "has no path", id="root-path"),
        pytest.param(
            lambda: leaf(basic_constraints=x509.BasicConstraints(ca=True, path_length=None)), "CA:TRUE", id="ca-true"
        ),
        pytest.param(
            lambda: leaf(usage=key_usage("digital_signature", "key_cert_sign")), "keyCertSign", id="key-cert-sign"
        ),
        pytest.param(
            lambda: leaf(issuer=PARTNER_ROOT),
            "no path to an authority of trust domain `example.org`",
            id="federated-ca-speaks-for-us",
        ),
        pytest.param(lambda: leaf("spiffe://unknown.test/x"), "no trust bundle", id="unknown-trust-domain"),
    ],
)
async def test_accepted_by_the_handshake_and_refused_by_the_verifier(
    target: str, handler: WhoAmI, client: Callable[[], Leaf], message: str
) -> None:
    code, details = await status_of(ask_once(target, client()))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert message in details
    assert len(handler.seen) == 1


async def test_certificate_that_expires_while_connected_is_refused_on_the_next_call(
    target: str, handler: WhoAmI
) -> None:
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    async with connect(target, leaf(not_after=expires)) as channel:
        assert await ask(channel) == AGENT
        await asyncio.sleep((expires - datetime.now(UTC)).total_seconds() + 0.05)
        code, details = await status_of(ask(channel))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "expired at" in details
    # The TLS layer noticed nothing: the call did reach the handler.
    assert len(handler.seen) == 2


async def test_authority_removed_while_connected_is_refused_on_the_next_call(target: str, handler: WhoAmI) -> None:
    async with connect(target, leaf()) as channel:
        assert await ask(channel) == AGENT
        handler.bundles = bundle_set(Authority.root("example.org", **CA_LIFE))
        code, details = await status_of(ask(channel))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "no path to an authority" in details


async def test_connection_without_tls_is_unauthenticated(socket_path: Path, handler: WhoAmI) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{socket_path}")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{socket_path}") as channel:
            code, details = await status_of(ask(channel))
    finally:
        await server.stop(None)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "no client certificate" in details


async def test_client_has_to_expect_a_dns_name_of_the_server(target: str) -> None:
    for server_name in (SIDECAR, "localhost", None if target.startswith("unix:") else "127.0.0.1"):
        code, _ = await status_of(ask_once(target, leaf(), server_name=server_name))
        assert code is grpc.StatusCode.UNAVAILABLE


@dataclass
class Fetcher:
    """What `dynamic_ssl_server_credentials` asks for each new connection."""

    roots: bytes
    svid: Leaf = SERVER_SVID
    fault: Exception | None = None
    threads: list[threading.Thread] = field(default_factory=list)

    def __call__(self) -> grpc.ServerCertificateConfiguration:
        self.threads.append(threading.current_thread())
        if self.fault is not None:
            raise self.fault
        pair = (self.svid.key_pem, self.svid.chain_pem)
        return grpc.ssl_server_certificate_configuration([pair], self.roots)

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(self(), self, require_client_authentication=True)


NEW_ROOT = Authority.root("example.org", **CA_LIFE)


@pytest.fixture
def fetcher() -> Fetcher:
    return Fetcher(pem(ROOT.certificate))


@pytest.fixture
async def dynamic_target(address: str, handler: WhoAmI, fetcher: Fetcher) -> AsyncIterator[str]:
    handler.bundles = BundleSet.of(parse_bundle(OURS, pem(ROOT.certificate) + pem(NEW_ROOT.certificate)))
    async with serve(handler, address, fetcher.credentials()) as target:
        fetcher.threads.clear()
        yield target


async def test_fetcher_runs_once_per_connection_on_a_thread_of_grpc(dynamic_target: str, fetcher: Fetcher) -> None:
    async with connect(dynamic_target, leaf()) as channel:
        assert [await ask(channel) for _ in range(3)] == [AGENT] * 3
        assert len(fetcher.threads) == 1
    await ask_once(dynamic_target, leaf())
    assert len(fetcher.threads) == 2
    assert threading.current_thread() not in fetcher.threads


async def test_new_roots_apply_to_the_next_connection_and_not_to_open_ones(
    dynamic_target: str, fetcher: Fetcher
) -> None:
    async with connect(dynamic_target, leaf()) as open_channel:
        assert await ask(open_channel) == AGENT
        assert (await status_of(ask_once(dynamic_target, leaf(issuer=NEW_ROOT))))[0] is grpc.StatusCode.UNAVAILABLE

        fetcher.roots = pem(NEW_ROOT.certificate)

        assert await ask_once(dynamic_target, leaf(issuer=NEW_ROOT)) == AGENT
        assert (await status_of(ask_once(dynamic_target, leaf())))[0] is grpc.StatusCode.UNAVAILABLE
        assert await ask(open_channel) == AGENT


async def test_fetcher_that_raises_leaves_the_previous_roots_trusted(dynamic_target: str, fetcher: Fetcher) -> None:
    """So a fetcher must never raise, and the verifier is what takes a removed authority out."""
    fetcher.roots, fetcher.fault = pem(NEW_ROOT.certificate), RuntimeError("disk on fire")

    assert await ask_once(dynamic_target, leaf()) == AGENT
    assert (await status_of(ask_once(dynamic_target, leaf(issuer=NEW_ROOT))))[0] is grpc.StatusCode.UNAVAILABLE

    fetcher.fault = None
    assert await ask_once(dynamic_target, leaf(issuer=NEW_ROOT)) == AGENT


async def test_unreadable_roots_leave_the_previous_roots_trusted(dynamic_target: str, fetcher: Fetcher) -> None:
    fetcher.roots = b"garbage"
    assert await ask_once(dynamic_target, leaf()) == AGENT


async def test_without_any_root_nobody_gets_in(dynamic_target: str, handler: WhoAmI, fetcher: Fetcher) -> None:
    fetcher.roots = b""
    for client in (leaf(), leaf(issuer=NEW_ROOT), None):
        assert (await status_of(ask_once(dynamic_target, client)))[0] is grpc.StatusCode.UNAVAILABLE
    assert not handler.seen


async def test_files_rotated_on_disk_serve_the_next_connection(address: str, handler: WhoAmI, tmp_path: Path) -> None:
    def write(svid: Leaf, *authorities: Authority) -> None:
        write_public(tmp_path / "svid.pem", svid.chain_pem)
        write_private(tmp_path / "svid-key.pem", svid.key_pem)
        write_public(tmp_path / "bundle.pem", b"".join(pem(authority.certificate) for authority in authorities))

    write(SERVER_SVID, ROOT)
    source = FileIdentitySource(
        svid_cert=tmp_path / "svid.pem", svid_key=tmp_path / "svid-key.pem", bundles={OURS: tmp_path / "bundle.pem"}
    )

    def fetch() -> grpc.ServerCertificateConfiguration:
        identity = source.current()
        pair = (identity.svid.key_pem, identity.svid.chain_pem)
        return grpc.ssl_server_certificate_configuration([pair], identity.bundles.x509_roots_pem())

    credentials = grpc.dynamic_ssl_server_credentials(fetch(), fetch, require_client_authentication=True)
    handler.bundles = source.current().bundles
    async with serve(handler, address, credentials) as target:
        assert await ask_once(target, leaf()) == AGENT
        write(leaf(SIDECAR, dns=["renamed"]), NEW_ROOT)
        assert source.refresh()
        handler.bundles = source.current().bundles

        assert await ask_once(target, leaf(issuer=NEW_ROOT), server_name="renamed") == AGENT
        assert (await status_of(ask_once(target, leaf(), server_name="renamed")))[0] is grpc.StatusCode.UNAVAILABLE
