"""What a permit owes: an outcome in time, once; and what the tool server says beside it."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authz_sidecar.token.keys import SigningKey
from authz_sidecar.v1 import authorization_pb2, ledger_pb2, task_pb2
from authz_sidecar.verifier import JwkSet, VerificationKey, arguments_sha256, base64url
from tests.support.sidecar import CONTACT, Caller, Sidecar, World, error_of, running, world

SUCCESS = authorization_pb2.EXECUTION_STATUS_SUCCESS
FAILURE = authorization_pb2.EXECUTION_STATUS_FAILURE
NOT_ATTEMPTED = authorization_pb2.EXECUTION_STATUS_NOT_ATTEMPTED
SHORT = ("token.ttl=2s", "outcomes.grace=1s")
CRM = "spiffe://example.org/tools/crm"
DIGEST = arguments_sha256(CONTACT).hex()
RESULT = "ab" * 32


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world() as value:
        yield value


@pytest.fixture(scope="module")
def configured(made: World) -> SigningKey:
    """A key for receipts that is not the SVID's."""
    key = SigningKey.generate()
    made.directory.joinpath("crm-keys.json").write_text(json.dumps({"keys": [key.public.to_jwk()]}))
    return key


@pytest.fixture(scope="module")
def sidecar(made: World, configured: SigningKey) -> Iterator[Sidecar]:
    with running(made, f"outcomes.receipt_keys={{'{CRM}': crm-keys.json}}") as value:
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


def report(decision_id: str, **changes: object) -> authorization_pb2.ReportOutcomeRequest:
    fields: dict[str, object] = {"decision_id": decision_id, "status": SUCCESS}
    return authorization_pb2.ReportOutcomeRequest(**{**fields, **changes})


def types(caller: Caller, task_id: str) -> list[str]:
    told = caller.ledger.GetTimeline(ledger_pb2.GetTimelineRequest(task_id=task_id), timeout=20)
    return [one.type for one in told.records]


def until_recorded(operator: Caller, task_id: str, record_type: str, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while record_type not in types(operator, task_id):
        assert time.monotonic() < deadline, types(operator, task_id)
        time.sleep(0.05)


def test_an_outcome_that_stays_away_is_missing_also_across_a_restart_and_may_still_come_late():
    with world() as made:
        with running(made, *SHORT) as sidecar:
            with Caller(made) as support:
                task_id = support.start_task()
                silent, told, skipped = (support.authorize(task_id) for _ in range(3))
                support.authorization.ReportOutcome(report(told.decision_id), timeout=20)
                support.authorization.ReportOutcome(report(skipped.decision_id, status=NOT_ATTEMPTED), timeout=20)
            sidecar.kill()
        time.sleep(3.2)
        with running(made, *SHORT), Caller(made) as support, Caller(made, "operator") as operator:
            until_recorded(operator, task_id, "outcome_missing")
            time.sleep(0.6)
            timeline = operator.ledger.GetTimeline(ledger_pb2.GetTimelineRequest(task_id=task_id), timeout=20)
            (missing,) = [json.loads(one.entry_json) for one in timeline.records if one.type == "outcome_missing"]
            assert missing["decision"]["id"] == silent.decision_id
            assert "actor" not in missing
            late = support.authorization.ReportOutcome(report(silent.decision_id), timeout=20)
            assert list(late.contradictions) == ["reported_late"]
            again = support.authorization.ReportOutcome(report(silent.decision_id), timeout=20)
            assert (again.recalled, again.position) == (True, late.position)
            time.sleep(1)
            assert types(operator, task_id).count("outcome_missing") == 1
        found = made.run("audit", "verify", "--vkey", str(made.vkey), "--ledger", str(made.ledger))
        assert found.returncode == 6, found


def test_a_report_in_time_leaves_nothing_missing():
    with world() as made, running(made, *SHORT), Caller(made) as support, Caller(made, "operator") as operator:
        task_id, other = support.start_task(), support.start_task()
        answer = support.authorize(task_id)
        support.authorize(other)
        support.authorization.ReportOutcome(report(answer.decision_id, status=FAILURE), timeout=20)
        support.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=other), timeout=20)
        until_recorded(operator, other, "outcome_missing")
        assert types(operator, task_id) == ["task_started", "decision", "outcome"]


def test_two_identical_reports_at_once_give_one_record(support, operator):
    task_id = support.start_task()
    answer = support.authorize(task_id)
    answers: list[authorization_pb2.ReportOutcomeResponse] = []

    def tell() -> None:
        answers.append(support.authorization.ReportOutcome(report(answer.decision_id), timeout=20))

    threads = [threading.Thread(target=tell) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.position.index for one in answers}) == 1
    assert sorted(one.recalled for one in answers) == [False] + [True] * 7
    assert types(operator, task_id).count("outcome") == 1


