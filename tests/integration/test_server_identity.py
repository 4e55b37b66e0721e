"""Who may speak to the real process: X.509-SVIDs and JWT-SVIDs, right and wrong, expiring, withdrawn and rotated."""

from __future__ import annotations

import base64
import json
import queue
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import Any

import grpc
import pytest
from cryptography import x509

from authz_sidecar.v1 import authorization_pb2, common_pb2, token_pb2
from authz_sidecar.verifier import JwksUrl, Presenter, TokenVerifier
from tests.support.identity import Authority, JwtSigner, Leaf, b64url, ec_key
from tests.support.sidecar import (
    AUDIENCE,
    CONTACT,
    READ,
    Caller,
    Sidecar,
    World,
    authorize,
    copy_of,
    error_of,
    failure,
    running,
    start_task,
    wait_until,
    world,
)
from tests.support.world_identity import SUPPORT, WorldIdentity, edit_config, now, root, thumbprint

PARTNER = root("partner.test")


@dataclass(frozen=True)
class Front:
    """A sidecar with both kinds of listener that also believes the trust domain `partner.test`."""

    sidecar: Sidecar
    identity: WorldIdentity

    @property
    def jwt_target(self) -> str:
        return f"unix:{self.sidecar.world.directory}/run/jwt.sock"

    def caller(self, leaf: Leaf | None) -> Caller:
        return Caller(self.sidecar.world, channel=self.identity.channel(leaf))

    def ledger_size(self) -> int:
        with urllib.request.urlopen(f"{self.sidecar.http}/metrics", timeout=10) as answer:
            found = re.search(r"^authz_sidecar_ledger_size (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found is not None
        return int(float(found[1]))


def prepare(made: World) -> WorldIdentity:
    identity = WorldIdentity(made)
    identity.write_bundle(PARTNER, name="partner.json", jwt=False)
    ours = "example.org: trust/bundle.json"
    edit_config(
        made,
        (f"{{{ours}}}", f"{{{ours}, partner.test: trust/partner.json}}"),
        ("listeners:\n", 'listeners:\n  - {address: "unix:run/jwt.sock", auth: jwt-svid}\n'),
        ("  jwt_audience", "  refresh: 1s\n  jwt_audience"),
    )
    return identity


@pytest.fixture(scope="module")
def template() -> Iterator[World]:
    with world() as made:
        prepare(made)
        yield made


@pytest.fixture(scope="module")
def front(template: World) -> Iterator[Front]:
    with running(template) as sidecar:
        yield Front(sidecar, WorldIdentity(template))


@pytest.fixture
def alone(template: World) -> Iterator[Front]:
    """A sidecar whose files the test may change."""
    with copy_of(template) as made, running(made) as sidecar:
        yield Front(sidecar, WorldIdentity(made))


Shape = Callable[[WorldIdentity], Leaf | None]

# The TLS layer refuses these itself, so the caller learns nothing but that there is no connection.
NO_CONNECTION: dict[str, Shape] = {
    "no certificate": lambda w: None,
    "expired": lambda w: w.leaf(not_before=now() - timedelta(hours=2), not_after=now() - timedelta(seconds=2)),
    "not valid yet": lambda w: w.leaf(not_before=now() + timedelta(hours=1), not_after=now() + timedelta(hours=2)),
    "authority of nobody": lambda w: w.leaf(issuer=root("example.org")),
}

# The TLS layer lets these through.
REFUSED: dict[str, tuple[Shape, str]] = {
    "trust domain without a bundle": (
        lambda w: w.leaf("spiffe://other.test/agent/support"),
        "no trust bundle for trust domain `other.test`",
    ),
    "federated authority names our workload": (
        lambda w: w.leaf(issuer=PARTNER),
        "no path to an authority of trust domain `example.org`",
    ),
    "our authority names a federated workload": (
        lambda w: w.leaf("spiffe://partner.test/agent/support"),
        "no path to an authority of trust domain `partner.test`",
    ),
    "two uri sans": (lambda w: w.leaf(SUPPORT, "spiffe://example.org/agent/analyst"), "exactly one uri san, got 2"),
    "no uri san": (lambda w: w.authority.leaf(dns=["support"], **_life()), "exactly one uri san, got 0"),
    "a trust domain, no workload": (lambda w: w.leaf("spiffe://example.org"), "has no path"),
    "a signing certificate": (
        lambda w: w.leaf(basic_constraints=x509.BasicConstraints(ca=True, path_length=None)),
        "CA:TRUE",
    ),
}


def _life() -> dict[str, Any]:
    return {"not_before": now() - timedelta(minutes=1), "not_after": now() + timedelta(hours=1)}


def test_an_svid_of_our_authority_is_its_workload(front: Front) -> None:
    with front.caller(front.identity.leaf()) as caller:
        assert caller.authorize(caller.start_task()).token.value


def test_an_svid_of_a_federated_authority_is_a_workload_of_its_own_domain(front: Front) -> None:
    """Identified, and then denied by policy, which is an answer with a record: there is no manifest for it."""
    leaf = front.identity.leaf("spiffe://partner.test/agent/support", issuer=PARTNER)
    with front.caller(leaf) as caller, Caller(front.sidecar.world, "operator") as operator:
        refused = caller.tasks.StartTask(start_task(), timeout=20)
        assert (refused.outcome, refused.reason_code) == (common_pb2.OUTCOME_DENY, "forbidden_by_policy")
        body = operator.record(refused.position.index)
        assert body["actor"]["spiffe_id"] == "spiffe://partner.test/agent/support"


@pytest.mark.parametrize("shape", NO_CONNECTION.values(), ids=NO_CONNECTION.keys())
def test_without_a_certificate_that_tls_accepts_there_is_no_connection(front: Front, shape: Shape) -> None:
    before = front.ledger_size()
    with front.caller(shape(front.identity)) as caller:
        for call in (lambda: caller.tasks.StartTask(start_task(), timeout=20), lambda: caller.authorize("any-task")):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert front.ledger_size() == before


@pytest.mark.parametrize(("shape", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_what_tls_lets_through_is_still_checked_and_refused_by_name(front: Front, shape: Shape, says: str) -> None:
    before = front.ledger_size()
    with front.caller(shape(front.identity)) as caller:

        def stream() -> object:
            request = authorization_pb2.AuthorizeStreamRequest(request=authorize("any-task"))
            return list(caller.authorization.AuthorizeStream(iter([request]), timeout=20))

        def jwks() -> object:
            return caller.tokens.GetJwks(token_pb2.GetJwksRequest(), timeout=20)

        for call in (lambda: caller.tasks.StartTask(start_task(), timeout=20), stream, jwks):
            code, error = failure(call)
            assert (code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
            assert says in error.message
    assert front.ledger_size() == before


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
def plain(front: Front) -> Iterator[Caller]:
    """A connection to the JWT-SVID listener."""
    with Caller(front.sidecar.world, channel=grpc.insecure_channel(front.jwt_target)) as caller:
        yield caller


def test_a_jwt_svid_gets_a_token_for_a_key_that_it_names(front: Front, plain: Caller) -> None:
    svid, jkt = bearer(front.identity.jwt_svid()), thumbprint()
    task = plain.tasks.StartTask(start_task(), timeout=20, metadata=svid).task
    assert task.agent == SUPPORT
    request = authorize(task.task_id, proof_key_thumbprint=jkt)
    answer = plain.authorization.Authorize(request, timeout=20, metadata=svid)
    accepted = TokenVerifier(
        issuer="https://authz.example.org",
        audience=AUDIENCE,
        keys=JwksUrl(f"{front.sidecar.http}/.well-known/jwks.json"),
    ).verify(
        answer.token.value, presenter=Presenter(jkt=jkt), tool=READ, arguments=CONTACT, resource="crm:contact/c-1001"
    )
    assert accepted.jti == answer.token.jti
    with Caller(front.sidecar.world, "operator") as operator:
        body = operator.record(answer.position.index)
    assert (body["actor"]["method"], body["token"]["cnf"]) == ("jwt-svid", {"jkt": jkt})


def test_a_jwt_svid_that_names_no_key_gets_no_token(front: Front, plain: Caller) -> None:
    svid = bearer(front.identity.jwt_svid())
    task = plain.tasks.StartTask(start_task(), timeout=20, metadata=svid).task
    before = front.ledger_size()
    code, error = failure(lambda: plain.authorization.Authorize(authorize(task.task_id), timeout=20, metadata=svid))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error.field_violations] == ["proof_key_thumbprint"]
    assert front.ledger_size() == before


def tampered(token: str) -> str:
    """The same token for another workload, with the signature it had."""
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    other = b64url(json.dumps({**claims, "sub": "spiffe://example.org/agent/analyst"}).encode())
    return f"{header}.{other}.{signature}"


Metadata = tuple[tuple[str, str], ...]
WRONG_TOKENS: dict[str, tuple[Callable[[WorldIdentity], Metadata], str]] = {
    "missing": (lambda w: (), "exactly one `authorization: Bearer <JWT-SVID>`"),
    "two of them": (
        lambda w: bearer(w.jwt_svid()) + bearer(w.jwt_svid()),
        "exactly one `authorization: Bearer <JWT-SVID>`",
    ),
    "another scheme": (lambda w: (("authorization", f"Basic {w.jwt_svid()}"),), "must be `Bearer <JWT-SVID>`"),
    "another audience": (lambda w: bearer(w.jwt_svid(aud=["spiffe://example.org/tools/crm"])), "`aud` does not"),
    "expired": (lambda w: bearer(w.jwt_svid(exp=int(now().timestamp()) - 60)), "expired at"),
    "without an end": (lambda w: bearer(w.jwt_svid(exp=None)), "`exp` is missing"),
    "key of nobody": (lambda w: bearer(w.jwt_svid(signer=JwtSigner("key-1"))), "`kid` is not a jwt authority"),
    "key of nobody under our name": (
        lambda w: bearer(w.jwt_svid(signer=JwtSigner(w.signer.kid, ec_key()))),
        "the signature does not verify",
    ),
    "our key for a federated workload": (
        lambda w: bearer(w.jwt_svid(sub="spiffe://partner.test/agent/support")),
        "not a jwt authority of trust domain `partner.test`",
    ),
    "altered": (lambda w: bearer(tampered(w.jwt_svid())), "the signature does not verify"),
    "no signature": (lambda w: bearer(w.jwt_svid().rsplit(".", 1)[0] + "."), "jwt-svid: "),
    "not a token": (lambda w: bearer("x" * 300), "jwt-svid: "),
    "too long": (lambda w: bearer(w.jwt_svid(filler="x" * 7000)), "longer than 8192 bytes"),
}


@pytest.mark.parametrize(("metadata", "says"), WRONG_TOKENS.values(), ids=WRONG_TOKENS.keys())
def test_a_wrong_jwt_svid_is_refused_by_name_and_never_repeated(
    front: Front, plain: Caller, metadata: Callable[[WorldIdentity], Metadata], says: str
) -> None:
    before, sent = front.ledger_size(), metadata(front.identity)
    for call in (plain.tasks.StartTask, plain.authorization.Authorize):
        request = start_task() if call is plain.tasks.StartTask else authorize("any", proof_key_thumbprint=thumbprint())
        code, error = failure(lambda call=call, request=request: call(request, timeout=20, metadata=sent))
        assert (code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert says in error.message
    assert front.ledger_size() == before
    for _, value in sent:
        assert value.partition(" ")[2] not in front.sidecar.log


def test_a_certificate_is_never_overruled_by_a_token(front: Front) -> None:
    """An agent that came by another's JWT-SVID stays who its connection says it is."""
    stolen = bearer(front.identity.jwt_svid(sub="spiffe://example.org/agent/analyst"))
    with front.caller(front.identity.leaf()) as caller:
        task = caller.tasks.StartTask(start_task(), timeout=20, metadata=stolen).task
        assert task.agent == SUPPORT


class Stream:
    """An AuthorizeStream that the test feeds one request at a time."""

    def __init__(self, caller: Caller) -> None:
        self._requests: queue.SimpleQueue[authorization_pb2.AuthorizeStreamRequest | None] = queue.SimpleQueue()
        self._answers = caller.authorization.AuthorizeStream(iter(self._requests.get, None), timeout=60)

    def ask(self, task_id: str) -> authorization_pb2.AuthorizeStreamResponse:
        self._requests.put(authorization_pb2.AuthorizeStreamRequest(request=authorize(task_id)))
        return next(self._answers)

    def close(self) -> None:
        self._requests.put(None)


def expect_unidentified(caller: Caller, stream: Stream, task_id: str, says: str) -> None:
    """The open connection is worth nothing any more, and the open stream ends at its next message."""
    code, error = failure(stream.ask, task_id)
    assert (code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert says in error.message
    code, error = failure(caller.authorize, task_id)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert says in error.message
    stream.close()


def test_neither_a_connection_nor_a_stream_nor_a_token_outlives_the_svid(front: Front) -> None:
    # X.509 times are whole seconds; a token needs one second of life at least.
    ends = ceil(time.time()) + 3
    leaf = front.identity.leaf(not_after=now().fromtimestamp(ends, tz=now().tzinfo))
    with front.caller(leaf) as caller:
        task_id = caller.start_task()
        stream = Stream(caller)
        answer = stream.ask(task_id).response
        assert answer.outcome == common_pb2.OUTCOME_PERMIT
        assert answer.token.expires_at.seconds <= ends
        time.sleep(max(0.0, ends - time.time()) + 0.05)
        before = front.ledger_size()
        expect_unidentified(caller, stream, task_id, "expired at")
        assert front.ledger_size() == before


def test_a_withdrawn_authority_stops_counting_within_the_refresh_period(alone: Front) -> None:
    newer = root("example.org")
    with alone.caller(alone.identity.leaf()) as caller:
        task_id = caller.start_task()
        stream = Stream(caller)
        assert stream.ask(task_id).response.outcome == common_pb2.OUTCOME_PERMIT
        alone.identity.write_bundle(newer)
        wait_until(lambda: _fails(caller, task_id), seconds=5)
        expect_unidentified(caller, stream, task_id, "no path to an authority of trust domain `example.org`")
    with alone.caller(alone.identity.leaf()) as caller, pytest.raises(grpc.RpcError) as caught:
        caller.start_task()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with alone.caller(alone.identity.leaf(issuer=newer)) as caller:
        # The workload is its SPIFFE ID, whoever vouches for it: the task is still its own.
        assert caller.authorize(task_id).outcome == common_pb2.OUTCOME_PERMIT


def _fails(caller: Caller, task_id: str) -> bool:
    try:
        caller.authorize(task_id)
    except grpc.RpcError as error:
        assert error_of(error).reason == "UNAUTHENTICATED"
        return True
    return False


def test_a_rotated_svid_of_the_sidecar_is_served_without_a_restart_and_a_broken_one_never(alone: Front) -> None:
    identity = alone.identity
    with alone.caller(identity.leaf()) as caller:
        task_id = caller.start_task()
        old = identity.served_certificate()

        (alone.sidecar.world.svid("sidecar") / "svid.pem").write_text("half a certif")
        wait_until(alone.sidecar.not_ready, seconds=5)
        assert "svid.pem" in " ".join(alone.sidecar.not_ready())
        assert identity.served_certificate() == old

        rotated = identity.leaf("spiffe://example.org/authz-sidecar", dns=["authz-sidecar"])
        identity.write_sidecar_svid(rotated)
        wait_until(lambda: identity.served_certificate() == rotated.certificate, seconds=5)
        assert alone.sidecar.not_ready() == []
        # Who is connected stays connected.
        assert caller.authorize(task_id).outcome == common_pb2.OUTCOME_PERMIT
    events = [json.loads(line)["event"] for line in alone.sidecar.log.splitlines() if line.startswith("{")]
    assert "identity not reloaded" in events
    assert "identity reloaded" in events


def test_an_expired_svid_of_the_sidecar_is_said_by_readyz(alone: Front) -> None:
    authority: Authority = alone.identity.authority
    gone = authority.leaf(
        "spiffe://example.org/authz-sidecar",
        dns=["authz-sidecar"],
        not_before=now() - timedelta(hours=1),
        not_after=now() - timedelta(seconds=1),
    )
    alone.identity.write_sidecar_svid(gone)
    wait_until(lambda: "the sidecar's SVID is expired" in alone.sidecar.not_ready(), seconds=5)
