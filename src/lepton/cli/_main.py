"""The program `lepton`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Annotated, Any

import typer

import lepton
from lepton.cli._add_task import add_task
from lepton.cli._compress import compress
from lepton.cli._continue import continue_
from lepton.cli._demo import demo
from lepton.cli._doctor import doctor
from lepton.cli._look import baseline, probe, validate
from lepton.cli._recipe import recipe
from lepton.cli._serve import serve
from lepton.cli._train import fit, init, train
from lepton.cli._use import evaluate, export, predict, report, say
from lepton.errors import LeptonError

__all__ = ["main"]

app = typer.Typer(
    name="lepton",
    help="Train one PyTorch network for many tasks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def guarded(verb: Callable[..., None]) -> Callable[..., None]:
    """Return the verb with its exit status: 2 for an error that Lepton foresaw or a disk that does not take or give
    a file, one paragraph on stderr; 130 for Ctrl-C, one line."""

    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            verb(*arguments, **options)
        except LeptonError as error:
            typer.echo(f"lepton: {error}", err=True)
            raise typer.Exit(2) from None
        except BrokenPipeError:
            raise  # the reader of our output has gone, which typer knows how to leave quietly
        except OSError as error:
            typer.echo(f"lepton: {error.filename or 'a file'}: {error.strerror or error}.", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("lepton: interrupted; what was finished is kept.", err=True)
            raise typer.Exit(130) from None

    return run


VERBS = (
    *(fit, init, validate, probe, train, evaluate, predict, say, export, compress, serve, baseline, report),
    *(add_task, recipe, demo, doctor),
)

for verb in VERBS:
    app.command()(guarded(verb))
app.command("continue")(guarded(continue_))


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
    """Run the program with the arguments of the command line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    app()
