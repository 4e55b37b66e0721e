"""What the exit status of a command means. Stable: scripts and probes build on it."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit statuses. `docs/cli.md` holds the same table.

    A script that only asks "was it zero?" gets the careful answer: `audit verify` is zero only for a ledger that was
    compared with a checkpoint from outside, because a ledger rewritten from the start agrees with itself.
    """

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNSAFE = 4
    INCOMPLETE = 5
    UNANCHORED = 6
    INTERNAL = 70
    LEDGER_POISONED = 74
    INTERRUPTED = 130


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done; every check passed",
    ExitCode.CHECK_FAILED: "the check failed, or the sidecar refused the request",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.UNREACHABLE: "something cannot be reached, read or loaded",
    ExitCode.UNSAFE: "evidence was tampered with, or going on would be unsafe",
    ExitCode.INCOMPLETE: "entries or payloads are missing from the ledger",
    ExitCode.UNANCHORED: "the ledger agrees with itself, but was not compared with a checkpoint from outside",
    ExitCode.INTERNAL: "a bug in this program",
    ExitCode.LEDGER_POISONED: "`serve` stopped because the ledger could not be written safely",
    ExitCode.INTERRUPTED: "interrupted from the keyboard",
}
