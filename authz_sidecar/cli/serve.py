"""`authz-sidecar serve`."""

from __future__ import annotations

import typer

from authz_sidecar.cli.screen import OutputFormat, OutputOption
from authz_sidecar.cli.settings import DEFAULT_CONFIG, ConfigOption, SetOption, load_config


def serve(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Run the sidecar until SIGTERM or SIGINT.

    Exits with 0 after a graceful stop, 3 when it cannot start, 74 when the ledger can no longer be written safely.
    """
    from authz_sidecar import app

    overrides = list(set_ or ())
    if output is OutputFormat.JSON:
        # What `serve` writes is its log, so the output format is the log's.
        overrides.append("log.format=json")
    raise typer.Exit(app.serve(load_config(config, overrides)))
