"""`lepton compress`: smaller forms of a run, each measured beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lepton.cli._output import Json, Output, Plain, Quiet, RunFolder, Trust

__all__ = ["compress"]


def compress(
    run: RunFolder,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new folder; by default `compressed` in the run's.")
    ] = None,
    prune: Annotated[
        list[float] | None, typer.Option(help="A share of the parameters to take away, such as 0.5; repeat it.")
    ] = None,
    distil: Annotated[
        list[str] | None,
        typer.Option(help="A smaller trunk for the run to teach, such as trunk.width=64; repeat it."),
    ] = None,
    int8: Annotated[bool, typer.Option(help="Weights of 8 bits, of each form.")] = True,
    bf16: Annotated[bool, typer.Option("--bf16", help="Measure the run in torch in bfloat16, too.")] = False,
    torchao: Annotated[
        bool, typer.Option("--torchao", help="Measure the run in torch with linear layers of 8 bits, compiled, too.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Of every training; by default as many as the run took.")] = None,
    seeds: Annotated[
        int, typer.Option(help="Trainings of each student and its control: more than one tell chance.")
    ] = 1,
    rows: Annotated[
        Path | None, typer.Option(help="Labelled rows to measure on; by default the run's own held-out rows.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time to measure each form with each size of batch.")] = 2.0,
    limit: Annotated[float, typer.Option(help="Points that a task may lose in the form that is recommended.")] = 1.0,
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Make smaller forms of a run, export each, and measure all of them on this machine beside the original.

    Example: lepton compress runs/houses --prune 0.5 --distil trunk.width=64
    """
    from lepton.run import compress_run, load

    out = Output(json_, quiet, plain)
    found = compress_run(
        load(run, trust=trust),
        output,
        prune=prune or (),
        distil=distil or (),
        int8=int8,
        bf16=bf16,
        torchao=torchao,
        epochs=epochs,
        seeds=seeds,
        rows=rows,
        seconds=seconds,
        limit=limit,
        trust=trust,
        quiet=out.silent,
    )
    out.show(*found.tables(), *found.sentences(), f"Wrote {found.folder}.")
    out.result({"folder": str(found.folder), **found.to_dict()})
