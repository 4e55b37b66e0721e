"""`token revoke`, `token watch`, `agent suspend` and `agent resume` against a real sidecar."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from authz_sidecar.v1 import common_pb2
from tests.support.sidecar import PROGRAM, Caller, World, running, world

SUPPORT = "spiffe://example.org/agent/support"
AS = ("--config", "config.yaml", "--as", "operator")


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world() as value, running(value):
        yield value


def test_a_token_is_revoked_and_the_timeline_tells(made: World) -> None:
    with Caller(made) as support:
        task_id = support.start_task()
        token = support.authorize(task_id).token
    told = made.run("token", "revoke", "--jti", token.jti, "--reason", "leaked", *AS, "-o", "json")
    assert told.returncode == 0, told
    assert json.loads(told.stdout).keys() == {"ledger", "revocation_epoch"}
    assert made.run("token", "introspect", token.value, *AS).returncode == 1
    shown = made.run("audit", "timeline", "--task", task_id, *AS[:2])
    assert f"token {token.jti}" in " ".join(shown.stdout.split())


def test_a_token_can_be_kept_out_of_the_process_list(made: World) -> None:
    with Caller(made) as support:
        token = support.authorize(support.start_task()).token.value
    done = subprocess.run(
        [*PROGRAM, "token", "revoke", "-", *AS], cwd=made.directory, input=token, text=True, capture_output=True, timeout=60, check=False
    )  # fmt: skip
    assert (done.returncode, done.stdout.startswith("revoked; record ")) == (0, True), done


@pytest.mark.parametrize("targets", [(), ("--jti", "a", "--task", "b")])
def test_exactly_one_thing_is_revoked(made: World, targets: tuple[str, ...]) -> None:
    done = made.run("token", "revoke", *targets, *AS)
    assert done.returncode == 2
    assert "say what to revoke" in done.stderr


def test_the_kill_switch_stops_and_lets_go(made: World) -> None:
    with Caller(made) as support:
        task_id = support.start_task()
        for who, everyone in ((SUPPORT, ()), ("", ("--all",))):
            named = (who,) if who else ()
            done = made.run("agent", "suspend", *named, *everyone, "--reason", "drill", *AS, "-o", "json")
            assert json.loads(done.stdout)["agent"] == (who or "*"), done
            assert support.authorize(task_id).outcome == common_pb2.OUTCOME_DENY
            done = made.run("agent", "resume", *named, *everyone, "--reason", "over", *AS)
            assert (done.returncode, "resumed" in done.stdout) == (0, True), done
            assert support.authorize(task_id).outcome == common_pb2.OUTCOME_PERMIT
    assert made.run("agent", "suspend", "--reason", "x", *AS).returncode == 2
    assert made.run("agent", "suspend", SUPPORT, "--all", "--reason", "x", *AS).returncode == 2
    refused = made.run("agent", "suspend", SUPPORT, "--reason", "x", "--config", "config.yaml", "--as", "support")
    assert (refused.returncode, "ROLE_REQUIRED" in refused.stderr) == (1, True)


def test_watching_shows_what_is_in_force_and_what_happens(made: World) -> None:
    with Caller(made, "operator"):
        made.run("token", "revoke", "--jti", "f" * 32, *AS)
    process = subprocess.Popen(
        [*PROGRAM, "token", "watch", *AS, "-o", "json"], cwd=made.directory, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        targets = []
        while "f" * 32 not in targets:
            targets.append(json.loads(process.stdout.readline())["target"])
        made.run("token", "revoke", "--jti", "e" * 32, *AS)
        told = json.loads(process.stdout.readline())
        assert (told["kind"], told["target"]) == ("jti", "e" * 32)
        assert told["expires_at"] is not None
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
    gone = made.run("token", "watch", "--after", "999999", *AS)
    assert (gone.returncode, "BEHIND_CALLER" in gone.stderr) == (1, True)
