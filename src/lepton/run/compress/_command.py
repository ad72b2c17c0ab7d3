"""`compress_run`: a run to smaller forms of itself, each exported and measured beside the original."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lepton.data import find_column, read_table
from lepton.errors import ConfigurationError, DataError, import_extra, is_number, is_whole, require
from lepton.run._encoding import encode_rows
from lepton.run._folder import new_folder
from lepton.run._rows import held_out_part
from lepton.run._run import Run
from lepton.run._watch import watched
from lepton.run.compress._compressed import Compressed
from lepton.run.compress._distilled import check_student
from lepton.run.compress._form import judged_metric
from lepton.run.compress._making import Making, Part
from lepton.run.compress._measuring import machine, measured_forms

__all__ = ["compress_run"]


def compress_run(
    run: Run,
    folder: Path | str | None = None,
    *,
    prune: Sequence[float] = (),
    distil: Sequence[str] = (),
    int8: bool = True,
    bf16: bool = False,
    torchao: bool = False,
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

    Each form but those in torch is a folder that `lepton predict` and `lepton serve` take. Its metrics are those of
    what the folder says of labelled rows. `results.json`, `README.md` and, with the extra `demo`, `sweep.png` lie
    beside the folders, and the runs of what was trained in `runs`.

    Args:
        run: the run.
        folder: the new folder; by default `compressed`, or `compressed-2` and so on, in the run's.
        prune: shares of the parameters that are taken away, such as 0.5; the rest is trained on.
        distil: options of a smaller trunk that the run teaches, such as `"trunk.width=64"`, several parted by spaces;
            the same trunk without a teacher is trained beside it.
        int8: whether a form with weights of 8 bits is made of each that is exported.
        bf16: whether the run in torch in bfloat16 is measured too; nothing is exported of it.
        torchao: whether the run in torch with linear layers of 8 bits, compiled, is measured too; nothing is exported.
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
        MissingExtraError: `export` is needed, for `prune` and `torchao` also `compress`.
    """
    require(is_whole(seeds), "compress", "seeds", seeds, "a whole number of at least 1")
    _check(run, prune, distil, epochs, batch_sizes, limit)
    _check_extras(pruning=bool(prune), torchao=torchao)
    parts = _labelled_parts(run, rows)
    part = "rows" if rows is not None else held_out_part(parts)
    if part is None:
        raise DataError("this run has neither test nor validation rows: there is nothing to measure on. Give rows.")
    with watched(quiet) as watch:
        making = Making(run, _place(run, folder), parts, part, watch, int8, epochs, trust)
        making.original()
        if bf16:
            making.bf16()
        if torchao:
            making.torchao()
        for ratio in prune:
            making.pruned(ratio)
        for student in distil:
            making.student(student, seeds)
        forms = measured_forms(making, tuple(batch_sizes), seconds)
    first = forms[0].scores[part]
    found = Compressed(
        making.place,
        run.folder.name,
        forms,
        {task: judged_metric(run.model.task(task), scores) for task, scores in first.items()},
        part,
        "val" if part == "test" and "val" in parts else part,
        tuple(batch_sizes),
        f"one thread of {machine()}",
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
    if (prune or distil) and run.rows is None and not run.config.has_source:
        raise ConfigurationError(
            "prune and distil train on the rows that the run was trained on, but those were in memory and are gone: "
            "int8 alone needs none."
        )


def _check_extras(*, pruning: bool, torchao: bool) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(module, "export", "a compressed model, which is an exported one")
    if pruning:
        import_extra("torch_pruning", "compress", "pruning")
    if torchao:
        import_extra("torchao", "compress", "a torch model in eight bits")


def _labelled_parts(run: Run, rows: Any) -> dict[str, Part]:
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
        part: Part(table, encode_rows(run.config, run.encoder, run.rules, table, notes, part))
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
