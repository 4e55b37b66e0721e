"""How a command fails: one line on standard error that says what to do, and a stable exit code. Never a traceback."""

from __future__ import annotations

import sys

from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.terminal import printable
from authz_sidecar.errors import (
    CallerError,
    CredentialError,
    DeadlineExceeded,
    IntegrityFailure,
    OperatorError,
    Overloaded,
    SidecarError,
    Unavailable,
    Unimplemented,
)

NEEDS_SERVER_EXTRA = "install the command line with `pip install 'authz-sidecar[server]'`"


_FAMILIES: tuple[tuple[type[SidecarError], ExitCode], ...] = (
    (IntegrityFailure, ExitCode.UNSAFE),
    (OperatorError, ExitCode.UNREACHABLE),
    (Unavailable, ExitCode.UNREACHABLE),
    (Overloaded, ExitCode.UNREACHABLE),
    (DeadlineExceeded, ExitCode.UNREACHABLE),
    (CallerError, ExitCode.CHECK_FAILED),
    (CredentialError, ExitCode.CHECK_FAILED),
    (Unimplemented, ExitCode.CHECK_FAILED),
)


class CommandFailed(Exception):
    """A command cannot do what was asked.

    Attributes:
        message: what is wrong, lower case, no final period, with the remedy.
        code: the exit code.
    """

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Unusable(CommandFailed):
    """The command line asks for something that cannot be combined or understood."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.USAGE)


class Unreachable(CommandFailed):
    """A file, a directory or a sidecar that is needed cannot be read or reached."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.UNREACHABLE)


class Unsafe(CommandFailed):
    """Going on would put evidence or keys at risk."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.UNSAFE)


def report(message: str) -> None:
    """Write `error: <message>` to standard error; each line of the message is one problem."""
    for line in message.splitlines() or [""]:
        sys.stderr.write(f"error: {printable(line)}\n")
    sys.stderr.flush()


def explain(error: Exception) -> tuple[str, ExitCode]:
    """The message and the exit code for anything a command may raise.

    An error that nobody expected gets a fixed text: its own could hold a token, a key or arguments.
    """
    if isinstance(error, CommandFailed):
        return error.message, error.code
    if isinstance(error, SidecarError):
        return error.message, next((code for family, code in _FAMILIES if isinstance(error, family)), ExitCode.INTERNAL)
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "authz_sidecar":
        return f"the package `{error.name}` is missing; {NEEDS_SERVER_EXTRA}", ExitCode.UNREACHABLE
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{_name_of(error)}: {error.strerror.lower()}", ExitCode.UNREACHABLE
    bug = f"this is a bug ({type(error).__name__}); run `authz-sidecar --debug ...` for the details"
    return bug, ExitCode.INTERNAL


def _name_of(error: OSError) -> str:
    name = error.filename
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
