"""A task's life over the wire: paused, resumed, handed on, stopped, run out; and the records left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import grpc
import pytest

from authz_sidecar.v1 import authorization_pb2, common_pb2, ledger_pb2, task_pb2, token_pb2
from tests.support.sidecar import Caller, Sidecar, World, delegate, error_of, running, start_task, world

SECONDS = 20
PERMIT, DENY = common_pb2.OUTCOME_PERMIT, common_pb2.OUTCOME_DENY


@pytest.fixture(scope="module")
def place() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture(scope="module")
def sidecar(place: World) -> Iterator[Sidecar]:
    with running(place) as serving:
        yield serving


@pytest.fixture
def support(place: World, sidecar: Sidecar) -> Iterator[Caller]:
    with Caller(place) as caller:
        yield caller


@pytest.fixture
def analyst(place: World, sidecar: Sidecar) -> Iterator[Caller]:
    with Caller(place, "analyst") as caller:
        yield caller


@pytest.fixture
def operator(place: World, sidecar: Sidecar) -> Iterator[Caller]:
    with Caller(place, "operator") as caller:
        yield caller


@pytest.fixture
def crm(place: World, sidecar: Sidecar) -> Iterator[Caller]:
    with Caller(place, "crm") as caller:
        yield caller


def active(crm: Caller, answer: authorization_pb2.AuthorizeResponse) -> bool:
    request = token_pb2.IntrospectTokenRequest(token=answer.token.value)
    return crm.tokens.IntrospectToken(request, timeout=SECONDS).active


def suspend(caller: Caller, task_id: str) -> task_pb2.SuspendTaskResponse:
    return caller.tasks.SuspendTask(task_pb2.SuspendTaskRequest(task_id=task_id, reason="a pause"), timeout=SECONDS)


def resume(caller: Caller, task_id: str) -> task_pb2.ResumeTaskResponse:
    return caller.tasks.ResumeTask(task_pb2.ResumeTaskRequest(task_id=task_id), timeout=SECONDS)


def cancel(caller: Caller, task_id: str) -> task_pb2.CancelTaskResponse:
    return caller.tasks.CancelTask(task_pb2.CancelTaskRequest(task_id=task_id), timeout=SECONDS)


def state(caller: Caller, task_id: str) -> common_pb2.TaskState.ValueType:
    return caller.tasks.GetTask(task_pb2.GetTaskRequest(task_id=task_id), timeout=SECONDS).task.state


def records(operator: Caller, task_id: str) -> list[dict[str, object]]:
    asked = ledger_pb2.QueryRecordsRequest(task_id=task_id)
    return [json.loads(r.record.entry_json) for r in operator.ledger.QueryRecords(asked, timeout=SECONDS)]


def refused(call: object, *arguments: object) -> common_pb2.Error:
    assert callable(call)
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return error_of(caught.value)


def test_a_paused_job_goes_on_in_a_new_epoch_and_its_old_tokens_stay_dead(support, operator, crm):
    task_id = support.start_task()
    before = support.authorize(task_id)
    assert active(crm, before)
    paused = suspend(support, task_id)
    assert paused.task.state == common_pb2.TASK_STATE_SUSPENDED
    assert paused.revocation_epoch > before.revocation_epoch
    assert not active(crm, before)
    assert support.authorize(task_id).outcome == DENY
    resumed = resume(support, task_id)
    assert (resumed.task.state, resumed.task.epoch) == (common_pb2.TASK_STATE_ACTIVE, 2)
    assert not active(crm, before)
    after = support.authorize(task_id)
    assert after.outcome == PERMIT
    assert active(crm, after)
    kinds = [record["type"] for record in records(operator, task_id)]
    assert kinds == ["task_started", "decision", "task_suspended", "decision", "task_resumed", "decision"]


def test_what_an_operator_suspended_only_an_operator_resumes(support, operator):
    task_id = support.start_task()
    suspend(support, task_id)
    # Suspending it first keeps nobody from doing so.
    suspend(operator, task_id)
    error = refused(resume, support, task_id)
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED.value[0], "TASK_CHANGE_REFUSED")
    assert error.metadata["policies"] == "suspended-by-operator"
    last = records(operator, task_id)[-1]
    assert (last["type"], last["action"], last["outcome"]) == ("task_refused", "resume_task", "deny")
    assert resume(operator, task_id).task.state == common_pb2.TASK_STATE_ACTIVE


def test_a_task_that_ended_is_not_revived_and_the_attempt_leaves_no_record(support, operator):
    task_id = support.start_task()
    support.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=task_id), timeout=SECONDS)
    before = records(operator, task_id)
    for caller in (support, operator):
        for change in (resume, suspend, cancel):
            assert refused(change, caller, task_id).reason == "TASK_NOT_ACTIVE"
    assert records(operator, task_id) == before


def test_to_a_stranger_a_task_does_not_exist(support, analyst):
    task_id = support.start_task()
    for change in (suspend, resume, cancel, state):
        assert refused(change, analyst, task_id).reason == "TASK_NOT_FOUND"
    assert refused(lambda: analyst.delegate(task_id, agent="ops")).reason == "TASK_NOT_FOUND"


def test_a_sub_agent_works_within_its_share_and_its_records_and_tokens_name_the_chain(support, analyst, operator, crm):
    parent = support.start_task()
    child = support.delegate(parent).task
    assert (child.parent_task_id, child.depth) == (parent, 1)
    answer = analyst.authorize(child.task_id)
    assert answer.outcome == PERMIT
    said = json.loads(
        crm.tokens.IntrospectToken(
            token_pb2.IntrospectTokenRequest(token=answer.token.value), timeout=SECONDS
        ).claims_json
    )
    assert said["act"] == {"sub": "spiffe://example.org/agent/analyst"}
    assert said["sub"] == "spiffe://example.org/agent/support"
    decision = records(operator, child.task_id)[-1]
    assert decision["delegation"] == [{"task_id": parent, "agent": said["sub"], "depth": 0}]
    assert analyst.authorize(parent).reason_code == support.authorize(child.task_id).reason_code == "task_not_found"


@pytest.mark.parametrize(
    ("asked", "policy"),
    [
        ({"tools": ["crm/read_contact", "crm/search_contacts"]}, "delegation-adds-tools"),
        ({"resources": ["*"]}, "delegation-adds-resources"),
        ({"ceiling": "restricted"}, "delegation-raises-ceiling"),
        ({"ttl": 7200}, "delegation-outlives-parent"),
        ({"agent": "support"}, "delegation-to-itself"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sub_agent_gets_no_more_than_there_is(support, operator, asked, policy):
    parent = support.start_task()
    answer = support.delegate(parent, **asked)
    assert (answer.outcome, answer.HasField("task")) == (DENY, False)
    assert policy in [ref.id for ref in answer.determining_policies]
    last = records(operator, parent)[-1]
    assert (last["type"], last["action"]) == ("task_refused", "delegate_task")


def test_a_circle_is_refused(support, analyst):
    child = support.delegate(support.start_task()).task.task_id
    answer = analyst.delegate(child, agent="support")
    assert [ref.id for ref in answer.determining_policies] == ["delegation-in-a-circle"]


@pytest.mark.parametrize("field", ["agent", "scope.tools", "purpose"])
def test_a_malformed_delegation_names_the_field(support, field):
    request = delegate("task-1")
    if field == "agent":
        request.agent = "spiffe://example.org"
    elif field == "purpose":
        request.purpose = ""
    else:
        del request.scope.tools[:]
    error = refused(lambda: support.tasks.DelegateTask(request, timeout=SECONDS))
    assert [violation.field for violation in error.field_violations] == [field]


def test_stopping_a_task_stops_its_sub_agents_in_the_same_moment(support, analyst, operator, crm):
    parent = support.start_task()
    child = support.delegate(parent).task.task_id
    answer = analyst.authorize(child)
    assert active(crm, answer)
    cancel(operator, parent)
    assert not active(crm, answer)
    assert state(analyst, child) == common_pb2.TASK_STATE_CANCELLED
    assert analyst.authorize(child).outcome == DENY
    below, above = records(operator, child)[-2], records(operator, parent)[-1]
    assert below["cascade"] == {"task_id": parent, "event": "cancel", "by": "operator"}
    assert (below["task"]["state"], above["task"]["state"]) == ("cancelled", "cancelled")


def test_who_delegated_a_task_stops_it_and_reads_it(support, analyst):
    child = support.delegate(support.start_task()).task.task_id
    suspend(support, child)
    assert refused(resume, analyst, child).metadata["policies"] == "suspended-by-delegator"
    resume(support, child)
    cancel(support, child)
    assert state(support, child) == common_pb2.TASK_STATE_CANCELLED


def test_an_expiry_is_recorded_without_anybody_asking(support, operator):
    parent = support.start_task(ttl=2)
    child = support.delegate(parent).task.task_id
    deadline = time.monotonic() + 15
    while records(operator, parent)[-1]["type"] != "task_expired":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ended = records(operator, parent)[-1]
    assert (ended["actor"], ended["task"]["state"]) == (None, "expired")
    assert records(operator, child)[-1]["type"] == "task_expired"


def test_tasks_are_listed_newest_first_in_pages_and_each_agent_sees_its_own(support, analyst, operator):
    mine = [support.start_task() for _ in range(3)]
    theirs = analyst.start_task(tools=["crm/read_contact"])
    suspend(support, mine[1])
    listed: list[str] = []
    token = ""
    while True:
        request = task_pb2.ListTasksRequest(page_size=2, page_token=token)
        page = support.tasks.ListTasks(request, timeout=SECONDS)
        listed += [task.task_id for task in page.tasks]
        token = page.next_page_token
        if not token:
            break
    assert listed[:3] == mine[::-1]
    assert theirs not in listed
    assert len(set(listed)) == len(listed)

    everything = operator.tasks.ListTasks(task_pb2.ListTasksRequest(page_size=4), timeout=SECONDS)
    assert [task.task_id for task in everything.tasks] == [theirs, *mine[::-1]]
    only = task_pb2.ListTasksRequest(
        agent="spiffe://example.org/agent/support", states=[common_pb2.TASK_STATE_SUSPENDED]
    )
    assert next(iter(operator.tasks.ListTasks(only, timeout=SECONDS).tasks)).task_id == mine[1]

    error = refused(lambda: analyst.tasks.ListTasks(only, timeout=SECONDS))
    assert error.reason == "ROLE_REQUIRED"
    for bad in ({"page_size": 501}, {"page_token": "07"}, {"page_token": "x"}, {"states": [0]}):
        error = refused(lambda bad=bad: support.tasks.ListTasks(task_pb2.ListTasksRequest(**bad), timeout=SECONDS))
        assert [violation.field for violation in error.field_violations] == list(bad)


def test_what_ran_out_while_nothing_ran_is_recorded_at_the_next_start():
    with world() as made:
        with running(made) as sidecar:
            with Caller(made) as support:
                parent = support.tasks.StartTask(start_task(ttl=3), timeout=SECONDS).task.task_id
                child = support.delegate(parent).task.task_id
            sidecar.kill()
        time.sleep(3)
        with running(made), Caller(made) as support, Caller(made, "operator") as operator:
            deadline = time.monotonic() + 15
            while records(operator, parent)[-1]["type"] != "task_expired":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert records(operator, child)[-1]["type"] == "task_expired"
            assert state(support, parent) == common_pb2.TASK_STATE_EXPIRED
