"""The example CRM over real mutual TLS: without a token for exactly this call, no tool body runs."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from cryptography.hazmat.primitives import serialization
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from authz_sidecar.client import SvidFiles
from authz_sidecar.clock import format_time
from authz_sidecar.token.keys import KeyRing, SigningKey
from authz_sidecar.token.mint import Minter
from authz_sidecar.verifier import JwkSet, TokenVerifier, arguments_sha256, x5t_s256
from examples.agent.tool_server import ToolServer, ToolServerFailed, bearing, connect
from examples.crm.contacts import Contacts
from examples.crm.peer_certificate import PeerCertificateProtocol
from examples.crm.server import crm_server
from tests.support.identity import Authority, Leaf, pem

ISSUER, AUDIENCE = "https://authz.example.org", "https://crm.example.org"
SUPPORT, ANALYST = "spiffe://example.org/agent/support", "spiffe://example.org/agent/analyst"
READ = {"contact_id": "c-1001"}


@dataclass(frozen=True)
class Workload:
    """An SVID on disk."""

    leaf: Leaf
    certificate: Path
    key: Path


class TrustDomain:
    """An authority valid today, and its SVIDs as files."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        now = datetime.now(UTC)
        self._validity: dict[str, Any] = {
            "not_before": now - timedelta(minutes=1),
            "not_after": now + timedelta(hours=1),
        }
        self._authority = Authority.root(**self._validity)
        self.bundle = directory / "bundle.pem"
        self.bundle.write_bytes(pem(self._authority.certificate))

    def svid(self, name: str, spiffe_id: str, *dns: str) -> Workload:
        leaf = self._authority.leaf(spiffe_id, dns=dns, **self._validity)
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        certificate.write_bytes(leaf.chain_pem)
        key.write_bytes(leaf.key_pem)
        return Workload(leaf, certificate, key)


class World:
    """A trust domain, a token issuer and the CRM's data, shared by the tests of one run."""

    def __init__(self, directory: Path) -> None:
        self.domain = TrustDomain(directory / "trust")
        self.crm = self.domain.svid("crm", "spiffe://example.org/tools/crm", "crm")
        self.support = self.domain.svid("support", SUPPORT)
        self.analyst = self.domain.svid("analyst", ANALYST)
        self.contacts = Contacts(directory / "crm.sqlite")
        self.contacts.create()
        self.key_ring = KeyRing(SigningKey.generate())

    def verifier(self, introspect: Callable[[str], bool] | None = None) -> TokenVerifier:
        keys = JwkSet.parse(self.key_ring.jwks())
        return TokenVerifier(issuer=ISSUER, audience=AUDIENCE, keys=keys, leeway=0, introspect=introspect)

    def token(
        self,
        *,
        tool: str = "read_contact",
        arguments: dict[str, str] = READ,
        resource: str = "crm:contact/c-1001",
        audience: str = AUDIENCE,
        issuer: str = ISSUER,
        age: timedelta = timedelta(0),
        key_ring: KeyRing | None = None,
    ) -> str:
        """The token of a permit for the support agent, `age` ago, for two minutes."""
        then = datetime.now(UTC) - age
        certificate = self.support.leaf.certificate.public_bytes(serialization.Encoding.DER)
        minter = Minter(key_ring or self.key_ring, issuer, new_jti=lambda: f"{time.monotonic_ns():032x}")
        planned = minter.plan(
            now=then,
            not_after=then + timedelta(hours=1),
            audience=audience,
            cnf={"x5t#S256": x5t_s256(certificate)},
        )
        return minter.mint(
            {
                "type": "decision",
                "outcome": "permit",
                "id": "decision-1",
                "actor": {"spiffe_id": SUPPORT},
                "initiator": {"kind": "human", "id": "jo", "verified": False},
                "task": {"id": "task-1", "epoch": 1, "expires_at": format_time(then + timedelta(hours=1))},
                "tool": {"server": "crm", "name": tool, "arguments_sha256": arguments_sha256(arguments).hex()},
                "resource": {"id": resource},
                "policy": {"sha256": "sha256:" + "0" * 64},
                "token": planned,
            }
        ).value


