"""`lepton evaluate`, `predict`, `report`: what a trained run is for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lepton.cli._exported import exported
from lepton.cli._output import Json, Output, Plain, Quiet, RunFolder, Trust
from lepton.cli._preview import preview
from lepton.cli._spoken import spoken
from lepton.errors import ConfigurationError

if TYPE_CHECKING:
    from lepton.export import ExportedModel
    from lepton.run import Run

__all__ = ["evaluate", "export", "predict", "report", "say"]


def evaluate(
    run: RunFolder,
    source: Annotated[Path | None, typer.Argument(help="Rows with labels; by default the run's own test rows.")] = None,
    part: Annotated[str | None, typer.Option(help="train, val or test, of the run's own source.")] = None,
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Measure every task of a run on rows with labels.

    Example: lepton evaluate runs/houses new_houses.csv --json
    """
    from lepton.data import read_table
    from lepton.run import load, metrics_table, score_notes, seen_words

    if part not in (None, "train", "val", "test"):
        raise ConfigurationError(f"--part is {part!r}, but must be train, val or test.")
    loaded = load(run, trust=trust)
    table = None if source is None else read_table(source)
    found = loaded.evaluate(table, part=part)  # type: ignore[arg-type]  # checked above
    seen = "" if table is None else seen_words(loaded, table)  # people read it in the log of `evaluate`
    notes = [*([seen] if seen else []), *loaded.notes]
    output = Output(json_, quiet, plain)
    results = {str(source or part or "held out"): found}
    output.show(metrics_table(loaded, results), *score_notes(results), *loaded.notes)
    output.result(({"notes": notes} if notes else {}) | {task: asdict(result) for task, result in found.items()})


def predict(
    run: RunFolder,
    source: Annotated[
        Path | None,
        typer.Argument(help="CSV, Parquet, JSON lines, text, a recording, or a folder of images or recordings."),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text to predict from, instead of a file; repeat it.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=".csv, .parquet or .jsonl to write.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task to predict; repeat it. By default all.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="A column of the rows to keep in front; repeat it.")] = None,
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Predict all tasks for rows, or for texts, with a run or an exported model; a table on the screen, or a file.

    Example: lepton predict runs/houses new_houses.csv --keep id --output predicted.csv
    """
    from lepton.data import AudioEncoder, beside, write_table

    if (source is None) == (not text):
        raise ConfigurationError("give rows to predict: a file, or --text.")
    loaded = _predictor(run, trust)
    rows = loaded.table_of(text or source)  # an Arrow table, so that nothing but the core is needed
    named = bool(text) or isinstance(loaded.encoder, AudioEncoder)
    found = beside(rows, keep or (loaded.encoder.names if named else []), loaded.predict(rows, tasks=task))
    out = Output(json_, quiet, plain)
    notes = {"notes": loaded.notes} if loaded.notes else {}
    if output is not None:
        write_table(found, output)
        out.show(f"Wrote {found.num_rows} rows to {output}.", *loaded.notes)
        out.result({"rows": found.num_rows, "output": str(output)} | notes)
        return
    out.result({"rows": found.to_pylist()} | notes)
    probabilities = {name for rule in loaded.rules for name in rule.predicted[1:]}
    out.show(preview(found, out.console.width, probabilities), *loaded.notes)


def _predictor(folder: Path, trust: bool) -> Run | ExportedModel:
    """Load a run, or an exported model without importing what only runs need."""
    from lepton.export import ExportedModel, is_export

    if is_export(folder):
        return ExportedModel(folder)
    from lepton.run import load

    return load(folder, trust=trust)


def export(
    run: RunFolder,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new folder; by default `export` in the run's.")
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(help="Rows to compare run and export on; by default the run's own test rows.")
    ] = None,
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Write a new folder with the model as ONNX and all rules, which predicts without any training code.

    Example: lepton export runs/houses -o houses-model
    """
    from lepton.run import load

    out = Output(json_, quiet, plain)
    loaded = load(run, trust=trust)
    with out.busy("Exporting"):
        found = loaded.export(output, rows=rows)
    out.show(*exported(found))
    out.result({"folder": str(found.folder), "sizes": dict(found.sizes), **found.manifest.checked})


def report(
    run: RunFolder,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page; by default in the run.")] = None,
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Write one offline page about a run: results, cost, curves, conflicts, errors, calibration, data.

    Example: lepton report runs/houses
    """
    from lepton.run import load

    path = load(run, trust=trust).report(output)
    out = Output(json_, quiet, plain)
    out.show(f"Wrote {path}. Open it in a browser.")
    out.result({"report": str(path)})


def say(
    run: RunFolder,
    text: Annotated[str, typer.Argument(help="What is said.")],
    voice: Annotated[str | None, typer.Option(help="Whose voice; may be left out if there is one only.")] = None,
    pace: Annotated[float, typer.Option(help="How fast: 1 as in training, 2 twice as fast.")] = 1.0,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .wav to write.")] = Path("said.wav"),
    trust: Trust = False,
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Speak a text, with a run that learned a speech_synthesis; a wav file and a picture of it.

    Example: lepton say runs/speech/seed-0 seven --voice nicolas
    """
    from lepton.run import load

    spoken(load(run, trust=trust).say(text, voice, pace=pace), output, Output(json_, quiet, plain))
