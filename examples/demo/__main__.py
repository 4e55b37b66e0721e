"""`python -m examples.demo`: the whole story in one run, without a network, checked as it is told.

Exits with 0 when every claim held, 1 when one did not or something failed, 130 when it was interrupted.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from rich.console import Console

from examples.demo.audit import keep_checkpoint, read_timeline, tamper_and_verify, verify_ledger
from examples.demo.narration import Narration
from examples.demo.scenes import Evidence, Scenes
from examples.demo.stage import answer_without_certificate, authz_sidecar, running

_INTERRUPTED = 130
_LONGEST_DIRECTORY = 75


def main() -> int:
    # An interrupt unwinds through asyncio and ends every child; a request to end has to do the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    # The framework's greeting would stand in the middle of the story.
    os.environ["PYDANTIC_AI_NO_BANNER"] = "1"
    tell = Narration(Console(highlight=False))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="az-", dir=_short_directory()) as name:
        try:
            _demonstrate(Path(name), tell)
        except KeyboardInterrupt:
            return _INTERRUPTED
        except Exception as error:
            # Whatever it was, the rest of the story was not shown.
            tell.claim("the demonstration runs to its end", False, seen=f"{type(error).__name__}: {error}")
            tell.show(traceback.format_exc())
            _show_logs(Path(name), tell)
    tell.end(time.monotonic() - started)
    return 1 if tell.failed else 0


def _short_directory() -> str:
    """Where temporary files go. The path of a Unix socket has at most 107 bytes (unix(7)), so not too deep."""
    chosen = tempfile.gettempdir()
    return chosen if len(chosen) <= _LONGEST_DIRECTORY else "/tmp"  # noqa: S108 - a new directory of mode 0700 is made there


def _demonstrate(directory: Path, tell: Narration) -> None:
    tell.step(
        "A trust domain, the sidecar and a tool server",
        "authz-sidecar init makes keys, SVIDs, policies and a configuration; then three processes start.",
    )
    made = authz_sidecar("init", directory)
    tell.claim("authz-sidecar init made a development trust domain", made.exit_code == 0, seen=f"in {directory}")
    began = time.monotonic()
    with running(directory) as stage:
        tell.say(f"the sidecar and two CRM servers are ready after {time.monotonic() - began:.1f} s, on loopback only")
        refused = answer_without_certificate(stage)
        tell.claim(
            "the CRM talks to nobody who shows no certificate of the trust domain",
            refused.startswith("refused"),
            seen=refused,
        )
        outside = directory / "kept-by-the-auditor.checkpoint"
        evidence: Evidence = asyncio.run(Scenes(stage, tell).play(lambda: keep_checkpoint(stage, outside, tell)))
        read_timeline(stage, evidence, tell)
        verify_ledger(stage, outside, tell)
        tamper_and_verify(stage, evidence, outside, tell)


def _show_logs(directory: Path, tell: Narration) -> None:
    for log in sorted((directory / "logs").glob("*.log")):
        tell.say(log.name)
        tell.show("\n".join(log.read_text(errors="replace").splitlines()[-20:]))


if __name__ == "__main__":
    sys.exit(main())
