"""Callers without a certificate: a JWT-SVID over a Unix socket, checked for every message, bound to a key of the agent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import grpc
import pytest

from authz_sidecar.clock import system_now
from authz_sidecar.identity.authority import DevAuthority
from authz_sidecar.identity.spiffe_id import SpiffeId, TrustDomain
from authz_sidecar.v1 import authorization_pb2, authorization_pb2_grpc, common_pb2, task_pb2_grpc
from authz_sidecar.verifier import JwksUrl, Presenter, TokenRejected, TokenVerifier
from tests.support.sidecar import (
    AUDIENCE,
    CONTACT,
    READ,
    Sidecar,
    World,
    authorize,
    error_of,
    running,
    start_task,
    world,
)

THUMBPRINT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"  # RFC 9449 section 6.1
SUPPORT = SpiffeId.parse("spiffe://example.org/agent/support")
SIDECAR = "spiffe://example.org/authz-sidecar"


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world() as value:
        text = value.config.read_text()
        mtls = '  - {address: "unix:run/authz.sock", auth: mtls}\n'
        assert mtls in text
        value.config.write_text(text.replace(mtls, mtls + '  - {address: "unix:run/jwt.sock", auth: jwt-svid}\n'))
        yield value


@pytest.fixture(scope="module")
def sidecar(made: World) -> Iterator[Sidecar]:
    with running(made) as value:
        yield value


@pytest.fixture
def authority(made: World) -> DevAuthority:
    return DevAuthority.load(made.directory / "authority")


@pytest.fixture
def channel(made: World, sidecar: Sidecar) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{made.directory / 'run' / 'jwt.sock'}") as value:
        yield value


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


def issue(
    authority: DevAuthority, *, audience: str = SIDECAR, ttl: timedelta = timedelta(minutes=5), who=SUPPORT
) -> str:
    return authority.issue_jwt_svid(who, audience=audience, ttl=ttl, now=system_now())


def start(channel: grpc.Channel, token: str) -> str:
    stub = task_pb2_grpc.TaskServiceStub(channel)
    return stub.StartTask(start_task(), metadata=bearer(token), timeout=20).task.task_id


def test_a_jwt_svid_caller_gets_a_token_bound_to_its_key(channel, sidecar, authority):
    token = issue(authority)
    task_id = start(channel, token)
    stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
    answer = stub.Authorize(authorize(task_id, proof_key_thumbprint=THUMBPRINT), metadata=bearer(token), timeout=20)
    assert answer.outcome == common_pb2.OUTCOME_PERMIT
    verifier = TokenVerifier(
        issuer="https://authz.example.org",
        audience=AUDIENCE,
        keys=JwksUrl(f"{sidecar.http}/.well-known/jwks.json"),
    )
    call = {"tool": READ, "arguments": CONTACT, "resource": answer.resource}
    verifier.verify(answer.token.value, presenter=Presenter(jkt=THUMBPRINT, spiffe_id=str(SUPPORT)), **call)
    with pytest.raises(TokenRejected):
        verifier.verify(answer.token.value, presenter=Presenter(jkt="A" * 43, spiffe_id=str(SUPPORT)), **call)


def test_without_a_key_to_bind_to_there_is_no_token(channel, authority):
    token = issue(authority)
    stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Authorize(authorize(start(channel, token)), metadata=bearer(token), timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [v.field for v in error_of(caught.value).field_violations] == ["proof_key_thumbprint"]


def foreign() -> DevAuthority:
    return DevAuthority.create(TrustDomain("example.org"), system_now())


REFUSED = {
    "no token": lambda authority: None,
    "another audience": lambda authority: bearer(issue(authority, audience="spiffe://example.org/other")),
    "expired": lambda authority: bearer(
        authority.issue_jwt_svid(
            SUPPORT, audience=SIDECAR, ttl=timedelta(minutes=1), now=system_now() - timedelta(minutes=5)
        )
    ),
    "a foreign key": lambda authority: bearer(issue(foreign())),
    "altered": lambda authority: bearer(issue(authority)[:-8] + "AAAAAAAA"),
    "two credentials": lambda authority: [*bearer(issue(authority)), *bearer(issue(authority))],
    "another scheme": lambda authority: [("authorization", f"Basic {issue(authority)}")],
    "an empty token": lambda authority: [("authorization", "Bearer ")],
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_a_jwt_svid_for_us_is_nobody(channel, authority, case):
    stub = task_pb2_grpc.TaskServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.StartTask(start_task(), metadata=REFUSED[case](authority), timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error_of(caught.value).reason == "UNAUTHENTICATED"


def test_a_stream_ends_when_its_jwt_svid_does(channel, authority):
    """Issued as if it had ended seven seconds ago: within the leeway for clocks, but nothing may outlive it."""
    started = system_now() - timedelta(seconds=57)
    token = authority.issue_jwt_svid(SUPPORT, audience=SIDECAR, ttl=timedelta(seconds=50), now=started)
    task_id = start(channel, issue(authority))
    stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)

    def ask_for_ever() -> Iterator[authorization_pb2.AuthorizeStreamRequest]:
        while True:
            yield authorization_pb2.AuthorizeStreamRequest(request=authorize(task_id, proof_key_thumbprint=THUMBPRINT))
            time.sleep(0.2)

    answers = []
    with pytest.raises(grpc.RpcError) as caught:
        for answer in stub.AuthorizeStream(ask_for_ever(), metadata=bearer(token), timeout=20):
            answers.append(answer)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert answers
    assert {answer.response.reason_code for answer in answers} == {"lifetime_exhausted"}
