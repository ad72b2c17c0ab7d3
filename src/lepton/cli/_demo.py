"""`lepton demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    folder: Annotated[Path, typer.Option(help="Where the results go; if it is taken, a number is added.")] = Path(
        "runs/demo"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds; with one there are no intervals.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training scenes.")] = 8,
    scenes: Annotated[int, typer.Option(min=64, help="Number of training scenes.")] = 2400,
    balancer: Annotated[str, typer.Option(help="The gradient balancer to show.")] = "",
) -> None:
    """Train four tasks on real handwritten digits, each alone and all together, and report what sharing did.

    Example: lepton demo --seeds 1 --balancer UPGrad
    """
    from lepton.recipes.digits import DigitsConfig, show_demo

    config = DigitsConfig(
        folder=folder, seeds=seeds, epochs=epochs, train_scenes=scenes, balancer=balancer or DigitsConfig.balancer
    )
    raise typer.Exit(show_demo(config))
