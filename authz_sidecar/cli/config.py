"""`authz-sidecar config`: check and show the configuration."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from authz_sidecar.cli.problems import show_problems
from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen
from authz_sidecar.cli.settings import DEFAULT_CONFIG, ConfigOption, SetOption, load_config

app = typer.Typer(no_args_is_help=True, help="Check and show the configuration.")


@app.command()
def check(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    *,
    no_paths: Annotated[
        bool, typer.Option("--no-paths", help="Leave the files it names alone: they are another machine's.")
    ] = False,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Check the configuration as `serve` would; print every problem with its line and column."""
    from authz_sidecar.documents import DocumentError

    screen = Screen(output)
    try:
        load_config(config, set_, check_paths=not no_paths)
    except DocumentError as error:
        raise show_problems(screen, error.problems) from None
    if screen.json:
        screen.document({"ok": True, "problems": []})
    else:
        screen.line(f"{config}: ok", "green")


@app.command()
def show(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    *,
    reference: Annotated[
        bool, typer.Option("--reference", help="Instead, describe every key and its default; reads no file.")
    ] = False,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Print the values in effect: file, then AUTHZ_SIDECAR_* variables, then flags, defaults filled in."""
    screen = Screen(output)
    if reference:
        _show_reference(screen)
        return
    values = load_config(config, set_, check_paths=False).shown()
    if screen.json:
        screen.document(values)
        return
    import yaml

    for line in yaml.safe_dump(values, sort_keys=False, allow_unicode=False).splitlines():
        screen.line(line)


def _show_reference(screen: Screen) -> None:
    from authz_sidecar.config import config_reference

    keys = config_reference()
    if screen.json:
        screen.document(
            [
                {"name": key.name, "required": key.required, "default": key.default, "description": key.description}
                for key in keys
            ]
        )
        return
    screen.table(
        ("key", "default", "description"),
        ((key.name, "(required)" if key.required else json.dumps(key.default), key.description) for key in keys),
    )
