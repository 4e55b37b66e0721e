"""The demonstration, run as its reader runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "examples.demo")

# What the demonstration promises to show, as sentences that it prints with a tick.
PROMISES = (
    "a permitted read runs",
    "a tool outside the task is denied, although the agent's manifest lists it",
    "a contact above the agent's data boundary is denied",
    "another tool: refused",
    "another contact: refused",
    "stolen by the analyst agent: refused",
    "the same token after its end: refused",
    "strict CRM, same token, task completed: refused",
    "the agent's tool does not run without the sidecar",
    "every decision of the task is there, in order: three permits and three denials",
    "the ledger is whole, and extends the checkpoint that the auditor kept",
    "verification fails and names the entry",
)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the demonstration puts its files: short, because the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="az-", dir="/tmp") as name:
        yield Path(name)


def environment(temporary: Path) -> dict[str, str]:
    """A machine behind a proxy that does not answer, with settings for a sidecar of its own."""
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"), "http://127.0.0.1:9")
    settings = {"AUTHZ_SIDECAR_PROFILE": "production", "AUTHZ_SIDECAR_CONFIG": "/nowhere/config.yaml"}
    return {**os.environ, **proxies, **settings, "TMPDIR": str(temporary)}


def test_every_claim_of_the_demonstration_holds_and_nothing_is_left_behind(temporary: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        COMMAND, cwd=ROOT, env=environment(temporary), capture_output=True, text=True, check=False, timeout=120
    )
    took = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    shown = [line.removeprefix("✓ ") for line in lines if line.startswith("✓")]
    assert set(PROMISES) <= set(shown)
    assert f"{len(shown)} of {len(shown)} claims held" in done.stdout
    assert not any(line.startswith("✗") for line in lines)
    assert took < 120
    assert [*temporary.iterdir()] == []


def test_demonstration_that_is_told_to_end_ends_its_processes(temporary: Path) -> None:
    process = subprocess.Popen(
        COMMAND, cwd=ROOT, env=environment(temporary), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    # The first permitted read was shown: everything runs.
    while "a permitted read runs" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [*temporary.iterdir()] == []
    assert not processes_that_mention(temporary)


def processes_that_mention(directory: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in command:
            found.append(command)
    return found
