"""`lepton continue`: a run goes on with new rows."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lepton.cli._output import Json, Output, Overrides, Plain, Quiet, RunFolder, Trust

__all__ = ["continue_"]


class Method(StrEnum):
    """What keeps a run from forgetting."""

    replay = "replay"
    lwf = "lwf"
    ewc = "ewc"
    agem = "agem"
    none = "none"


def continue_(
    run: RunFolder,
    overrides: Overrides = None,
    data: Annotated[Path | None, typer.Option(help="New rows: what `lepton fit` reads.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new folder; by default the run's name and -continued.")
    ] = None,
    method: Annotated[Method, typer.Option(help="What keeps it from forgetting.")] = Method.replay,
    new_classes: Annotated[bool, typer.Option("--new-classes", help="Labels not seen before become classes.")] = False,
    retire: Annotated[list[str] | None, typer.Option(help="A task that the new run does not have; repeat it.")] = None,
    replay: Annotated[int, typer.Option(min=1, help="Old training rows that are replayed, at most.")] = 5000,
    replay_ratio: Annotated[float, typer.Option(help="Old rows in a batch for each new one.")] = 1.0,
    strength: Annotated[float | None, typer.Option(help="Of the penalty of lwf or ewc.")] = None,
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Go on with a run: learn from new rows without forgetting the old ones; the old run is left alone.

    Example: lepton continue runs/houses --data new_houses.csv training.max_epochs=5
    """
    from lepton.run import continue_run, load

    out = Output(json_, quiet, plain)
    found = continue_run(
        load(run, trust=trust),
        data,
        output,
        method=method.value,
        new_classes=new_classes,
        retire=retire or [],
        replay=replay,
        replay_ratio=replay_ratio,
        strength=strength,
        overrides=overrides or [],
        trust=trust,
        quiet=out.silent,
        plain=out.plain,
    )
    out.show(
        *([found] if found.scores else []), *found.notes, f"The new run is in {found.run.folder}; {run} is as it was."
    )
    out.result(found.to_dict())
