"""The program `lepton`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import lepton
from lepton.cli._demo import demo
from lepton.errors import LeptonError

__all__ = ["main"]

app = typer.Typer(
    name="lepton",
    help="Train one PyTorch network for many tasks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lepton {lepton.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train one PyTorch network for many tasks."""


def main() -> None:
    """Run the program; an error that Lepton foresaw is one paragraph on stderr and exit status 2."""
    try:
        app()
    except LeptonError as error:
        typer.echo(f"lepton: {error}", err=True)
        sys.exit(2)
