"""The whole decision over the wire against an empty handler, interleaved: decide, durable record and token, or nothing.

Absolute figures belong to the machine of the moment; the ratios of one run are what can be compared.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

from bench.load import MODES, Figures, Target, measure, requests
from tests.support.sidecar import Caller, Sidecar, World, running, world

CALLERS = (1, 32)
_TICKS = os.sysconf("SC_CLK_TCK")


def run(*, rounds: int, seconds: float) -> dict[str, object]:
    """Start both servers, measure them in turn, and return every figure."""
    with world() as made, running(made) as sidecar:
        ready = sidecar.ready_seconds
        with Caller(made) as caller:
            task_id = caller.start_task(ttl=3600)
        svid = made.svid("support")
        files = (svid / "svid.pem", svid / "svid_key.pem", svid / "bundle.pem")
        noop_socket = made.directory / "noop.sock"
        noop = _start_noop(made, noop_socket)
        try:
            full = Target("sidecar", made.socket, *files)
            empty = Target("empty handler", noop_socket, *files)
            pids = {full.name: sidecar.process.pid, empty.name: noop.pid}
            before = _steps(sidecar)
            figures, cpu = asyncio.run(
                _interleave(full, empty, task_id=task_id, pids=pids, rounds=rounds, seconds=seconds)
            )
            steps = _step_costs(before, _steps(sidecar))
            memory = _rss_mib(sidecar.process.pid)
        finally:
            noop.terminate()
            noop.wait(10)
    return {
        "ratios": _ratios(figures),
        "figures": {key: _summary(values) for key, values in figures.items()},
        "cpu_us_per_call": cpu,
        "step_us": steps,
        "rss_mib": memory,
        "ready_seconds": ready,
    }


def _start_noop(made: World, socket: Path) -> subprocess.Popen[bytes]:
    sidecar = made.svid("sidecar")
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.noop", str(socket), str(sidecar / "svid.pem"), str(sidecar / "svid_key.pem"),
         str(sidecar / "bundle.pem")],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    if process.stdout is None or process.stdout.readline() != b"ready\n":
        raise RuntimeError("the empty handler did not start")
    return process


async def _interleave(
    full: Target, empty: Target, *, task_id: str, pids: dict[str, int], rounds: int, seconds: float
) -> tuple[dict[str, list[Figures]], dict[str, float]]:
    figures: dict[str, list[Figures]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    for round_number in range(rounds + 1):
        for mode, connect in MODES.items():
            for callers in CALLERS:
                # Who goes first alternates, so that drift of the machine favours neither.
                pair = (full, empty) if round_number % 2 else (empty, full)
                for target in pair:
                    async with connect(target) as call:
                        make = requests(task_id, secrets.token_hex(6))
                        used = _cpu_seconds(pids[target.name])
                        measured = await measure(call, make, callers=callers, seconds=seconds)
                        used = _cpu_seconds(pids[target.name]) - used
                    if round_number == 0:
                        continue  # warm-up
                    key = f"{target.name}/{mode}/{callers}"
                    figures[key].append(measured)
                    cpu[key].append(used / measured.calls * 1e6)
    return figures, {key: statistics.median(values) for key, values in cpu.items()}


def _ratios(figures: dict[str, list[Figures]]) -> dict[str, dict[str, float]]:
    """Sidecar over empty handler, round by round, then the median. Throughput: higher is better; latency: lower."""
    result = {}
    for mode in MODES:
        for callers in CALLERS:
            pairs = list(
                zip(figures[f"sidecar/{mode}/{callers}"], figures[f"empty handler/{mode}/{callers}"], strict=True)
            )
            result[f"{mode}/{callers}"] = {
                "throughput_ratio": statistics.median(ours.throughput / base.throughput for ours, base in pairs),
                "p50_ratio": statistics.median(ours.p50 / base.p50 for ours, base in pairs),
                "p99_ratio": statistics.median(ours.p99 / base.p99 for ours, base in pairs),
            }
    return result


def _summary(values: list[Figures]) -> dict[str, float]:
    return {
        "throughput": statistics.median(one.throughput for one in values),
        "p50_ms": statistics.median(one.p50 for one in values),
        "p99_ms": statistics.median(one.p99 for one in values),
    }


def _steps(sidecar: Sidecar) -> dict[str, tuple[float, float]]:
    text = urllib.request.urlopen(f"{sidecar.http}/metrics", timeout=10).read().decode()
    found = re.findall(r'authz_sidecar_step_seconds_(sum|count)\{step="(\w+)"\} (\S+)', text)
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for kind, step, value in found:
        values[step][kind] = float(value)
    return {step: (value["sum"], value["count"]) for step, value in values.items()}


def _step_costs(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    costs = {}
    for step, (total, count) in after.items():
        earlier_total, earlier_count = before.get(step, (0.0, 0.0))
        costs[step] = (total - earlier_total) / max(1.0, count - earlier_count) * 1e6
    return costs


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    started = time.perf_counter()
    print(run(rounds=2, seconds=1.0), time.perf_counter() - started)