@contextmanager
def serving(world: World, verifier: TokenVerifier) -> Iterator[str]:
    """The CRM on a free port in a thread of its own; gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        crm_server(world.contacts, verifier).streamable_http_app(stateless_http=True, json_response=True),
        http=PeerCertificateProtocol,
        ws="none",
        ssl_certfile=world.crm.certificate,
        ssl_keyfile=world.crm.key,
        ssl_ca_certs=str(world.domain.bundle),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        log_config=None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("crm"))


@pytest.fixture(scope="module")
def url(world: World) -> Iterator[str]:
    with serving(world, world.verifier()) as address:
        yield address


def connected(world: World, url: str, workload: Workload) -> AbstractAsyncContextManager[ToolServer]:
    svid = SvidFiles(cert=workload.certificate, key=workload.key, bundle=world.domain.bundle)
    return connect(url, svid=svid, server_name="crm")


async def refusal(world: World, url: str, token: str | None, *, tool: str = "read_contact", **arguments: str) -> str:
    """What the support agent is told about a call that must be refused, after checking that no tool body ran."""
    before = world.contacts.executed()
    async with connected(world, url, world.support) as crm:
        with bearing(token) if token is not None else nullcontext(), pytest.raises(ToolServerFailed) as refused:
            await crm.call(tool, arguments or READ)
    assert world.contacts.executed() == before
    return refused.value.message


async def test_granted_call_runs_and_is_logged_by_its_body(world: World, url: str) -> None:
    async with connected(world, url, world.support) as crm:
        with bearing(world.token()):
            assert "Ada Okafor" in await crm.call("read_contact", READ)
    assert world.contacts.executed()[-1] == ("read_contact", "c-1001")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        pytest.param(None, "malformed", id="no token"),
        pytest.param("not-a-token", "malformed", id="not a token"),
        pytest.param({"tool": "search_contacts"}, "wrong_tool", id="granted for another tool"),
        pytest.param({"arguments": {"contact_id": "c-1002"}}, "wrong_arguments", id="granted for another contact"),
        pytest.param({"resource": "crm:contact/c-1002"}, "wrong_resource", id="granted for another resource"),
        pytest.param({"audience": "https://mail.example.org"}, "wrong_audience", id="for another tool server"),
        pytest.param({"issuer": "https://authz.example.net"}, "wrong_issuer", id="of another issuer"),
        pytest.param({"age": timedelta(minutes=2)}, "expired", id="expired"),
        pytest.param({"key_ring": KeyRing(SigningKey.generate())}, "unknown_key", id="signed by an unknown key"),
    ],
)
async def test_call_without_its_own_token_is_refused_with_the_reason(
    world: World, url: str, token: str | dict[str, object] | None, reason: str
) -> None:
    presented = world.token(**token) if isinstance(token, dict) else token  # type: ignore[arg-type]
    assert await refusal(world, url, presented) == f"refused: {reason}"


async def test_token_of_one_call_is_refused_for_another_tool_and_another_contact(world: World, url: str) -> None:
    token = world.token()
    assert await refusal(world, url, token, contact_id="vip-7") == "refused: wrong_arguments"
    deletion = {"contact_id": "c-1001", "reason": "none"}
    assert await refusal(world, url, token, tool="delete_contact", **deletion) == "refused: wrong_tool"


async def test_tool_that_does_not_exist_is_refused_before_it_is_looked_up(world: World, url: str) -> None:
    assert await refusal(world, url, world.token(), tool="drop_tables") == "refused: wrong_tool"


async def test_stolen_token_is_refused_under_another_certificate(world: World, url: str) -> None:
    before = world.contacts.executed()
    async with connected(world, url, world.analyst) as crm:
        with bearing(world.token()), pytest.raises(ToolServerFailed, match="refused: wrong_presenter"):
            await crm.call("read_contact", READ)
    assert world.contacts.executed() == before


async def test_concurrent_calls_carry_their_own_tokens(world: World, url: str) -> None:
    contacts = ["c-1001", "c-1002", "vip-7"] * 4

    async with connected(world, url, world.support) as crm:

        async def read(contact_id: str) -> str:
            arguments = {"contact_id": contact_id}
            token = world.token(arguments=arguments, resource=f"crm:contact/{contact_id}")
            with bearing(token):
                return await crm.call("read_contact", arguments)

        answers = await asyncio.gather(*map(read, contacts))
    assert [f'"id": "{contact}"' in answer for contact, answer in zip(contacts, answers, strict=True)] == [True] * 12


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_listing_tools_needs_no_token(world: World, url: str, mode: str) -> None:
    context = ssl.create_default_context(cafile=world.domain.bundle)
    context.load_cert_chain(world.support.certificate, world.support.key)
    context.check_hostname = False  # this client connects by address
    async with (
        httpx2.AsyncClient(verify=context, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        names = [tool.name for tool in (await client.list_tools()).tools]
    assert names == ["read_contact", "search_contacts", "update_contact", "delete_contact", "export_contacts"]


@pytest.mark.parametrize("who", ["nobody", "a workload of another authority"])
async def test_peer_without_an_svid_of_the_trust_domain_does_not_get_through_tls(
    world: World, url: str, who: str, tmp_path: Path
) -> None:
    context = ssl.create_default_context(cafile=world.domain.bundle)
    if who != "nobody":
        stranger = TrustDomain(tmp_path / "foreign").svid("support", SUPPORT)
        context.load_cert_chain(stranger.certificate, stranger.key)
    async with httpx2.AsyncClient(verify=context, trust_env=False) as http:
        # TLS 1.3 refuses the client after its own side of the handshake is done, so the error comes with the answer.
        with pytest.raises(httpx2.TransportError):
            await http.post(url, json={}, extensions={"sni_hostname": "crm"})


async def test_strict_mode_refuses_a_token_that_is_not_active_and_whose_state_is_unknown(world: World) -> None:
    def unreachable(token: str) -> bool:
        raise ConnectionError("the sidecar does not answer")

    for introspect, told in ((lambda _: False, "inactive"), (unreachable, "status_unavailable")):
        with serving(world, world.verifier(introspect)) as url:
            assert await refusal(world, url, world.token()) == f"refused: {told}"


async def test_strict_mode_asks_only_about_tokens_that_are_good_otherwise(world: World) -> None:
    asked: list[str] = []

    def active(token: str) -> bool:
        asked.append(token)
        return True

    token = world.token()
    with serving(world, world.verifier(active)) as url:
        assert await refusal(world, url, token, contact_id="c-1002") == "refused: wrong_arguments"
        async with connected(world, url, world.support) as crm:
            with bearing(token):
                await crm.call("read_contact", READ)
    assert asked == [token]
