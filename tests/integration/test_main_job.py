"""The main job over the wire: a real process, real mutual TLS, a real ledger; and the record left behind."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authz_sidecar.v1 import authorization_pb2, common_pb2, ledger_pb2, policy_pb2, task_pb2, token_pb2
from authz_sidecar.verifier import JwksUrl, Presenter, TokenRejected, TokenVerifier, x5t_s256
from tests.support.sidecar import (
    AUDIENCE,
    CONTACT,
    READ,
    Caller,
    Sidecar,
    World,
    authorize,
    error_of,
    running,
    start_task,
    world,
)

ISSUER = "https://authz.example.org"
SUPPORT = "spiffe://example.org/agent/support"


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


def presenter(made: World, name: str = "support") -> Presenter:
    leaf = x509.load_pem_x509_certificate((made.svid(name) / "svid.pem").read_bytes())
    return Presenter(x5t_s256=x5t_s256(leaf.public_bytes(Encoding.DER)), spiffe_id=f"spiffe://example.org/agent/{name}")


def verifier(sidecar: Sidecar) -> TokenVerifier:
    return TokenVerifier(issuer=ISSUER, audience=AUDIENCE, keys=JwksUrl(f"{sidecar.http}/.well-known/jwks.json"))


def record(operator: Caller, decision_id: str) -> dict[str, object]:
    response = operator.ledger.GetRecord(ledger_pb2.GetRecordRequest(decision_id=decision_id), timeout=20)
    entry = response.record
    assert hashlib.sha256(b"\x00" + entry.entry_json).digest() == entry.leaf_hash
    return json.loads(entry.entry_json)


def test_a_permitted_call_gets_a_token_that_the_tool_server_accepts_offline(support, operator, sidecar, made):
    task_id = support.start_task()
    answer = support.authorize(task_id, justification="ticket 4711", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")

    assert answer.outcome == common_pb2.OUTCOME_PERMIT
    assert answer.resource == "crm:contact/c-1001"
    accepted = verifier(sidecar).verify(
        answer.token.value, presenter=presenter(made), tool=READ, arguments=CONTACT, resource=answer.resource
    )
    assert accepted.jti == answer.token.jti

    body = record(operator, answer.decision_id)
    assert body["outcome"] == "permit"
    assert body["actor"]["spiffe_id"] == SUPPORT
    assert body["initiator"] == {"kind": "human", "id": "maria", "verified": False}
    assert body["purpose"] == "answer a ticket"
    assert body["token"]["jti"] == answer.token.jti
    assert body["policy"]["sha256"] == answer.policy_digest
    assert body["resource"]["classification"] == "internal"
    assert body["trace"] == {"trace_id": "a" * 32, "span_id": "b" * 16}
    assert [ref["id"] for ref in body["determining"]] == [ref.id for ref in answer.determining_policies]
    assert answer.token.value not in json.dumps(body)


def test_the_payload_holds_what_was_evaluated_and_the_leaf_commits_to_it(support, operator):
    answer = support.authorize(support.start_task())
    entry = operator.ledger.GetRecord(ledger_pb2.GetRecordRequest(decision_id=answer.decision_id), timeout=20).record
    payload = json.loads(entry.payload_json)
    assert payload["evaluated"]["context"]["input"] == CONTACT
    assert len(payload["salt"]) >= 32
    commitment = json.loads(entry.entry_json)["payload"]
    assert commitment == {"sha256": hashlib.sha256(entry.payload_json).hexdigest(), "size": len(entry.payload_json)}
    assert "c-1001" not in json.dumps({**json.loads(entry.entry_json), "resource": None})


DELETE = {"contact_id": "c-1001", "reason": "asked for"}
DENIALS = [
    pytest.param(
        {"tool": "crm/delete_contact", "arguments": DELETE}, "forbidden_by_policy", id="tool outside the task"
    ),
    pytest.param({"arguments": {"contact_id": "vip-7"}}, "forbidden_by_policy", id="class above the boundary"),
    pytest.param({"tool": "crm/no_such_tool"}, "unknown_tool", id="unknown tool"),
    pytest.param({"audience": "https://evil.example.org"}, "audience_mismatch", id="wrong audience"),
    pytest.param({"arguments": {}}, "arguments_invalid", id="missing argument"),
    pytest.param({"arguments": {"contact_id": 7}}, "arguments_invalid", id="argument of another type"),
    pytest.param({"arguments": {"contact_id": "c", "x": 1}}, "arguments_invalid", id="argument too many"),
    pytest.param({"resource": "crm:contact/c-2002"}, "resource_mismatch", id="declares another resource"),
    pytest.param({"arguments_sha256": b"d" * 32}, "arguments_missing", id="digest instead of arguments"),
]


@pytest.mark.parametrize(("changes", "reason"), DENIALS)
def test_a_denial_is_an_answer_without_token_and_with_a_record(support, operator, changes, reason):
    answer = support.authorize(support.start_task(), **changes)
    assert answer.outcome == common_pb2.OUTCOME_DENY
    assert answer.reason_code == reason
    assert not answer.HasField("token")
    body = record(operator, answer.decision_id)
    assert (body["outcome"], body["reason_code"], body["token"]) == ("deny", reason, None)


@pytest.mark.parametrize("contact_id", ["../vip-1", "x/../../vip-1", "vip-1\x00", "*", "c/1", "", "c-1001%2fx"])
def test_no_argument_names_a_resource_of_another_kind(support, contact_id):
    answer = support.authorize(support.start_task(), arguments={"contact_id": contact_id})
    assert answer.outcome == common_pb2.OUTCOME_DENY
    assert not answer.HasField("token")


@pytest.mark.parametrize("task_id", ["01890a5d-ac96-774b-bcce-b302099a8057", "another"], ids=["unknown", "foreign"])
def test_a_task_of_nobody_and_a_task_of_another_look_the_same(support, made, operator, task_id):
    if task_id == "another":
        with Caller(made, "analyst") as analyst:
            task_id = analyst.start_task(tools=["crm/search_contacts"])
    answer = support.authorize(task_id)
    assert (answer.outcome, answer.reason_code) == (common_pb2.OUTCOME_DENY, "task_not_found")
    assert record(operator, answer.decision_id)["task"] == {"id": task_id}
    with pytest.raises(grpc.RpcError) as caught:
        support.tasks.GetTask(task_pb2.GetTaskRequest(task_id=task_id), timeout=20)
    assert error_of(caught.value).reason == "TASK_NOT_FOUND"


MALFORMED = [
    pytest.param({"request_id": "has space"}, ["request_id"], id="request id"),
    pytest.param({"task_id": "x" * 129}, ["task_id"], id="task id"),
    pytest.param({"tool_server": "a/b"}, ["tool_server"], id="server name"),
    pytest.param({"arguments_json": b"[]"}, ["arguments_json"], id="not an object"),
    pytest.param({"arguments_json": b'{"a":1,"a":2}'}, ["arguments_json"], id="duplicate member"),
    pytest.param({"arguments_json": b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"}, ["arguments_json"], id="too deep"),
    pytest.param({"arguments_json": b'{"a":"\xff"}'}, ["arguments_json"], id="not UTF-8"),
    pytest.param({"arguments_json": b'{"a":NaN}'}, ["arguments_json"], id="NaN"),
    pytest.param({"arguments_json": b'{"a":9007199254740993}'}, ["arguments_json"], id="integer beyond 2^53"),
    pytest.param({"arguments_json": b'{"a":"' + b"x" * 70000 + b'"}'}, ["arguments_json"], id="too long"),
    pytest.param({"arguments_json": b'{"a":"\\ud800"}'}, ["arguments_json"], id="lone surrogate"),
    pytest.param({"proof_key_thumbprint": "short"}, ["proof_key_thumbprint"], id="thumbprint"),
    pytest.param({"min_policy_digest": "sha256:zz"}, ["min_policy_digest"], id="policy digest"),
    pytest.param({"request_id": "", "task_id": ""}, ["request_id", "task_id"], id="two fields at once"),
]


@pytest.mark.parametrize(("changes", "fields"), MALFORMED)
def test_a_malformed_request_names_its_fields_and_leaves_no_record(support, operator, changes, fields):
    task_id = support.start_task()
    request = authorize(task_id)
    for name, value in changes.items():
        setattr(request, name, value)
    with pytest.raises(grpc.RpcError) as caught:
        support.authorization.Authorize(request, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error_of(caught.value).field_violations] == fields
    timeline = operator.ledger.GetTimeline(ledger_pb2.GetTimelineRequest(task_id=task_id), timeout=20)
    assert [entry.type for entry in timeline.records] == ["task_started"]


def test_bytes_that_are_no_request_are_refused_by_name(made, sidecar):
    with made.channel("support") as channel:
        call = channel.unary_unary("/authz_sidecar.v1.AuthorizationService/Authorize")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\x0a\xff\xff\xff", timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\x0a\x02\xff\xfe", timeout=20)
        assert "UTF-8" in error_of(caught.value).message


def test_the_same_request_again_is_the_same_decision(support, operator):
    request = authorize(support.start_task())
    first = support.authorization.Authorize(request, timeout=20)
    again = support.authorization.Authorize(request, timeout=20)
    assert again.recalled
    assert not first.recalled
    assert (again.decision_id, again.token.jti, again.position) == (
        first.decision_id,
        first.token.jti,
        first.position,
    )
    assert [ref.reason for ref in again.determining_policies] == [ref.reason for ref in first.determining_policies]


def test_a_request_id_is_not_reused_for_other_content(support):
    request = authorize(support.start_task())
    support.authorization.Authorize(request, timeout=20)
    request.arguments_json = b'{"contact_id":"c-2002"}'
    with pytest.raises(grpc.RpcError) as caught:
        support.authorization.Authorize(request, timeout=20)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert error_of(caught.value).reason == "REQUEST_ID_REUSED"


def test_when_the_task_completes_its_tokens_die(support, made, operator):
    task_id = support.start_task()
    request = authorize(task_id)
    answer = support.authorization.Authorize(request, timeout=20)
    with Caller(made, "crm") as crm:
        ask = token_pb2.IntrospectTokenRequest(token=answer.token.value)
        active = crm.tokens.IntrospectToken(ask, timeout=20)
        assert active.active
        assert json.loads(active.claims_json)["txn"] == task_id
        assert "x5t#S256" in json.loads(active.claims_json)["cnf"]

        done = support.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=task_id, summary="answered"), timeout=20)
        assert done.task.state == common_pb2.TASK_STATE_COMPLETED
        assert done.revocation_epoch > active.revocation_epoch

        gone = crm.tokens.IntrospectToken(ask, timeout=20)
        assert (gone.active, gone.claims_json) == (False, b"")
        unknown = crm.tokens.IntrospectToken(token_pb2.IntrospectTokenRequest(token="not.a.token"), timeout=20)
        assert (unknown.active, unknown.claims_json) == (False, b"")

    later = support.authorize(task_id)
    assert (later.outcome, later.reason_code) == (common_pb2.OUTCOME_DENY, "forbidden_by_policy")
    with pytest.raises(grpc.RpcError) as caught:
        support.authorization.Authorize(request, timeout=20)
    assert error_of(caught.value).reason == "GRANT_EXPIRED"
    with pytest.raises(grpc.RpcError) as caught:
        support.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=task_id), timeout=20)
    assert error_of(caught.value).reason == "TASK_NOT_ACTIVE"


def test_the_timeline_tells_the_whole_task(support, operator):
    task_id = support.start_task()
    reported = support.authorize(task_id)
    silent = support.authorize(task_id)
    support.authorize(task_id, tool="crm/delete_contact", arguments=DELETE)
    support.authorization.ReportOutcome(
        authorization_pb2.ReportOutcomeRequest(
            decision_id=reported.decision_id, status=authorization_pb2.EXECUTION_STATUS_SUCCESS
        ),
        timeout=20,
    )
    support.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=task_id), timeout=20)
    told = operator.ledger.GetTimeline(ledger_pb2.GetTimelineRequest(task_id=task_id), timeout=20)
    assert [entry.type for entry in told.records] == [
        "task_started", "decision", "decision", "decision", "outcome", "task_completed",
    ]  # fmt: skip
    assert list(told.missing_outcomes) == [silent.decision_id]
    found = list(
        operator.ledger.QueryRecords(
            ledger_pb2.QueryRecordsRequest(task_id=task_id, outcome=common_pb2.OUTCOME_DENY), timeout=20
        )
    )
    assert [json.loads(one.record.entry_json)["action"] for one in found] == ["crm/delete_contact"]


def test_an_outcome_that_contradicts_its_decision_is_recorded_as_such(support, operator, made):
    answer = support.authorize(support.start_task())
    report = authorization_pb2.ReportOutcomeRequest(
        decision_id=answer.decision_id,
        status=authorization_pb2.EXECUTION_STATUS_SUCCESS,
        arguments_sha256=b"x" * 32,
    )
    first = support.authorization.ReportOutcome(report, timeout=20)
    assert list(first.contradictions) == ["arguments_differ"]
    again = support.authorization.ReportOutcome(report, timeout=20)
    assert (again.recalled, again.position) == (True, first.position)
    report.status = authorization_pb2.EXECUTION_STATUS_FAILURE
    other = support.authorization.ReportOutcome(report, timeout=20)
    assert "reported_before_differently" in other.contradictions

    with Caller(made, "analyst") as analyst, pytest.raises(grpc.RpcError) as caught:
        analyst.authorization.ReportOutcome(report, timeout=20)
    assert error_of(caught.value).reason == "RECORD_NOT_FOUND"


def post_outside(task_id: str) -> authorization_pb2.AuthorizeRequest:
    return authorize(
        task_id, tool="mail/send_external", arguments_sha256=b"d" * 32, resource="mail:outside/customer.example"
    )


def test_a_read_of_restricted_data_closes_the_way_out(made, sidecar):
    """Also for a call that is decided while the record of the read is still being written: both are on one stream."""
    with Caller(made, "analyst") as analyst:
        task_id = analyst.start_task(tools=[READ, "mail/send_external"], resources=["*"], ceiling="restricted")
        before = analyst.authorization.Authorize(post_outside(task_id), timeout=20)
        assert before.outcome == common_pb2.OUTCOME_APPROVAL_REQUIRED
        assert not before.HasField("token")

        read = authorize(task_id, arguments={"contact_id": "vip-7"})
        after = post_outside(task_id)
        answers = analyst.authorization.AuthorizeStream(
            iter([authorization_pb2.AuthorizeStreamRequest(request=one) for one in (read, after)]), timeout=20
        )
        by_id = {answer.request_id: answer.response for answer in answers}
    assert by_id[read.request_id].outcome == common_pb2.OUTCOME_PERMIT
    denied = by_id[after.request_id]
    assert (denied.outcome, denied.reason_code) == (common_pb2.OUTCOME_DENY, "forbidden_by_policy")
    assert "no-posting-after-restricted-read" in [ref.id for ref in denied.determining_policies]


def test_a_task_that_policy_refuses_does_not_start_and_leaves_a_record(support, operator):
    response = support.tasks.StartTask(start_task(ceiling="restricted"), timeout=20)
    assert response.outcome == common_pb2.OUTCOME_DENY
    assert not response.HasField("task")
    refused = operator.ledger.GetRecord(ledger_pb2.GetRecordRequest(index=response.position.index), timeout=20).record
    assert refused.type == "task_refused"


@pytest.mark.parametrize("field", ["initiator.credential", "ttl"])
def test_a_task_request_that_cannot_be_honoured_names_the_field(support, field):
    request = start_task()
    if field == "ttl":
        request.ttl.seconds = 2**62
    else:
        request.initiator.credential = "eyJ..."
    with pytest.raises(grpc.RpcError) as caught:
        support.tasks.StartTask(request, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error_of(caught.value).field_violations] == [field]


def test_starting_a_task_twice_with_one_request_id_starts_one(support):
    request = start_task(request_id="start-once")
    first = support.tasks.StartTask(request, timeout=20)
    again = support.tasks.StartTask(request, timeout=20)
    assert (again.recalled, again.task.task_id) == (True, first.task.task_id)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("support", lambda c: c.ledger.GetCheckpoint(ledger_pb2.GetCheckpointRequest(), timeout=20)),
        ("support", lambda c: c.policy.GetPolicyStatus(policy_pb2.GetPolicyStatusRequest(), timeout=20)),
        ("crm", lambda c: list(c.ledger.QueryRecords(ledger_pb2.QueryRecordsRequest(), timeout=20))),
        ("analyst", lambda c: c.tokens.IntrospectToken(token_pb2.IntrospectTokenRequest(token="x"), timeout=20)),
    ],
)
def test_a_caller_without_the_role_is_refused_by_name(made, sidecar, name, call):
    with Caller(made, name) as caller, pytest.raises(grpc.RpcError) as caught:
        call(caller)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_of(caught.value).reason == "ROLE_REQUIRED"


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.authorization.AuthorizeBatch(authorization_pb2.AuthorizeBatchRequest(), timeout=20),
    ],
)
def test_what_is_not_built_says_so(support, call):
    with pytest.raises(grpc.RpcError) as caught:
        call(support)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error_of(caught.value).reason == "UNIMPLEMENTED"


def test_a_caller_that_knows_more_is_not_answered(support):
    task_id = support.start_task()
    for changes in ({"min_policy_digest": "sha256:" + "0" * 64}, {"at_least_epoch": 10**6}):
        with pytest.raises(grpc.RpcError) as caught:
            support.authorize(task_id, **changes)
        assert error_of(caught.value).reason == "BEHIND_CALLER"
    known = support.authorize(task_id)
    assert support.authorize(task_id, min_policy_digest=known.policy_digest).outcome == common_pb2.OUTCOME_PERMIT


def test_the_stream_answers_by_request_id_and_survives_a_bad_request(support):
    task_id = support.start_task()
    good, bad = authorize(task_id), authorize(task_id, arguments=b"[]")
    answers = support.authorization.AuthorizeStream(
        iter([authorization_pb2.AuthorizeStreamRequest(request=one) for one in (bad, good)]), timeout=20
    )
    by_id = {answer.request_id: answer for answer in answers}
    assert by_id[bad.request_id].error.reason == "INVALID_REQUEST"
    assert by_id[good.request_id].response.outcome == common_pb2.OUTCOME_PERMIT


def test_the_policy_status_names_the_active_bundle(operator, support):
    status = operator.policy.GetPolicyStatus(policy_pb2.GetPolicyStatusRequest(), timeout=20)
    assert status.policy_digest == support.authorize(support.start_task()).policy_digest
    assert status.policies > 10
    assert status.engine.startswith("cedarpy ")


def test_http_serves_health_metrics_and_keys(sidecar, support):
    support.authorize(support.start_task())
    assert urllib.request.urlopen(f"{sidecar.http}/readyz", timeout=10).status == 200
    metrics = urllib.request.urlopen(f"{sidecar.http}/metrics", timeout=10).read().decode()
    assert 'authz_sidecar_authorize_total{outcome="permit",reason="permitted"}' in metrics
    jwks = json.loads(urllib.request.urlopen(f"{sidecar.http}/.well-known/jwks.json", timeout=10).read())
    over_grpc = support.tokens.GetJwks(token_pb2.GetJwksRequest(), timeout=20)
    assert json.loads(over_grpc.jwks_json) == jwks
    assert over_grpc.issuer == ISSUER
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(urllib.request.Request(f"{sidecar.http}/metrics", method="POST"), timeout=10)


def test_neither_log_nor_ledger_ever_holds_a_token_or_an_argument(support, sidecar, made):
    marker = "c-" + "7" * 20
    answer = support.authorize(support.start_task(), arguments={"contact_id": marker})
    signature = answer.token.value.rsplit(".", 1)[1]
    assert marker not in sidecar.log
    files = [path for path in made.ledger.rglob("*") if path.is_file()]
    assert files
    for path in [*files, sidecar.log_path]:
        assert signature.encode() not in Path(path).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"tool": "crm/update_contact"},
        {"arguments": {"contact_id": "c-2002"}},
        {"resource": "crm:contact/c-2002"},
        {"presenter": "analyst"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_token_is_good_for_one_call_of_one_workload(support, sidecar, made, change):
    answer = support.authorize(support.start_task())
    wanted = {"tool": READ, "arguments": CONTACT, "resource": answer.resource, "presenter": "support"} | change
    with pytest.raises(TokenRejected):
        verifier(sidecar).verify(
            answer.token.value,
            presenter=presenter(made, str(wanted.pop("presenter"))),
            **wanted,
        )
