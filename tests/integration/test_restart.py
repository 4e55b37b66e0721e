"""What a restart must not forget: tasks, what happened in them, request ids, and that a token's task has ended."""

from __future__ import annotations

import grpc
import pytest

from authz_sidecar.v1 import authorization_pb2, common_pb2, task_pb2, token_pb2
from tests.support.sidecar import READ, Caller, authorize, error_of, running, world

CHANNEL_SECONDS = 20


def test_tasks_sessions_and_request_ids_survive_a_restart():
    with world() as made:
        with running(made) as sidecar:
            with Caller(made, "analyst") as analyst, Caller(made, "support") as support:
                task_id = analyst.start_task(tools=[READ, "mail/send_external"], resources=["*"], ceiling="restricted")
                read = authorize(task_id, arguments={"contact_id": "vip-7"}, request_id="the-read")
                first = analyst.authorization.Authorize(read, timeout=CHANNEL_SECONDS)
                assert first.outcome == common_pb2.OUTCOME_PERMIT
                ended = support.start_task()
                last = support.authorize(ended)
                support.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=ended), timeout=CHANNEL_SECONDS)
                # Another agent names the task and uses a request id that its owner will use later.
                foreign = support.authorize(task_id, request_id="owners-next")
                assert foreign.reason_code == "task_not_found"
            assert sidecar.stop() == 0

        with running(made), Caller(made, "analyst") as analyst, Caller(made, "crm") as crm:
            again = analyst.authorization.Authorize(read, timeout=CHANNEL_SECONDS)
            assert (again.recalled, again.decision_id, again.token.jti) == (True, first.decision_id, first.token.jti)

            read.arguments_json = b'{"contact_id":"c-1001"}'
            with pytest.raises(grpc.RpcError) as caught:
                analyst.authorization.Authorize(read, timeout=CHANNEL_SECONDS)
            assert error_of(caught.value).reason == "REQUEST_ID_REUSED"

            assert analyst.authorize(task_id, request_id="owners-next").outcome == common_pb2.OUTCOME_PERMIT

            post = authorize(
                task_id, tool="mail/send_external", arguments_sha256=b"d" * 32, resource="mail:outside/customer.example"
            )
            denied = analyst.authorization.Authorize(post, timeout=CHANNEL_SECONDS)
            assert "no-posting-after-restricted-read" in [ref.id for ref in denied.determining_policies]

            for token, active in ((first.token.value, True), (last.token.value, False)):
                answer = crm.tokens.IntrospectToken(
                    token_pb2.IntrospectTokenRequest(token=token), timeout=CHANNEL_SECONDS
                )
                assert answer.active is active


def test_a_silent_permit_can_still_be_reported_after_a_restart():
    with world() as made:
        with running(made) as sidecar:
            with Caller(made) as support:
                decision_id = support.authorize(support.start_task()).decision_id
            sidecar.kill()
        with running(made), Caller(made) as support:
            report = authorization_pb2.ReportOutcomeRequest(
                decision_id=decision_id, status=authorization_pb2.EXECUTION_STATUS_TIMEOUT
            )
            answer = support.authorization.ReportOutcome(report, timeout=CHANNEL_SECONDS)
            assert not answer.contradictions
