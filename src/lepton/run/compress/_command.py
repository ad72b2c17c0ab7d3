"""`compress_run`: a run to smaller forms of itself, each exported and measured beside the original."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.compress import Cost, bytes_of, measured_together, quantise_onnx
from lepton.data import Rows, find_column, read_table
from lepton.errors import ConfigurationError, DataError, import_extra, is_number, is_whole, require
from lepton.evaluate import evaluate
from lepton.export import ExportedModel
from lepton.nn import LeptonModel
from lepton.run._folder import new_folder
from lepton.run._prepare import encode_rows
from lepton.run._rows import held_out_part, make_loader
from lepton.run._run import Run
from lepton.run._watch import Watch, watched
from lepton.run.compress._compressed import Compressed
from lepton.run.compress._distilled import Distilled, check_student, train_students
from lepton.run.compress._form import Form, judged_metric
from lepton.run.compress._pruned import pruned_run
from lepton.run.compress._shipped import Scores, shipped_scores

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["compress_run"]

GRAPH = "model.onnx"
CHECKED_ROWS = 256
"""Rows that a graph of 8 bits is compared with its original on; its metrics are those of all rows."""
DIFFERENT = 16
"""Different batches of each size, at most."""


@dataclass(frozen=True)
class _Part:
    """Rows with labels: as they were read, and encoded."""

    table: pa.Table
    rows: Rows


@dataclass(frozen=True)
class _Made:
    """An exported folder: what was done, which run it is of, and which network it is in other numbers."""

    how: str
    place: Path
    run: Path | None
    family: str


@dataclass
class _Making:
    """What is made of a run, and what it is made with."""

    run: Run
    place: Path
    parts: Mapping[str, _Part]
    part: str
    watch: Watch
    exported: dict[str, _Made] = field(default_factory=dict)
    distilled: list[Distilled] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def shown(self) -> _Part:
        return self.parts[self.part]


def compress_run(
    run: Run,
    folder: Path | str | None = None,
    *,
    prune: Sequence[float] = (),
    distil: Sequence[str] = (),
    int8: bool = True,
    epochs: int | None = None,
    seeds: int = 1,
    rows: Any = None,
    batch_sizes: Sequence[int] = (1, 32, 256),
    seconds: float = 2.0,
    limit: float = 1.0,
    trust: bool = False,
    quiet: bool = False,
) -> Compressed:
    """Make smaller forms of a run's model, export each, and measure all of them on this machine, beside the original.

    Each form is a folder that `lepton predict` and `lepton serve` take. Its metrics are those of what the folder says
    of labelled rows. `results.json`, `README.md` and, with the extra `demo`, `sweep.png` lie beside the folders, and
    the runs of what was trained in `runs`.

    Args:
        run: the run.
        folder: the new folder; by default `compressed`, or `compressed-2` and so on, in the run's.
        prune: shares of the parameters that are taken away, such as 0.5; the rest is trained on.
        distil: options of a smaller trunk that the run teaches, such as `"trunk.width=64"`, several parted by spaces;
            the same trunk without a teacher is trained beside it.
        int8: whether a form with weights of 8 bits is made of each.
        epochs: of every training; by default as many as the run took.
        seeds: trainings of each student and its control; from two on there are intervals. The first is exported.
        rows: labelled rows to measure on; by default the run's own that were held out.
        batch_sizes: rows of the batches that are timed.
        seconds: time for each form and size of batch.
        limit: points that a task may lose in the smallest form that is recommended.
        trust: whether classes that the configuration names may be imported.
        quiet: print nothing.

    Raises:
        ConfigurationError: a number or an option that is not allowed, a folder that is there already, or a run whose
            rows were in memory and are not given.
        DataError: the source has changed since, or no row was held out.
        ExportError: the model cannot be exported.
        MissingExtraError: `export` is needed, for `prune` also `compress`.
    """
    require(is_whole(seeds), "compress", "seeds", seeds, "a whole number of at least 1")
    _check(run, prune, distil, epochs, batch_sizes, limit)
    parts = _labelled_parts(run, rows)
    part = "rows" if rows is not None else held_out_part(parts)
    if part is None:
        raise DataError("this run has neither test nor validation rows: there is nothing to measure on. Give rows.")
    with watched(quiet) as watch:
        making = _Making(run, _place(run, folder), parts, part, watch)
        _export(making, "fp32", "the run as ONNX", run, None, int8)
        for ratio in prune:
            _prune(making, ratio, epochs, int8, trust)
        for student in distil:
            _distil(making, student, epochs, seeds, int8, trust)
        forms = _measured(making, tuple(batch_sizes), seconds)
    first = forms[0].scores[part]
    found = Compressed(
        making.place,
        run.folder.name,
        forms,
        {task: judged_metric(run.model.task(task), scores) for task, scores in first.items()},
        part,
        "val" if part == "test" and "val" in parts else part,
        tuple(batch_sizes),
        f"one thread of {_machine()}",
        limit,
        tuple(making.distilled),
        tuple(making.notes),
    )
    found.write()
    return found


# -- before anything is made --------------------------------------------------------------------------------------
def _check(
    run: Run, prune: Sequence[float], distil: Sequence[str], epochs: int | None, sizes: Sequence[int], limit: float
) -> None:
    for ratio in prune:
        fits = is_number(ratio) and 0 < ratio < 1
        allowed = "a share of the parameters between 0 and 1, such as 0.5; more is smaller"
        require(fits, "compress", "prune", ratio, allowed)
    repeated = sorted({each for each in [*prune, *distil] if [*prune, *distil].count(each) > 1}, key=str)
    require(not repeated, "compress", "prune and distil", repeated, "different from each other")
    require(epochs is None or is_whole(epochs), "compress", "epochs", epochs, "a whole number of at least 1")
    require(bool(sizes) and all(map(is_whole, sizes)), "compress", "batch_sizes", sizes, "whole numbers from 1 on")
    require(is_number(limit) and limit >= 0, "compress", "limit", limit, "a number of points >= 0")
    for student in distil:
        check_student(run.config, student.split())
    if (prune or distil) and run.rows is None and run.config.data.source is None:
        raise ConfigurationError(
            "prune and distil train on the rows that the run was trained on, but those were in memory and are gone: "
            "int8 alone needs none."
        )
    for module in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(module, "export", "a compressed model, which is an exported one")
    if prune:
        import_extra("torch_pruning", "compress", "pruning")


def _labelled_parts(run: Run, rows: Any) -> dict[str, _Part]:
    """Return the held-out rows, or those that were given."""
    if rows is not None:
        tables = {"rows": read_table(rows)}
        for rule in run.rules:
            for column in rule.columns:
                find_column(tables["rows"], column)
    else:
        try:
            tables = run.tables()
        except ConfigurationError as error:
            raise ConfigurationError(f"what is compressed is measured on real rows: {error} Or give rows.") from error
    notes: list[str] = []
    return {
        part: _Part(table, encode_rows(run.config, run.encoder, run.rules, table, notes, part))
        for part, table in tables.items()
        if part != "train"
    }


def _place(run: Run, folder: Path | str | None) -> Path:
    if folder is None:
        return new_folder(run.folder / "compressed")
    place = Path(folder)
    if place.exists():
        raise ConfigurationError(f"{place} is there already: choose another folder.")
    return new_folder(place)


# -- forms --------------------------------------------------------------------------------------------------------
def _export(making: _Making, name: str, how: str, run: Run, trained: Path | None, int8: bool) -> None:
    """Export a run, as it is and with weights of 8 bits."""
    place, table = making.place / name, making.shown.table
    with making.watch.working(f"{name}: exporting"):
        left_out = run.export(place, rows=table).manifest.left_out
    making.exported[name] = _Made(how, place, trained, "original" if name == "fp32" else name)
    if name == "fp32":
        making.notes += [f"{task!r} is in no exported form: {why}." for task, why in left_out.items()]
    if int8:
        _quantise(making, name)


def _quantise(making: _Making, name: str) -> None:
    made, rows = making.exported[name], making.shown.table.slice(0, CHECKED_ROWS)
    small = "int8" if name == "fp32" else f"{name}-int8"
    with making.watch.working(f"{small}: quantising"):
        try:
            ExportedModel(made.place).rewritten(making.place / small, quantise_onnx, weights="int8", rows=rows)
        except ConfigurationError as error:  # so small that there is nothing to gain
            making.notes.append(f"There is no {small}: {error}")
            return
    how = f"`{name}` with weights of 8 bits"
    making.exported[small] = dataclasses.replace(made, how=how, place=making.place / small)


def _prune(making: _Making, ratio: float, epochs: int | None, int8: bool, trust: bool) -> None:
    name = f"pruned-{ratio:g}"
    callbacks = making.watch(f"{name}: fine-tuning")
    options: dict[str, Any] = {"epochs": epochs, "trust": trust, "quiet": True, "callbacks": callbacks}
    found = pruned_run(making.run, ratio, making.place / "runs" / name, **options)
    how = f"{ratio:.0%} of the parameters taken away, the rest trained on"
    _export(making, name, how, found, found.folder, int8)


def _distil(making: _Making, student: str, epochs: int | None, seeds: int, int8: bool, trust: bool) -> None:
    """Train a student with and without the run as its teacher, and export both."""
    said = re.sub(r"[^\w.]+", "-", student.replace("trunk.", ""))
    place = making.place / "runs" / f"distilled-{said}"
    told: dict[str, Any] = {"options": {}, "epochs": epochs, "seeds": seeds, "trust": trust}
    found = train_students(making.run, student.split(), place, making.watch, **told)
    making.distilled.append(found)
    _export(making, f"distilled-{said}", f"{student}, taught by the run", found.run, found.run.folder, int8)
    how = f"{student}, trained without a teacher: what distillation has to beat"
    _export(making, f"alone-{said}", how, found.control, found.control.folder, int8)


# -- measuring ----------------------------------------------------------------------------------------------------
def _measured(making: _Making, batch_sizes: Sequence[int], seconds: float) -> tuple[Form, ...]:
    run = making.run
    models = {name: ExportedModel(made.place, threads=1) for name, made in making.exported.items()}
    tasks = next(iter(models.values())).tasks
    scores: dict[str, dict[str, Scores]] = {"original": {}}
    for part, held in making.parts.items():
        with making.watch.working(f"measuring on {held.table.num_rows} {part} rows"):
            told = {name: shipped_scores(model, run, held.rows, held.table) for name, model in models.items()}
            for name, found in told.items():
                scores.setdefault(name, {})[part] = found
            scores["original"][part] = _like(_own_scores(run, held.rows, tasks), next(iter(told.values())))
    with making.watch.working(f"timing {len(models) + 1} forms with batches of {', '.join(map(str, batch_sizes))}"):
        costs = _costs(making, models, batch_sizes, seconds)
    how = "the run in torch, weights of 32 bits"
    first = Form("original", how, costs["original"], scores["original"], family="original")
    return first, *(
        Form(name, made.how, costs[name], scores[name], made.place, made.run, made.family)
        for name, made in making.exported.items()
    )


def _own_scores(run: Run, rows: Rows, tasks: Sequence[str]) -> Scores:
    found = evaluate(run.model, make_loader(rows, run.config))
    return {task: found[task].metrics for task in tasks}


def _like(scores: Scores, shipped: Scores) -> Scores:
    """Return those metrics only that an exported model has too."""
    return {task: {name: scores[task][name] for name in found} for task, found in shipped.items()}


def _costs(
    making: _Making, models: Mapping[str, ExportedModel], batch_sizes: Sequence[int], seconds: float
) -> dict[str, Cost]:
    run, first = making.run, next(iter(models.values()))
    batches = {size: list(_batches(first, making.shown.table, size)) for size in batch_sizes}
    predictions: dict[str, Any] = {"original": _Eager(run.model, first)}
    sizes: dict[str, int | None] = {"original": bytes_of(run.model)}
    for name, model in models.items():
        predictions[name], sizes[name] = model.outputs, bytes_of(model.folder / GRAPH)
    return measured_together(predictions, batches, batch_sizes, sizes=sizes, threads=1, seconds=seconds)


def _batches(model: ExportedModel, table: pa.Table, size: int) -> Iterator[Any]:
    """Yield different batches of the rows, from the first row again where there are too few."""
    for start in range(0, max(1, min(DIFFERENT * size, table.num_rows)), size):
        rows = table.take([place % table.num_rows for place in range(start, start + size)])
        yield next(model.manifest.reading.batches(model.encoder, rows, size))


class _Eager:
    """A model in torch as it is served: a batch of inputs to what people see."""

    def __init__(self, model: LeptonModel, like: ExportedModel) -> None:
        self.model = model.eval()
        self.logits = {rule.task for rule in like.rules if rule.kind in ("speech_recognition", "language_modeling")}
        self.tasks = like.tasks

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        outputs, _ = self.model({name: value for name, value in inputs.items() if name != "next_tokens"})
        # As in the graph: a transcript is searched for afterwards, and a text's perplexity is a sum.
        return {
            name: outputs[name] if name in self.logits else self.model.task(name).predict(outputs[name])
            for name in self.tasks
        }


def _machine() -> str:
    """Return what the processor is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(told, "") or platform.processor() or platform.machine()
