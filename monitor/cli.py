"""Thin commands. Exit codes: 0 good, 1 the work failed, 2 the call or the configuration is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from monitor import __version__
from monitor.errors import Fatal, TapewatchError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]


@app.callback()
def tapewatch() -> None:
    """Watch what the market says about each company."""


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command("check-config")
def check_config(file: Annotated[Path, typer.Argument(help="The TOML file.")], as_json: JsonOption = False) -> None:
    """Report every fault of a configuration at once, with file and key."""
    from monitor.settings import load_settings

    try:
        load_settings(file)
    except Fatal as err:
        _report(err, as_json)
        raise typer.Exit(2) from err
    if as_json:
        typer.echo(msgspec.json.encode({"ok": True, "faults": []}))
    else:
        typer.echo(f"{file}: good")


def main() -> None:
    """Entry point: our own errors become one line and an exit code, never a traceback."""
    try:
        app()
    except Fatal as err:
        _report(err, as_json=False)
        sys.exit(2)
    except TapewatchError as err:
        typer.echo(f"tapewatch: {err}", err=True)
        sys.exit(1)


def _report(err: Fatal, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode({"ok": False, "faults": err.faults}))
        return
    for fault in err.faults:
        typer.echo(f"tapewatch: {fault}", err=True)
