"""Revocation and the kill switch over the wire: what dies, what lives on, and the record left behind."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import grpc
import pytest

from authz_sidecar.v1 import admin_pb2, authorization_pb2, common_pb2, ledger_pb2, task_pb2, token_pb2
from tests.support.sidecar import Caller, Sidecar, World, authorize, error_of, running, start_task, world

SUPPORT = "spiffe://example.org/agent/support"
UNKNOWN = "0" * 32
Revoke = token_pb2.RevokeTokenRequest


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world() as value:
        yield value


@pytest.fixture(scope="module")
def sidecar(made: World) -> Iterator[Sidecar]:
    with running(made) as value:
        yield value


@pytest.fixture
def support(made: World, sidecar: Sidecar) -> Iterator[Caller]:
    with Caller(made, "support") as value:
        yield value


@pytest.fixture
def operator(made: World, sidecar: Sidecar) -> Iterator[Caller]:
    with Caller(made, "operator") as value:
        yield value


def active(operator: Caller, token: str) -> bool:
    return operator.tokens.IntrospectToken(token_pb2.IntrospectTokenRequest(token=token), timeout=20).active


def granted(caller: Caller, task_id: str) -> authorization_pb2.AuthorizeResponse:
    answer = caller.authorize(task_id)
    assert answer.outcome == common_pb2.OUTCOME_PERMIT, answer
    return answer


def entry(operator: Caller, index: int) -> tuple[dict, dict]:
    found = operator.ledger.GetRecord(ledger_pb2.GetRecordRequest(index=index), timeout=20).record
    return json.loads(found.entry_json), json.loads(found.payload_json or b"{}")


def reason_of(call) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return error_of(caught.value).reason


def test_a_revoked_token_is_dead_and_its_neighbour_is_not(support, operator):
    task_id = support.start_task()
    request = authorize(task_id)
    answer, other = support.authorization.Authorize(request, timeout=20), granted(support, task_id)
    done = operator.tokens.RevokeToken(Revoke(token=answer.token.value, reason="leaked"), timeout=20)
    assert not active(operator, answer.token.value)
    assert active(operator, other.token.value)
    body, payload = entry(operator, done.position.index)
    assert (body["type"], body["revocation"]["kind"], body["revocation"]["target"]) == (
        "token_revoked", "jti", answer.token.jti,
    )  # fmt: skip
    assert body["actor"]["spiffe_id"] == "spiffe://example.org/platform/operator"
    assert (body["decision"]["id"], body["task"]["id"]) == (answer.decision_id, task_id)
    assert payload["reason"] == "leaked"
    # A repeated request must not bring it back.
    assert reason_of(lambda: support.authorization.Authorize(request, timeout=20)) == "GRANT_EXPIRED"

    again = operator.tokens.RevokeToken(Revoke(jti=answer.token.jti), timeout=20)
    assert (again.position, again.revocation_epoch) == (done.position, done.revocation_epoch)
    told = operator.ledger.GetTimeline(ledger_pb2.GetTimelineRequest(task_id=task_id), timeout=20)
    assert [one.type for one in told.records] == ["task_started", "decision", "decision", "token_revoked"]


def test_an_unknown_identifier_is_answered_like_a_known_one(operator):
    before = operator.tokens.RevokeToken(Revoke(jti=UNKNOWN), timeout=20)
    again = operator.tokens.RevokeToken(Revoke(jti=UNKNOWN), timeout=20)
    assert before == again
    body, _ = entry(operator, before.position.index)
    assert body["revocation"]["target"] == UNKNOWN
    assert "task" not in body


def test_an_agent_gives_up_a_token_of_its_own_and_nothing_else(support, operator, made):
    task_id = support.start_task()
    mine, kept = granted(support, task_id), granted(support, task_id)
    support.tokens.RevokeToken(Revoke(token=mine.token.value), timeout=20)
    assert not active(operator, mine.token.value)
    with Caller(made, "analyst") as analyst:
        for target in ({"token": kept.token.value}, {"jti": kept.token.jti}, {"jti": "1" * 32}):
            assert reason_of(lambda t=target: analyst.tokens.RevokeToken(Revoke(**t), timeout=20)) == "RECORD_NOT_FOUND"
        for target in ({"task_id": task_id}, {"agent": SUPPORT}, {"kid": "A" * 43}):
            assert reason_of(lambda t=target: analyst.tokens.RevokeToken(Revoke(**t), timeout=20)) == "ROLE_REQUIRED"
    assert active(operator, kept.token.value)


@pytest.mark.parametrize("what", ["task_id", "agent"])
def test_revoking_so_far_spares_what_comes_later(support, operator, what):
    """Also within one second: the order is the ledger's, not the clock's."""
    task_id, other = support.start_task(), support.start_task()
    early, elsewhere = granted(support, task_id), granted(support, other)
    operator.tokens.RevokeToken(Revoke(**{what: task_id if what == "task_id" else SUPPORT}), timeout=20)
    late = granted(support, task_id)
    assert not active(operator, early.token.value)
    assert active(operator, late.token.value)
    assert active(operator, elsewhere.token.value) == (what == "task_id")
    # Once more covers what was granted in between.
    operator.tokens.RevokeToken(Revoke(**{what: task_id if what == "task_id" else SUPPORT}), timeout=20)
    assert not active(operator, late.token.value)


MALFORMED = [
    ({}, "target"),
    ({"jti": "has space"}, "jti"),
    ({"jti": ""}, "jti"),
    ({"task_id": "x" * 129}, "task_id"),
    ({"agent": "support"}, "agent"),
    ({"agent": "*"}, "agent"),
    ({"kid": "ab" * 32}, "kid"),
    ({"token": "not.a.token"}, "token"),
    ({"jti": UNKNOWN, "reason": "x" * 513}, "reason"),
    ({"jti": UNKNOWN, "reason": "bell \x07"}, "reason"),
]


@pytest.mark.parametrize(("fields", "wrong"), MALFORMED, ids=lambda value: str(value)[:24])
def test_a_malformed_revocation_names_its_field(operator, fields, wrong):
    with pytest.raises(grpc.RpcError) as caught:
        operator.tokens.RevokeToken(Revoke(**fields), timeout=20)
    error = error_of(caught.value)
    assert (error.reason, [one.field for one in error.field_violations]) == ("INVALID_REQUEST", [wrong])


def test_what_a_suspended_agent_delegated_is_stopped_with_it(support, operator, made):
    parent = support.start_task()
    child = support.delegate(parent).task.task_id
    with Caller(made, "analyst") as analyst:
        before = analyst.authorize(child)
        assert before.outcome == common_pb2.OUTCOME_PERMIT
        operator.admin.SuspendAgent(admin_pb2.SuspendAgentRequest(agent=SUPPORT, reason="odd calls"), timeout=20)
        try:
            assert not active(operator, before.token.value)
            denied = analyst.authorize(child)
            assert "agent-suspended" in [ref.id for ref in denied.determining_policies]
            refused = support.delegate(parent)
            assert (refused.outcome, refused.HasField("task")) == (common_pb2.OUTCOME_DENY, False)
        finally:
            operator.admin.ResumeAgent(admin_pb2.ResumeAgentRequest(agent=SUPPORT, reason="was a test"), timeout=20)
        assert analyst.authorize(child).outcome == common_pb2.OUTCOME_PERMIT


def test_a_suspended_agent_is_stopped_until_it_is_resumed(support, operator, made):
    task_id = support.start_task()
    before = granted(support, task_id)
    stopped = operator.admin.SuspendAgent(admin_pb2.SuspendAgentRequest(agent=SUPPORT, reason="odd calls"), timeout=20)
    try:
        again = operator.admin.SuspendAgent(admin_pb2.SuspendAgentRequest(agent=SUPPORT, reason="again"), timeout=20)
        assert (again.position, again.revocation_epoch) == (stopped.position, stopped.revocation_epoch)
        assert not active(operator, before.token.value)
        denied = support.authorize(task_id)
        assert denied.outcome == common_pb2.OUTCOME_DENY
        assert "agent-suspended" in [ref.id for ref in denied.determining_policies]
        refused = support.tasks.StartTask(start_task(), timeout=20)
        assert (refused.outcome, refused.HasField("task")) == (common_pb2.OUTCOME_DENY, False)
        with Caller(made, "analyst") as analyst:
            analyst.start_task(tools=["crm/search_contacts"])
    finally:
        resumed = operator.admin.ResumeAgent(
            admin_pb2.ResumeAgentRequest(agent=SUPPORT, reason="was a test"), timeout=20
        )
    assert not active(operator, before.token.value)
    assert active(operator, granted(support, task_id).token.value)
    body, payload = entry(operator, stopped.position.index)
    assert (body["type"], body["agent"]) == ("agent_suspended", {"id": SUPPORT, "state": "suspended"})
    assert payload["reason"] == "odd calls"
    assert entry(operator, resumed.position.index)[0]["type"] == "agent_resumed"
    told = operator.ledger.GetTimeline(ledger_pb2.GetTimelineRequest(task_id=task_id), timeout=20)
    types = [one.type for one in told.records]
    assert types == ["task_started", "decision", "agent_suspended", "decision", "agent_resumed", "decision"]


def test_everybody_can_be_stopped_at_once(support, operator, made):
    task_id = support.start_task()
    before = granted(support, task_id)
    operator.admin.SuspendAll(admin_pb2.SuspendAllRequest(reason="incident"), timeout=20)
    try:
        with Caller(made, "analyst") as analyst:
            refused = analyst.tasks.StartTask(start_task(tools=["crm/search_contacts"]), timeout=20)
        assert refused.outcome == common_pb2.OUTCOME_DENY
        assert support.authorize(task_id).outcome == common_pb2.OUTCOME_DENY
        assert not active(operator, before.token.value)
        # Lifting one agent's suspension does not lift everybody's.
        operator.admin.ResumeAgent(admin_pb2.ResumeAgentRequest(agent=SUPPORT, reason="x"), timeout=20)
        assert support.authorize(task_id).outcome == common_pb2.OUTCOME_DENY
    finally:
        operator.admin.ResumeAgent(admin_pb2.ResumeAgentRequest(agent="*", reason="over"), timeout=20)
    assert support.authorize(task_id).outcome == common_pb2.OUTCOME_PERMIT


def test_nobody_is_resumed_who_was_never_suspended(operator):
    request = admin_pb2.ResumeAgentRequest(agent="spiffe://example.org/agent/nobody", reason="x")
    assert reason_of(lambda: operator.admin.ResumeAgent(request, timeout=20)) == "AGENT_NOT_SUSPENDED"
    request = admin_pb2.SuspendAgentRequest(agent="nobody", reason="")
    with pytest.raises(grpc.RpcError) as caught:
        operator.admin.SuspendAgent(request, timeout=20)
    assert [one.field for one in error_of(caught.value).field_violations] == ["reason", "agent"]


def test_no_token_survives_a_revocation_that_races_it(support, operator):
    """Many permits in flight while their agent is suspended: each either never left, or is dead."""
    task_id = support.start_task()
    tokens: list[str] = []
    stop = threading.Event()

    def call(caller: Caller) -> None:
        while not stop.is_set():
            try:
                answer = caller.authorize(task_id)
            except grpc.RpcError as error:
                assert error_of(error).reason == "GRANT_REVOKED", error
                continue
            if answer.HasField("token"):
                tokens.append(answer.token.value)

    callers = [threading.Thread(target=call, args=(support,)) for _ in range(4)]
    for thread in callers:
        thread.start()
    while len(tokens) < 20:
        stop.wait(0.005)
    operator.admin.SuspendAgent(admin_pb2.SuspendAgentRequest(agent=SUPPORT, reason="race"), timeout=20)
    stop.set()
    for thread in callers:
        thread.join()
    operator.admin.ResumeAgent(admin_pb2.ResumeAgentRequest(agent=SUPPORT, reason="race over"), timeout=20)
    assert [token for token in tokens if active(operator, token)] == []


def test_nothing_is_forgotten_by_a_restart_and_a_revoked_key_signs_nothing():
    with world() as made:
        with running(made) as sidecar, Caller(made) as support, Caller(made, "operator") as operator:
            task_id = support.start_task()
            one, two = granted(support, task_id), granted(support, task_id)
            operator.tokens.RevokeToken(Revoke(jti=one.token.jti), timeout=20)
            agent = "spiffe://example.org/agent/analyst"
            epoch = operator.admin.SuspendAgent(
                admin_pb2.SuspendAgentRequest(agent=agent, reason="kept"), timeout=20
            ).revocation_epoch
            sidecar.kill()
        with running(made) as sidecar, Caller(made) as support, Caller(made, "operator") as operator:
            assert not active(operator, one.token.value)
            assert active(operator, two.token.value)
            with Caller(made, "analyst") as analyst:
                refused = analyst.tasks.StartTask(start_task(tools=["crm/search_contacts"]), timeout=20)
                assert refused.outcome == common_pb2.OUTCOME_DENY
            keys = json.loads(urllib.request.urlopen(f"{sidecar.http}/.well-known/jwks.json", timeout=10).read())
            (key,) = keys["keys"]
            done = operator.tokens.RevokeToken(Revoke(kid=key["kid"], reason="stolen"), timeout=20)
            assert done.revocation_epoch == epoch + 1
            assert not active(operator, two.token.value)
            assert reason_of(lambda: support.authorize(task_id)) == "NOT_READY"
            keys = json.loads(urllib.request.urlopen(f"{sidecar.http}/.well-known/jwks.json", timeout=10).read())
            assert keys == {"keys": []}
            with pytest.raises(urllib.error.HTTPError, match="503"):
                urllib.request.urlopen(f"{sidecar.http}/readyz", timeout=10)
            assert sidecar.stop() == 0
        with running(made), Caller(made) as support, Caller(made, "operator") as operator:
            assert not active(operator, two.token.value)
            assert reason_of(lambda: support.authorize(task_id)) == "NOT_READY"
        # Unanchored: nobody kept a checkpoint elsewhere. Everything else holds, projections included.
        found = made.run("audit", "verify", "--vkey", str(made.vkey), "--ledger", str(made.ledger))
        assert found.returncode == 6, found


def test_a_caller_that_knows_of_a_revocation_gets_no_older_answer(support, operator):
    task_id = support.start_task()
    epoch = operator.tokens.RevokeToken(Revoke(task_id=task_id), timeout=20).revocation_epoch
    assert support.authorize(task_id, at_least_epoch=epoch).outcome == common_pb2.OUTCOME_PERMIT
    assert reason_of(lambda: support.authorize(task_id, at_least_epoch=epoch + 1)) == "BEHIND_CALLER"
    done = support.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=task_id), timeout=20)
    assert done.revocation_epoch == epoch + 1
