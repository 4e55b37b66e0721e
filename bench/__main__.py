"""`make bench`: every figure that the documentation quotes, in one run. Prints tables, writes build/bench.json.

These machines are noisy: compare the ratios of one run, never absolute figures of two.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import authorize, ledger, policies, revocation, token

_OUTPUT = Path("build/bench.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter rounds: to see that it runs, not to quote")
    quick = parser.parse_args().quick
    console = Console()
    results: dict[str, Any] = {}
    with console.status("decisions over the wire against an empty handler"):
        results["authorize"] = authorize.run(rounds=1 if quick else 5, seconds=0.5 if quick else 2.0)
    show_authorize(console, results["authorize"])
    with console.status("growth with the number of policies"):
        results["policies"] = policies.run(rounds=3 if quick else 9, calls=50 if quick else 300)
    show_policies(console, results["policies"])
    with console.status("durable records"):
        results["ledger"] = ledger.run(seconds=0.5 if quick else 3.0)
    show_rows(console, "ledger", results["ledger"])
    with console.status("tokens"):
        results["token"] = token.run(rounds=3 if quick else 15)
    show_rows(console, "tokens, microseconds", results["token"])
    with console.status("revocation"):
        results["revocation"] = revocation.run(rounds=10 if quick else 100)
    show_rows(console, "from CompleteTask's answer to refusal at the verifier", results["revocation"])
    _OUTPUT.parent.mkdir(exist_ok=True)
    _OUTPUT.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {_OUTPUT}")


def show_authorize(console: Console, result: dict[str, Any]) -> None:
    table = Table(title="Authorize against an empty handler of the same shape (median of interleaved rounds)")
    for heading in ("form", "callers", "throughput", "p50", "p99", "our p50 ms", "empty p50 ms", "our /s", "empty /s"):
        table.add_column(heading, justify="right")
    for key, ratio in result["ratios"].items():
        mode, callers = key.split("/")
        ours, empty = (result["figures"][f"{name}/{key}"] for name in ("sidecar", "empty handler"))
        table.add_row(
            mode,
            callers,
            *(f"{ratio[name]:.2f}x" for name in ("throughput_ratio", "p50_ratio", "p99_ratio")),
            f"{ours['p50_ms']:.2f}",
            f"{empty['p50_ms']:.2f}",
            f"{ours['throughput']:.0f}",
            f"{empty['throughput']:.0f}",
        )
    console.print(table)
    steps = Table(title="Steps of the cycle, wall time in the process (`durable` is waiting)")
    steps.add_column("step")
    steps.add_column("us", justify="right")
    for step, cost in result["step_us"].items():
        steps.add_row(step, f"{cost:.0f}")
    console.print(steps)
    cpu = ", ".join(f"{key} {value:.0f} us" for key, value in result["cpu_us_per_call"].items())
    console.print(f"CPU per call: {cpu}")
    console.print(f"resident memory {result['rss_mib']:.0f} MiB, serving after {result['ready_seconds']:.2f} s")


def show_policies(console: Console, result: dict[str, Any]) -> None:
    table = Table(title="One decision by number of policies (few of them match)")
    for heading in ("policies", "us a decision", "ms to compile"):
        table.add_column(heading, justify="right")
    for size, cost in result["decision_us"].items():
        table.add_row(size, f"{cost:.0f}", f"{result['compile_ms'][size]:.0f}")
    console.print(table)
    console.print(f"10 000 policies cost {result['growth_ratio']:.2f}x of 10")


def show_rows(console: Console, title: str, result: dict[str, Any]) -> None:
    table = Table(title=title)
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, value in result.items():
        table.add_row(name, f"{value:,.1f}" if isinstance(value, float) else str(value))
    console.print(table)


if __name__ == "__main__":
    main()
