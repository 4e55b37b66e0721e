"""The client as a guest in the agent's process: what it imports, its thread, forks, interrupts and the end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from authz_sidecar.client import Permitted, SidecarUnavailable
from authz_sidecar.v1 import authorization_pb2
from tests.support.client import (
    FakeSidecar,
    Gate,
    eventually,
    eventually_async,
    fake_sidecar,
    permit,
    start_sync,
    sync_client,
)

ROOT = Path(__file__).resolve().parents[2]
NOT_ATTEMPTED = authorization_pb2.EXECUTION_STATUS_NOT_ATTEMPTED


@pytest.fixture
def sidecar() -> Iterator[FakeSidecar]:
    with fake_sidecar() as running:
        yield running


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=30,
        stdin=subprocess.DEVNULL,
        # gRPC's own handling of forks can crash the child while asyncio channels are open.
        env={**os.environ, "GRPC_VERBOSITY": "NONE", "GRPC_ENABLE_FORK_SUPPORT": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_importing_the_client_imports_only_grpc_protobuf_and_the_standard_library() -> None:
    program = """
import sys
import grpc.aio, google.protobuf.timestamp_pb2, google.protobuf.duration_pb2
theirs = set(sys.modules)
import authz_sidecar.client
roots = {name.partition(".")[0] for name in set(sys.modules) - theirs}
print(*sorted(roots - set(sys.stdlib_module_names)))
print(*sorted(name for name in sys.modules if name.startswith("authz_sidecar.")))
"""
    roots, modules = run(program).splitlines()

    assert set(roots.split()) <= {"authz_sidecar", "google", "grpc"}
    ours = {".".join(name.split(".")[:2]) for name in modules.split()}
    assert ours == {"authz_sidecar.client", "authz_sidecar.v1", "authz_sidecar.clock"}


CONNECT = """
import os, sys
from datetime import timedelta
from authz_sidecar.client import AuthzError, Client, Initiator
client = Client(
    sys.argv[1], jwt_svid=lambda: "e30.e30.c2ln", proof_key_thumbprint="A" * 43, timeout=timedelta(seconds=5)
)
task = client.start_task(
    "p", initiator=Initiator("human", "alice"), tools=["crm/read_contact"], resources=["*"], ceiling="internal"
)
@task.guard("crm", "read_contact")
def read(number):
    print("ran", number, flush=True)
"""


def test_a_program_that_just_ends_reports_its_outcomes(sidecar: FakeSidecar) -> None:
    assert run(CONNECT + "read(1)\n", sidecar.target) == "ran 1\n"

    assert len(sidecar.outcomes) == 1


def test_after_a_fork_the_child_is_refused_and_the_parent_goes_on(sidecar: FakeSidecar) -> None:
    program = """
read(1)
child = os.fork()
if child == 0:
    try:
        read(2)
    except AuthzError as error:
        print(error, flush=True)
    client.close()
    os._exit(0)
os.waitpid(child, 0)
read(3)
"""
    lines = run(CONNECT + program, sidecar.target).splitlines()

    assert lines == ["ran 1", "FORKED: this client was made before a fork; make one in each process", "ran 3"]


def test_closing_ends_the_thread_and_is_repeatable(sidecar: FakeSidecar) -> None:
    before = threading.active_count()
    client = sync_client(sidecar)
    task = start_sync(client)
    client.close()
    client.close()

    assert threading.active_count() == before
    with pytest.raises(SidecarUnavailable, match="CLIENT_CLOSED"):
        task.authorize("crm", "read_contact", {})


def test_closing_releases_whoever_waits(sidecar: FakeSidecar) -> None:
    gate = Gate(permit())
    sidecar.on("crm/read_contact", gate)
    client = sync_client(sidecar)
    task = start_sync(client)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            task.authorize("crm", "read_contact", {})
        except BaseException as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: gate.waiting == 1)
    client.close()
    waiting.join(5)

    assert [type(error) for error in caught] == [SidecarUnavailable]


def test_threads_share_one_client_and_one_stream(sidecar: FakeSidecar) -> None:
    with sync_client(sidecar) as client:
        task = start_sync(client)
        numbers: list[int] = []

        @task.guard("crm", "read_contact")
        def read(number: int) -> None:
            numbers.append(number)

        threads = [threading.Thread(target=read, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(numbers) == list(range(20))
    assert sidecar.streams == 1
    assert len(sidecar.outcomes) == 20


def test_an_interrupted_caller_leaves_no_permit_unaccounted(sidecar: FakeSidecar) -> None:
    gate = Gate(permit())
    sidecar.on("crm/read_contact", gate)
    with sync_client(sidecar) as client:
        task = start_sync(client)

        def interrupt() -> None:
            eventually(lambda: gate.waiting == 1)
            os.kill(os.getpid(), signal.SIGINT)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt), task.guard("crm", "read_contact", {}):
            pytest.fail("the tool ran")
        interrupting.join()
        gate.open()
        eventually(lambda: len(sidecar.outcomes) == 1)

    assert sidecar.outcomes[0].status == NOT_ATTEMPTED


async def test_a_cancelled_async_function_of_a_sync_client_leaves_no_permit_unaccounted(sidecar: FakeSidecar) -> None:
    gate = Gate(permit())
    sidecar.on("crm/read_contact", gate)
    ran: list[bool] = []
    client = sync_client(sidecar)
    task = await asyncio.to_thread(start_sync, client)

    @task.guard("crm", "read_contact")
    async def read() -> None:
        ran.append(True)

    calling = asyncio.ensure_future(read())
    await eventually_async(lambda: gate.waiting == 1)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    gate.open()
    await eventually_async(lambda: len(sidecar.outcomes) == 1)
    decision = await asyncio.to_thread(task.authorize, "crm", "read_contact", {"n": 2})
    await asyncio.to_thread(client.close)

    assert isinstance(decision, Permitted)
    assert ran == []
    assert sidecar.outcomes[0].status == NOT_ATTEMPTED
