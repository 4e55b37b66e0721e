"""The console entry. It runs with the client library alone installed, and then says what is missing."""

from __future__ import annotations

import sys

_UNREACHABLE = 3


def main() -> int:
    """Run the command line with the process's arguments and return its exit code."""
    try:
        from authz_sidecar.cli.application import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "authz_sidecar":
            raise
        sys.stderr.write(
            f"error: the package `{error.name}` is missing; "
            "install the command line with `pip install 'authz-sidecar[server]'`\n"
        )
        return _UNREACHABLE
    run(sys.argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
