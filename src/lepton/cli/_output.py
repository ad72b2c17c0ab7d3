"""How the verbs speak: tables for people on stderr, results on stdout, JSON where that is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Json", "Output", "Overrides", "Plain", "Quiet", "RunFolder", "Trust"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Plain = Annotated[bool, typer.Option("--plain", help="No colours, frames or moving bars; also where NO_COLOR is set.")]
Trust = Annotated[bool, typer.Option("--trust", help="Import classes that the configuration names: runs their code.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Values to change, such as training.max_epochs=5.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")]


class Output:
    """Where the words of one command go.

    Args:
        as_json: people read nothing; the result is one JSON object.
        quiet: people read nothing.
        plain: text without colours and frames.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False, plain: bool = False) -> None:
        self.as_json = as_json
        self.silent = quiet or as_json
        self.plain = plain or bool(os.environ.get("NO_COLOR"))

    @property
    def console(self) -> Console:
        """Where people read."""
        from rich.console import Console

        return Console(no_color=True, force_terminal=False, highlight=False) if self.plain else Console()

    def show(self, *things: Any) -> None:
        """Print tables and sentences for people."""
        if self.silent:
            return
        console = self.console
        for thing in things:
            if self.plain and hasattr(thing, "box"):
                thing.box = None
            if isinstance(thing, str):
                console.print(thing, markup=False, highlight=False, soft_wrap=True)
            else:
                console.print(thing)

    @contextmanager
    def busy(self, words: str) -> Iterator[None]:
        """Show that something is under way, on stderr where a person may look."""
        if self.silent:
            yield
            return
        from rich.console import Console

        console = Console(stderr=True)
        if self.plain or not console.is_terminal:
            console.print(f"{words} ...", highlight=False)
            yield
            return
        with console.status(words):
            yield

    def result(self, content: Mapping[str, Any]) -> None:
        """Print the result for programs, if that is asked for; what is not finite becomes null."""
        if self.as_json:
            from lepton.data import without_nan

            typer.echo(json.dumps(without_nan(content), default=str, ensure_ascii=False))
