"""`lepton validate`, `probe`, `baseline`: looking before and after a training."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lepton.cli._output import Json, Output, Overrides, Plain, Quiet, RunFolder, Trust

__all__ = ["baseline", "probe", "validate"]


class Budget(StrEnum):
    """What a task alone has as much of as the run."""

    steps = "steps"
    time = "time"


ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, as `lepton init` writes one.")]


def validate(
    config: ConfigFile,
    overrides: Overrides = None,
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Say everything that a training would do, and what would spoil it, without training. Exits with 1 on an error.

    Example: lepton validate houses.yaml
    """
    from lepton.config import read_config
    from lepton.run import check

    output = Output(json_, quiet, plain)
    with output.busy("reading and checking"):
        found = check(read_config(config, overrides or []), trust=trust)
    output.show(found)
    output.result(found.to_dict())
    raise typer.Exit(0 if found.passed else 1)


def probe(
    config: ConfigFile,
    overrides: Overrides = None,
    batches: Annotated[int, typer.Option(min=2, help="Batches whose gradients are measured.")] = 20,
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Run a few batches: losses, gradients and conflicts, learning rates, time and memory; and what they speak for.

    Example: lepton probe houses.yaml balance.method=cagrad
    """
    from lepton.config import read_config
    from lepton.run import probe as measure

    output = Output(json_, quiet, plain)
    with output.busy("measuring; this takes up to a minute"):
        found = measure(read_config(config, overrides or []), batches=batches, trust=trust)
    output.show(found)
    output.result(found.to_dict())


def baseline(
    run: RunFolder,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each task alone.")] = 1,
    budget: Annotated[Budget, typer.Option(help="What is the same as in the run.")] = Budget.steps,
    boosting: Annotated[bool, typer.Option(help="Gradient boosting as well; tables only.")] = True,
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Train each task alone at the same budget, and gradient boosting on tables; the report shows them beside the run.

    Example: lepton baseline runs/houses --seeds 3
    """
    from lepton.run import load, run_baselines

    output = Output(json_, quiet, plain)
    loaded = load(run, trust=trust)
    found = run_baselines(loaded, seeds=seeds, budget=budget.value, boosting=boosting, trust=trust, quiet=output.silent)
    output.show(found, f"Written to {run / 'baselines.json'}. Next:  lepton report {run}")
    output.result(found.to_dict())