def svid_key(made: World, name: str = "crm") -> SigningKey:
    private = load_pem_private_key((made.svid(name) / "svid_key.pem").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return SigningKey(public=VerificationKey.of(private.public_key()), not_after=None, _private=private)


def receipt(key: SigningKey, jti: str, *, header: dict[str, object] | None = None, **changes: object) -> str:
    claims: dict[str, object] = {
        "iss": CRM,
        "jti": jti,
        "arguments_sha256": DIGEST,
        "result_sha256": RESULT,
        "status": "success",
        "executed_at": int(time.time()),
        **changes,
    }
    members = {"typ": "tool-receipt+jwt", "alg": "ES256", "kid": key.kid} if header is None else header
    text = ".".join(base64url.encode(json.dumps(part).encode()) for part in (members, claims))
    return f"{text}.{base64url.encode(key.sign(text.encode()))}"


def give(crm: Caller, jws: str) -> authorization_pb2.ReportReceiptResponse:
    return crm.authorization.ReportReceipt(authorization_pb2.ReportReceiptRequest(jws=jws), timeout=20)


def test_a_receipt_that_agrees_stands_beside_the_outcome(support, operator, crm, made):
    task_id = support.start_task()
    answer = support.authorize(task_id)
    jws = receipt(svid_key(made), answer.token.jti)
    first = give(crm, jws)
    assert not first.contradictions
    alone = operator.ledger.GetTimeline(ledger_pb2.GetTimelineRequest(task_id=task_id), timeout=20)
    assert [one.HasField("outcome_index") for one in alone.receipts] == [False]
    support.authorization.ReportOutcome(
        report(answer.decision_id, result_sha256=bytes.fromhex(RESULT), arguments_sha256=bytes.fromhex(DIGEST)),
        timeout=20,
    )
    again = give(crm, receipt(svid_key(made), answer.token.jti, executed_at=json.loads(claims_of(jws))["executed_at"]))
    assert (again.recalled, again.position) == (True, first.position)
    told = operator.ledger.GetTimeline(ledger_pb2.GetTimelineRequest(task_id=task_id), timeout=20)
    assert [one.type for one in told.records] == ["task_started", "decision", "receipt", "outcome"]
    (compared,) = told.receipts
    assert (compared.decision_id, compared.receipt_index) == (answer.decision_id, first.position.index)
    assert (compared.HasField("outcome_index"), list(compared.differences)) == (True, [])
    stored = operator.ledger.GetRecord(ledger_pb2.GetRecordRequest(index=first.position.index), timeout=20).record
    body, payload = json.loads(stored.entry_json), json.loads(stored.payload_json)
    assert body["actor"]["spiffe_id"] == CRM
    assert body["signature"] == {"kid": svid_key(made).kid, "source": "svid"}
    assert payload["jws"] == jws
    assert JwkSet.parse(json.dumps({"keys": [payload["jwk"]]}).encode()).find(svid_key(made).kid) is not None
    shown = made.run("audit", "timeline", "--task", task_id, "--ledger", str(made.ledger))
    assert "agrees with outcome" in shown.stdout


def claims_of(jws: str) -> bytes:
    return base64url.decode(jws.split(".")[1])


def test_a_receipt_that_disagrees_shows_in_what(support, operator, crm, configured, made):
    task_id = support.start_task()
    answer = support.authorize(task_id)
    support.authorization.ReportOutcome(
        report(answer.decision_id, status=FAILURE, result_sha256=bytes.fromhex("cd" * 32)), timeout=20
    )
    given = give(crm, receipt(configured, answer.token.jti))
    assert not given.contradictions
    told = operator.ledger.GetTimeline(ledger_pb2.GetTimelineRequest(task_id=task_id), timeout=20)
    assert [list(one.differences) for one in told.receipts] == [["status", "result_sha256"]]
    stored = operator.ledger.GetRecord(ledger_pb2.GetRecordRequest(index=given.position.index), timeout=20).record
    assert json.loads(stored.entry_json)["signature"]["source"] == "configured"
    shown = made.run("audit", "timeline", "--task", task_id, "--ledger", str(made.ledger))
    assert "contradicts outcome" in shown.stdout


def test_a_receipt_is_held_against_the_decision_and_against_an_earlier_one(support, crm, made):
    answer = support.authorize(support.start_task())
    key = svid_key(made)
    wrong = give(crm, receipt(key, answer.token.jti, arguments_sha256="00" * 32, executed_at=1))
    assert list(wrong.contradictions) == ["arguments_differ", "executed_outside_token_life"]
    other = give(crm, receipt(key, answer.token.jti))
    assert list(other.contradictions) == ["receipt_before_differs"]


def test_what_is_no_receipt_of_the_caller_leaves_no_record(support, operator, crm, made):
    task_id = support.start_task()
    jti = support.authorize(task_id).token.jti
    key, stranger = svid_key(made), SigningKey.generate()
    good = receipt(key, jti)
    bad = [
        receipt(stranger, jti),
        receipt(stranger, jti, header={"typ": "tool-receipt+jwt", "alg": "ES256", "kid": key.kid}),
        receipt(key, jti, header={"typ": "at+jwt", "alg": "ES256", "kid": key.kid}),
        receipt(key, jti, header={"typ": "tool-receipt+jwt", "alg": "none", "kid": key.kid}),
        receipt(key, jti, iss="spiffe://example.org/tools/mail"),
        receipt(key, jti, status="maybe"),
        receipt(key, jti, result_sha256="xyz"),
        receipt(key, jti, executed_at=-1),
        receipt(key, jti, executed_at=True),
        receipt(key, jti, more="members"),
        good[:-4] + "AAAA",
        "",
        "a.b.c",
    ]
    for jws in bad:
        with pytest.raises(grpc.RpcError) as caught:
            give(crm, jws)
        error = error_of(caught.value)
        assert (error.reason, [one.field for one in error.field_violations]) == ("INVALID_REQUEST", ["jws"]), jws
    with pytest.raises(grpc.RpcError) as caught:
        give(crm, receipt(key, secrets.token_hex(16)))
    assert error_of(caught.value).reason == "RECORD_NOT_FOUND"
    with pytest.raises(grpc.RpcError) as caught:
        support.authorization.ReportReceipt(authorization_pb2.ReportReceiptRequest(jws=good), timeout=20)
    assert error_of(caught.value).reason == "ROLE_REQUIRED"
    assert types(operator, task_id) == ["task_started", "decision"]
