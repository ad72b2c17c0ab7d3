"""`lepton doctor`: the environment."""

from __future__ import annotations

from typing import Annotated

import typer

from lepton.cli._output import Json, Output, Plain, Quiet

__all__ = ["doctor"]


def doctor(
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
    strict: Annotated[bool, typer.Option(help="Exit with 1 if something is wrong.")] = False,
) -> None:
    """Look at the environment: versions, extras, devices, memory, and whether a small training works.

    Example: lepton doctor
    """
    from lepton.run import diagnose

    output = Output(json_, quiet, plain)
    with output.busy("looking, and compiling a small function"):
        found = diagnose()
    output.show(found.table())
    output.result(found.to_dict())
    raise typer.Exit(1 if strict and not found.healthy else 0)
