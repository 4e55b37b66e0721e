"""The revocation feed: what watchers are told, what they miss and catch up on, and what verifiers make of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authz_sidecar.client.revocations import RevocationFeed
from authz_sidecar.v1 import admin_pb2, common_pb2, task_pb2, token_pb2
from authz_sidecar.verifier import JwkSet, JwksUrl, Presenter, Reason, TokenRejected, TokenVerifier, x5t_s256
from tests.support.sidecar import AUDIENCE, CONTACT, READ, Caller, Sidecar, World, error_of, running, world

ISSUER = "https://authz.example.org"
SUPPORT = "spiffe://example.org/agent/support"
Revoke = token_pb2.RevokeTokenRequest


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world() as value:
        yield value


@pytest.fixture(scope="module")
def sidecar(made: World) -> Iterator[Sidecar]:
    with running(made, "revocation.heartbeat=200ms") as value:
        yield value


@pytest.fixture
def apart() -> Iterator[World]:
    """A world of its own, for tests that start and stop its sidecar."""
    with world() as value:
        yield value


@pytest.fixture
def support(made: World, sidecar: Sidecar) -> Iterator[Caller]:
    with Caller(made, "support") as value:
        yield value


@pytest.fixture
def operator(made: World, sidecar: Sidecar) -> Iterator[Caller]:
    with Caller(made, "operator") as value:
        yield value


@pytest.fixture
def crm(made: World, sidecar: Sidecar) -> Iterator[Caller]:
    with Caller(made, "crm") as value:
        yield value


@contextmanager
def watching(caller: Caller, after: int = 0) -> Iterator[Iterator[token_pb2.WatchRevocationsResponse]]:
    call = caller.tokens.WatchRevocations(token_pb2.WatchRevocationsRequest(after_sequence=after), timeout=30)
    try:
        yield call
    finally:
        call.cancel()


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


def presenter(made: World) -> Presenter:
    leaf = x509.load_pem_x509_certificate((made.svid("support") / "svid.pem").read_bytes())
    return Presenter(x5t_s256=x5t_s256(leaf.public_bytes(Encoding.DER)), spiffe_id=SUPPORT)


def verdict(verifier: TokenVerifier, made: World, token: str) -> Reason | None:
    try:
        verifier.verify(token, presenter=presenter(made), tool=READ, arguments=CONTACT, resource=None)
    except TokenRejected as rejected:
        return rejected.reason
    return None


def granted(caller: Caller, task_id: str) -> str:
    answer = caller.authorize(task_id)
    assert answer.outcome == common_pb2.OUTCOME_PERMIT, answer
    return answer.token.value


def test_a_watcher_gets_what_is_in_force_then_every_change_then_signs_of_life(support, operator, crm):
    ended = support.start_task()
    support.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=ended), timeout=20)
    task_id = support.start_task()
    answer = support.authorize(task_id)
    with watching(crm) as feed:
        first = next(feed)
        assert first.WhichOneof("event") == "snapshot"
        told = {one.task_id: one for one in first.snapshot.revocations}
        assert told[ended].sequence == first.sequence
        assert told[ended].task_epoch == 1
        left = told[ended].expires_at.seconds - time.time()
        assert 300 < left <= 361

        done = operator.tokens.RevokeToken(Revoke(jti=answer.token.jti), timeout=20)
        operator.tokens.RevokeToken(Revoke(task_id=task_id), timeout=20)
        operator.tokens.RevokeToken(Revoke(agent=SUPPORT), timeout=20)
        operator.admin.SuspendAll(admin_pb2.SuspendAllRequest(reason="drill"), timeout=20)
        operator.admin.ResumeAgent(admin_pb2.ResumeAgentRequest(agent="*", reason="drill over"), timeout=20)
        changes = [one for one in islice(feed, 8) if one.WhichOneof("event") == "revocation"]
        assert [one.sequence for one in changes] == [first.sequence + n for n in (1, 2, 3, 4)]
        assert changes[0].sequence == done.revocation_epoch
        assert [one.revocation.WhichOneof("target") for one in changes] == ["jti", "task_id", "agent", "agent"]
        assert changes[3].revocation.agent == "*"
        quiet = next(one for one in feed if one.WhichOneof("event") == "heartbeat")
        assert quiet.sequence == changes[-1].sequence


def test_a_watcher_goes_on_from_the_number_it_reached(support, operator, crm):
    before = operator.tokens.RevokeToken(Revoke(jti="a" * 32), timeout=20).revocation_epoch
    for number in range(3):
        operator.tokens.RevokeToken(Revoke(jti=f"b{number}" * 16), timeout=20)
    with watching(crm, after=before) as feed:
        told = list(islice(feed, 4))
    assert [one.WhichOneof("event") for one in told] == ["revocation"] * 3 + ["heartbeat"]
    assert [one.sequence for one in told] == [before + 1, before + 2, before + 3, before + 3]


def test_a_watcher_that_knows_more_is_not_talked_out_of_it(crm):
    with watching(crm, after=10**9) as feed, pytest.raises(grpc.RpcError) as caught:
        next(feed)
    assert error_of(caught.value).reason == "BEHIND_CALLER"


def test_only_tool_servers_and_operators_watch(support):
    with watching(support) as feed, pytest.raises(grpc.RpcError) as caught:
        next(feed)
    assert error_of(caught.value).reason == "ROLE_REQUIRED"


def test_many_watchers_take_no_place_from_callers(apart):
    with running(apart, "limits.max_concurrent_rpcs=2") as _, Caller(apart, "crm") as crm, Caller(apart) as support:
        calls = [crm.tokens.WatchRevocations(token_pb2.WatchRevocationsRequest(), timeout=30) for _ in range(20)]
        assert {next(call).WhichOneof("event") for call in calls} == {"snapshot"}
        assert support.authorize(support.start_task()).outcome == common_pb2.OUTCOME_PERMIT
        for call in calls:
            call.cancel()


def test_a_completed_task_takes_its_token_from_the_tool_server_at_once(support, made, sidecar):
    with RevocationFeed(f"unix:{made.socket}", svid=made.svid_files("crm")) as feed:
        assert feed.wait_until_fresh(10)
        keys = JwkSet.parse(support.tokens.GetJwks(token_pb2.GetJwksRequest(), timeout=20).jwks_json)
        verifier = TokenVerifier(issuer=ISSUER, audience=AUDIENCE, keys=keys, revocation=feed)
        task_id = support.start_task()
        token = granted(support, task_id)
        assert verdict(verifier, made, token) is None
        support.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=task_id), timeout=20)
        until(lambda: verdict(verifier, made, token) is Reason.REVOKED, seconds=2)
        assert not feed.state.stale
    assert verdict(verifier, made, token) is Reason.REVOKED, "what is known stays known"
    other = granted(support, support.start_task())
    assert verdict(verifier, made, other) is Reason.STALE, "a closed feed knows nothing new"


def test_a_feed_that_is_cut_off_says_so_and_catches_up_after_a_restart(apart):
    """Also for what happened while it was away, and with the sidecar gone for good in between."""
    with RevocationFeed(f"unix:{apart.socket}", svid=apart.svid_files("crm"), stale_after=1.5) as feed:
        with running(apart) as sidecar, Caller(apart) as support:
            assert feed.wait_until_fresh(20)
            asked: list[str] = []
            verifier = TokenVerifier(
                issuer=ISSUER, audience=AUDIENCE, keys=JwksUrl(f"{sidecar.http}/.well-known/jwks.json"), revocation=feed
            )
            asking = TokenVerifier(
                issuer=ISSUER,
                audience=AUDIENCE,
                keys=JwkSet.parse(support.tokens.GetJwks(token_pb2.GetJwksRequest(), timeout=20).jwks_json),
                revocation=feed,
                introspect_when_stale=lambda token: not asked.append(token),
            )
            task_id = support.start_task()
            one, two = granted(support, task_id), granted(support, support.start_task())
            assert verdict(verifier, apart, one) is None
            reached = feed.state.sequence
            sidecar.kill()
        until(lambda: feed.state.stale)
        assert verdict(asking, apart, one) is None
        assert asked == [one]
        assert verdict(TokenVerifier(issuer=ISSUER, audience=AUDIENCE, keys=asking._keys, revocation=feed), apart, two) is Reason.STALE  # fmt: skip

        with running(apart), Caller(apart) as support:
            support.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=task_id), timeout=20)
            until(lambda: not feed.state.stale)
            assert feed.state.sequence == reached + 1
            assert verdict(asking, apart, one) is Reason.REVOKED
            assert verdict(asking, apart, two) is None
            assert asked == [one]


def test_stopping_does_not_wait_for_watchers(apart):
    with running(apart) as sidecar, Caller(apart, "crm") as crm, watching(crm) as feed:
        next(feed)
        started = time.monotonic()
        assert sidecar.stop() == 0
        assert time.monotonic() - started < 5
        with pytest.raises(grpc.RpcError) as caught:
            list(feed)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("arguments", [{}, {"stale_after": 0.1}, {"jwt_svid": lambda: "x", "both": True}])
def test_a_feed_that_could_not_work_is_not_made(made, arguments):
    both = arguments.pop("both", False)
    svid = made.svid_files("crm") if both or "stale_after" in arguments else None
    with pytest.raises(ValueError, match=r"give `svid`|`stale_after`"):
        RevocationFeed("unix:/nowhere", svid=svid, **arguments)


def test_a_feed_without_a_sidecar_is_stale_and_can_be_closed(made):
    with RevocationFeed("unix:/nowhere.sock", svid=made.svid_files("crm")) as feed:
        assert not feed.wait_until_fresh(0.2)
        assert (feed.state.stale, feed.state.sequence) == (True, None)
