"""`lepton add-task`: a trained run gets more tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton.cli._output import Json, Output, Overrides, Plain, Quiet, RunFolder, Trust

__all__ = ["add_task"]


def add_task(
    run: RunFolder,
    config: Annotated[Path, typer.Argument(metavar="TASK.YAML", help="The new rows, the new tasks and the method.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new run's folder; by default beside the old one.")
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Train the new tasks alone, and all of them together, from scratch, for comparison.")
    ] = True,
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Give a trained run more tasks; the result is a new run, the old one is left as it is.

    Example: lepton add-task runs/houses churn.yaml method=lora -o runs/houses-churn
    """
    from lepton.config import read_added
    from lepton.run import add_task as added_to
    from lepton.run import added_table

    out = Output(json_, quiet, plain)
    found = read_added(config, overrides or [])
    added = added_to(run, found, output, compare=compare, trust=trust, quiet=out.silent, plain=out.plain)
    out.show(added_table(added), *added.words)
    out.result(added.to_dict())
    folder = added.run.folder
    out.show(f"The new run is in {folder}. Next:  lepton predict {folder} ROWS   lepton report {folder}")
