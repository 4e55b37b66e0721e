"""Finding and loading the configuration for a command."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from authz_sidecar.config import Config

DEFAULT_CONFIG = Path("/etc/authz-sidecar/config.yaml")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", envvar="AUTHZ_SIDECAR_CONFIG", help="Configuration file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override one key, like `http.address=127.0.0.1:9180`; may be repeated."
    ),
]


def load_config(path: Path, overrides: Sequence[str] | None = None, *, check_paths: bool = True) -> Config:
    """The configuration of file, environment and flags. Raises DocumentError with every problem."""
    from authz_sidecar.config import Config

    return Config.load(path, os.environ, overrides or (), check_paths=check_paths)
