"""`lepton recipe`: complete applications on public data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton.cli._output import Json, Output, Overrides, Plain, Quiet

__all__ = ["recipe"]


def recipe(
    name: Annotated[str, typer.Argument(help="translation or tagging.")],
    overrides: Overrides = None,
    data: Annotated[Path, typer.Option(help="The folder that holds the data set.")] = Path("data"),
    folder: Annotated[Path | None, typer.Option(help="Where the runs go; by default runs/ and the name.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training rows.")] = None,
    limit: Annotated[int | None, typer.Option(min=20, help="Rows of each part, to try the recipe out.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of everything.")] = 1,
    alone: Annotated[bool, typer.Option(help="Train each task alone as well, for as long.")] = True,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Train a complete application: all tasks on one network, then each alone for as long.

    Example: lepton recipe translation --data data/multi30k --limit 500 --epochs 2
    """
    from lepton.recipes.nlp import RecipeConfig, run_recipe

    output = Output(json_, quiet, plain)
    settings = RecipeConfig(
        data=data,
        folder=folder or Path("runs") / name,
        epochs=epochs,
        limit=limit,
        alone=alone,
        seeds=seeds,
        overrides=tuple(overrides or ()),
    )
    found = []
    for result in run_recipe(name, settings, quiet=output.silent):
        found.append(result.to_dict())
        if result.alone is not None:
            output.show(result.alone)
        output.show(f"Wrote {result.run.folder}. Next:  lepton report {result.run.folder}")
    output.result({"recipe": name, "seeds": found})
