"""`authz-sidecar version`."""

from __future__ import annotations

from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen

# What decides, signs and stores: the parts that a report about this program should name.
_PARTS = ("cedarpy", "cryptography", "grpcio", "protobuf")


def show(output: OutputOption = OutputFormat.HUMAN) -> None:
    """Print the version of this program and of the parts that it decides, signs and stores with."""
    import platform
    import sqlite3
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    versions = {"authz-sidecar": installed("authz-sidecar"), "python": platform.python_version()}
    versions |= {name: installed(name) for name in _PARTS}
    versions["sqlite"] = sqlite3.sqlite_version
    screen = Screen(output)
    if screen.json:
        screen.document(dict(versions))
    else:
        screen.fields(versions)
