"""`lepton fit`, `init`, `validate`, `train`: from rows to a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton.cli._output import Json, Output, Overrides, Plain, Quiet, Trust
from lepton.errors import ConfigurationError

if TYPE_CHECKING:
    from lepton.run import Run

__all__ = ["fit", "init", "train"]

Folder = Annotated[Path | None, typer.Option(help="Where the run is written; a number is added if it is taken.")]
Targets = Annotated[list[str], typer.Option("--target", "-t", help="A column to predict; repeat it for each task.")]


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    for item in given or []:
        if "=" not in item:
            raise ConfigurationError(f"{option} {item!r} must be written name=value.")
    return dict(item.split("=", 1) for item in given or [])


def fit(
    source: Annotated[Path, typer.Argument(help="CSV, Parquet, JSON lines, or a folder of images or recordings.")],
    target: Targets,
    ignore: Annotated[list[str] | None, typer.Option(help="A column that is not read; repeat it.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="column=kind where inference is wrong; repeat it.")] = None,
    date_format: Annotated[
        list[str] | None, typer.Option(help="column=format of its dates, such as joined=%d/%m/%Y; repeat it.")
    ] = None,
    val: Annotated[Path | None, typer.Option(help="Another table for validation.")] = None,
    test: Annotated[Path | None, typer.Option(help="Another table for the test.")] = None,
    balance: Annotated[str, typer.Option(help="How the tasks are weighed, such as cagrad.")] = "equal",
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value of the configuration.")] = None,
    seed: Annotated[int, typer.Option(help="Fixes initial weights and order.")] = 0,
    folder: Folder = None,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Train one model that predicts several columns of a table.

    Example: lepton fit houses.csv --target price --target sold --ignore id
    """
    from lepton.run import default_folder, make_config, override_config, train_run

    data = {
        "ignore": ignore or [],
        "kinds": _pairs("--kind", kind),
        "date_formats": _pairs("--date-format", date_format),
        "val": val,
        "test": test,
    }
    config = make_config(source=str(source), targets=target, data=data, rest={"balance": balance, "seed": seed})
    config = override_config(config, set_ or [])
    output = Output(json_, quiet, plain)
    run = train_run(config, folder or config.output or default_folder(config), quiet=output.silent, plain=plain)
    _report_run(output, run)


def train(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="A YAML file, as `lepton init` writes one.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run instead.")] = None,
    folder: Folder = None,
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Train what a configuration describes.

    Example: lepton train houses.yaml balance.method=cagrad training.max_epochs=5
    """
    from lepton.config import read_config
    from lepton.run import default_folder, resume_run, train_run
    from lepton.train import several_processes

    if resume is not None and config is not None:
        raise ConfigurationError(
            f"--resume goes on with {resume} as it was configured: it takes no configuration and no values to change, "
            f"but got {str(config)!r}."
        )
    if config is None and resume is None:
        raise ConfigurationError("give a configuration to train, or --resume RUN to go on with a run.")
    if resume is not None:
        output = Output(json_, quiet, plain)
        with several_processes():
            _report_run(output, resume_run(resume, trust=trust, quiet=output.silent, plain=plain))
        return
    assert config is not None
    found = read_config(config, overrides or [])
    output = Output(json_, quiet, plain)
    place = folder or found.output or default_folder(found)
    with several_processes():
        _report_run(output, train_run(found, place, trust=trust, quiet=output.silent, plain=plain))


def _report_run(output: Output, run: Run) -> None:
    from lepton.train import is_first_process

    if not is_first_process():
        return
    results: dict[str, Any] = {
        part: {task: asdict(result) for task, result in found.items()} for part, found in run.results.items()
    }
    output.result({"run": str(run.folder), "results": results, "notes": run.notes})
    output.show(
        f"The run is in {run.folder}. Next:  lepton predict {run.folder} ROWS   lepton report {run.folder}   "
        f"lepton baseline {run.folder}"
    )


def init(
    source: Annotated[Path | None, typer.Option("--from", help="The table.")] = None,
    target: Annotated[list[str] | None, typer.Option("--target", "-t", help="A column to predict; repeat it.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("lepton.yaml"),
    schema: Annotated[bool, typer.Option(help="Print the JSON schema for editors instead.")] = False,
    force: Annotated[bool, typer.Option(help="Overwrite the file.")] = False,
) -> None:
    """Write a commented configuration for a table, which trains as it is.

    Example: lepton init --from houses.csv --target price --target sold
    """
    from lepton.config import json_schema
    from lepton.run import commented_config
    from lepton.train import write_atomically

    if schema:
        typer.echo(json_schema())
        return
    if source is None:
        raise ConfigurationError("which table? Give it with --from.")
    if output.exists() and not force:
        raise ConfigurationError(f"{output} is there already: choose another --output, or pass --force.")
    write_atomically(output, commented_config(source, target or [], relative_to=Path.cwd()).encode())
    typer.echo(f"Wrote {output}. Look first:  lepton validate {output}   Train:  lepton train {output}")
