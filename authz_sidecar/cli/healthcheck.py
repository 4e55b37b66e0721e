"""`authz-sidecar healthcheck`: asks a running sidecar whether it is ready. What container health checks run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.failure import CommandFailed, Unreachable, Unusable
from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen
from authz_sidecar.cli.settings import DEFAULT_CONFIG, ConfigOption, load_config

_MOST_BYTES = 4096


def healthcheck(
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Ask there, like `http://127.0.0.1:9180`; reads no file.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, max=60, help="How long to wait.")
    ] = 2.0,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Ask the sidecar's HTTP port whether it is ready: a policy bundle is active and the ledger can be written."""
    host, port = _address_of_url(url) if url is not None else _address_of_config(config)
    status, said = ask_ready(host, port, timeout)
    if status != 200:
        reason = _reasons(said) or "no reason given"
        message = f"the sidecar at {host}:{port} is not ready (HTTP {status}): {reason}; its log says more"
        raise CommandFailed(message, ExitCode.CHECK_FAILED)
    screen = Screen(output)
    if screen.json:
        screen.document({"ready": True, "address": f"{host}:{port}"})
    else:
        screen.line("ready", "green")


def ask_ready(host: str, port: int, timeout: float) -> tuple[int, str]:
    """Status and body of `GET /readyz`. Raises Unreachable."""
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read(_MOST_BYTES).decode("utf-8", "replace").strip()
    except (OSError, HTTPException) as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        remedy = "start it with `authz-sidecar serve`, or correct the address"
        raise Unreachable(f"no sidecar answers at {host}:{port} ({reason}); {remedy}") from None
    finally:
        connection.close()


def _reasons(body: str) -> str:
    """The reasons in a `/readyz` answer; the body itself when it is not in that form."""
    import json

    try:
        document = json.loads(body)
        return "; ".join(map(str, document["reasons"]))
    except (ValueError, TypeError, KeyError):
        return body


def reachable(host: str) -> str:
    """The host to connect to for a host to listen on."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def _address_of_url(url: str) -> tuple[str, int]:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port = None, 0
    if host is None or parts.scheme != "http":
        raise Unusable(f"`--url {url[:64]}`: expected something like http://127.0.0.1:9180")
    return host, port


def _address_of_config(config: Path) -> tuple[str, int]:
    if config == DEFAULT_CONFIG and not config.exists():
        from authz_sidecar.config.sections import HttpSection

        address = HttpSection().address
    else:
        address = load_config(config, check_paths=False).http.address
    return reachable(address.host), address.port
