"""The command line against a real sidecar process."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.sidecar import READ, Caller, Sidecar, World, running, start, world

START = ("task", "start", "--as", "support", "--purpose", "answer a ticket", "--ceiling", "internal")


@pytest.fixture(scope="module")
def sidecar() -> Iterator[Sidecar]:
    with world() as made, running(made) as serving:
        yield serving


@pytest.fixture
def made(sidecar: Sidecar) -> World:
    return sidecar.world


def machine(made: World, *arguments: str, code: int = 0) -> dict[str, object]:
    ended = made.run(*arguments, "--config", str(made.config), "-o", "json")
    assert ended.returncode == code, ended.stderr
    found: dict[str, object] = json.loads(ended.stdout)
    return found


def test_health_is_asked_on_the_http_port(sidecar: Sidecar) -> None:
    assert sidecar.world.run("healthcheck", "--url", sidecar.http).returncode == 0


def test_a_task_is_started_shown_and_completed(made: World) -> None:
    started = machine(made, *START, "--tool", READ, "--ttl", "5m", "--initiator", "workflow:nightly")
    task = started["task"]
    assert isinstance(task, dict)
    assert started["started"] is True
    assert task["initiator"] == {"kind": "workflow", "id": "nightly", "verified": False}
    shown = machine(made, "task", "show", str(task["id"]), "--as", "support")
    assert shown == task
    completed = machine(made, "task", "complete", str(task["id"]), "--as", "support", "--summary", "done")
    assert completed["state"] == "completed"
    again = made.run("task", "complete", str(task["id"]), "--as", "support", "--config", str(made.config))
    assert again.returncode == 1
    assert "TASK_NOT_ACTIVE" in again.stderr


def test_a_task_that_policy_refuses_is_a_failed_check_with_its_reason(made: World) -> None:
    ended = made.run(*START, "--tool", "deploy/scale_service", "--config", str(made.config))
    assert ended.returncode == 1
    assert ended.stdout.startswith("refused: forbidden_by_policy\n")
    assert "task-tools-outside-manifest" in ended.stdout
    assert machine(made, *START, "--tool", "deploy/scale_service", code=1)["started"] is False


def test_a_request_that_the_sidecar_refuses_is_one_line(made: World) -> None:
    for arguments, reason in (
        (("task", "show", "unknown-task", "--as", "support"), "TASK_NOT_FOUND"),
        ((*START[:-1], "top-secret", "--tool", READ), "INVALID_REQUEST"),
        (("policy", "status", "--as", "support"), "ROLE_REQUIRED"),
    ):
        ended = made.run(*arguments, "--config", str(made.config))
        assert ended.returncode == 1
        assert ended.stderr.count("\n") == 1
        assert f"({reason})" in ended.stderr


def test_a_token_is_introspected_and_verified(made: World) -> None:
    with Caller(made) as agent:
        task_id = agent.start_task()
        token = agent.authorize(task_id).token
    (made.directory / "arguments.json").write_text('{"contact_id": "c-1001"}')
    (made.directory / "jwks.json").write_text(json.dumps(machine(made, "token", "jwks", "--as", "crm")))
    verify = [
        *("token", "verify", token.value, "--jwks", "jwks.json", "--issuer", "https://authz.example.org"),
        *("--audience", "https://crm.example.org", "--tool", READ, "--arguments", "arguments.json"),
        *("--presenter", str(made.svid("support") / "svid.pem")),
    ]
    assert made.run(*verify).returncode == 0
    assert made.run(*verify, "--tool", "crm/delete_contact").returncode == 1
    active = machine(made, "token", "introspect", token.value, "--as", "crm")
    assert active["active"] is True
    assert made.run("task", "complete", task_id, "--as", "support", "--config", str(made.config)).returncode == 0
    assert machine(made, "token", "introspect", token.value, "--as", "crm", code=1)["active"] is False


def test_policy_status_names_the_bundle_that_policy_check_computes(made: World) -> None:
    status = machine(made, "policy", "status", "--as", "operator")
    checked = machine(made, "policy", "check")
    assert status["digest"] == checked["digest"]
    assert [status[name] for name in ("policies", "tools", "agents")] == [
        checked[name] for name in ("policies", "tools", "agents")
    ]


def test_doctor_knows_a_running_sidecar(sidecar: Sidecar) -> None:
    made = sidecar.world
    address = f"http.address={sidecar.http.removeprefix('http://')}"
    ended = made.run("doctor", "--config", str(made.config), "--set", address, "-o", "json")
    assert ended.returncode == 0, ended.stdout
    assert sum("a sidecar answers" in finding["detail"] for finding in json.loads(ended.stdout)) == 2


def test_a_ledger_is_verified_while_the_sidecar_runs_and_after_it_stopped() -> None:
    with world() as made:
        vkey = ("--vkey", str(made.vkey), "--ledger", str(made.ledger))
        serving = start(made)
        try:
            with Caller(made) as agent:
                agent.authorize(agent.start_task())
            assert made.run("audit", "verify", *vkey).returncode == 6
        finally:
            assert serving.stop() == 0
        note = made.directory / "checkpoint"
        note.write_text(made.run("audit", "checkpoint", "--ledger", str(made.ledger)).stdout)
        assert made.run("audit", "verify", *vkey, "--checkpoint", str(note)).returncode == 0


def test_a_sidecar_that_cannot_start_says_why_and_leaves_with_code_3() -> None:
    with world() as made:
        (made.directory / "policies/rules/crm.cedar").write_text("permit(\n")
        for arguments, said in (
            ((), "crm.cedar"),
            (("--set", "policy.directory=/nowhere"), "/nowhere"),
            (("--set", "nonsense=1"), "nonsense"),
        ):
            ended = made.run("serve", "--config", str(made.config), "--set", "http.address=127.0.0.1:0", *arguments)
            assert ended.returncode == 3
            assert said in ended.stderr
            assert "Traceback" not in ended.stderr
