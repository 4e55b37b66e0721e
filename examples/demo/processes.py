"""Child processes of the demonstration: started, waited for, and ended by handle, never by name."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType


class DidNotStart(RuntimeError):
    """A child ended, or did not answer in time, before it was ready. The message holds the end of its log."""


class Child:
    """One child process with its output in a file."""

    def __init__(self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment)
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool], *, within: float) -> None:
        """Poll `ready`. Raises DidNotStart when the child ends first or `within` seconds pass."""
        deadline = time.monotonic() + within
        while not ready():
            if self._process.poll() is not None:
                raise DidNotStart(f"{self.name} ended with code {self._process.returncode}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise DidNotStart(f"{self.name} was not ready after {within:.0f} s:\n{self._tail()}")
            time.sleep(0.05)

    def stop(self) -> int:
        """Ask the child to end, make it end after ten seconds, and return its exit code. May be called again."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-20:]) or "(no output)"


class Children:
    """Every child that was started; leaving the context ends the ones that still run, newest first."""

    def __init__(self, logs: Path, *, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._environment = environment
        self._started: list[Child] = []

    def start(self, name: str, command: Sequence[str]) -> Child:
        child = Child(name, command, log=self._logs / f"{name}.log", environment=self._environment)
        self._started.append(child)
        return child

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._started):
            child.stop()


def free_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers_ok(url: str) -> bool:
    """True when a GET of a loopback HTTP URL answers 200."""
    # A proxy of the environment is for the internet and knows nothing about our own children.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=1) as response:
            return int(response.status) == 200
    except OSError:
        return False


def accepts_connections(port: int) -> bool:
    """True when something listens on a loopback TCP port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
