"""What looks odd about rows, labels and plan before a training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F

from lepton.data import InputEncoder, LabelRule, find_column, is_list
from lepton.run._prepare import Prepared
from lepton.run._rows import label_overlap, labelled_rows

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Finding", "Severity", "label_findings", "row_findings"]

Severity = Literal["error", "warning", "note"]

NEARLY_ALL = 0.99
"""Share of the rows with one value from which a column is nearly constant."""


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing.

    Attributes:
        kind: what it is about, in one word that does not change: `leak`, `duplicates`, `identifier`, ...
        severity: `error`: the training would fail or mean nothing; `warning`: look at it; `note`: good to know.
        about: columns, tasks or parts.
        words: a sentence.
        numbers: what was measured.
    """

    kind: str
    severity: Severity
    about: tuple[str, ...]
    words: str
    numbers: dict[str, float] = field(default_factory=dict)


# -- rows ---------------------------------------------------------------------------------------------------------
def row_findings(prepared: Prepared) -> Iterator[Finding]:
    """Yield what is odd about parts and columns."""
    for part in ("val", "test"):
        if part not in prepared.data:
            yield _no_part(part)
        elif (finding := _twins(prepared, part)) is not None:
            yield finding
    constant: dict[str, float] = {}
    for name in prepared.encoder.names:
        yield from _column_findings(prepared, name, constant)
    if constant:
        shown = ", ".join(f"{name!r} ({share:.1%})" for name, share in list(constant.items())[:5])
        more = f" and {len(constant) - 5} more" if len(constant) > 5 else ""
        words = f"the same value in nearly all training rows, so that they can tell little: {shown}{more}."
        yield Finding("constant", "note", tuple(constant), words, constant)


def _no_part(part: str) -> Finding:
    words = {
        "val": "there are no validation rows: the last weights are kept, and nothing tells when to stop.",
        "test": "there are no test rows: the results will be those that the weights were selected by.",
    }
    return Finding("split", "warning" if part == "val" else "note", (part,), words[part])


def _row_keys(prepared: Prepared, part: str) -> list[bytes]:
    """Return for each row of a part its inputs as bytes; equal rows have equal ones."""
    table = prepared.tables[part]
    if not isinstance(prepared.encoder, InputEncoder):  # the texts themselves: all unknown words have one number
        return [repr(text).encode() for text in table.column(prepared.encoder.source).to_pylist()]
    inputs = prepared.encoder.encode(table)
    tokens = inputs.pop("tokens", None)
    parts = [tensor.flatten(1).numpy().astype(np.float64, copy=False) for tensor in inputs.values()]
    keys = [row.tobytes() for row in np.concatenate(parts, 1)] if parts else [b""] * table.num_rows
    if tokens is not None:  # without the padding, which depends on the other rows
        texts = [b"|".join(text[text != 0].tobytes() for text in row) for row in tokens.int().numpy()]
        keys = [key + text for key, text in zip(keys, texts, strict=True)]
    for paths in prepared.encoder.image_paths(table).values():
        keys = [key + (path or "").encode() for key, path in zip(keys, paths, strict=True)]
    return keys


def _twin_rows(prepared: Prepared, part: str) -> tuple[list[int], list[int]]:
    """Return the rows of a part whose inputs a training row has too, and for each the first such training row."""
    first: dict[bytes, int] = {}
    for row, key in enumerate(_row_keys(prepared, "train")):
        first.setdefault(key, row)
    pairs = [(row, first[key]) for row, key in enumerate(_row_keys(prepared, part)) if key in first]
    return [row for row, _ in pairs], [row for _, row in pairs]


def _twins(prepared: Prepared, part: str) -> Finding | None:
    rows, originals = _twin_rows(prepared, part)
    if not rows:
        return None
    size = len(prepared.data[part])
    same = _same_labels(prepared, part, rows, originals)
    share = len(rows) / size
    shown = ", ".join(
        f"{part} row {row} = train row {original}" for row, original in zip(rows[:3], originals, strict=False)
    )
    words = (
        f"{len(rows)} of {size} {part} rows ({share:.1%}) have the inputs of a training row, and {same} of them its "
        f"labels too: {shown}. Where these are copies, the {part} results are too good; split by a column that keeps "
        "them together (method: group)."
    )
    severity: Severity = "warning" if len(rows) >= 5 and share > 0.01 and same > 0.5 * len(rows) else "note"
    return Finding("duplicates", severity, (part,), words, {"rows": len(rows), "share": share, "same_labels": same})


def _same_labels(prepared: Prepared, part: str, rows: list[int], originals: list[int]) -> int:
    same = torch.ones(len(rows), dtype=torch.bool)
    for name, target in prepared.data[part].targets.items():
        here, there = target[rows], prepared.data["train"].targets[name][originals]
        if here.ndim == 2 and here.shape[1] != there.shape[1]:  # sequences are padded to the longest of their part
            size = max(here.shape[1], there.shape[1])
            here, there = (F.pad(labels, (0, size - labels.shape[1]), value=-100) for labels in (here, there))
        equal = (here == there) | (here.isnan() & there.isnan() if here.is_floating_point() else here == there)
        same &= equal.flatten(1).all(1) if equal.ndim > 1 else equal
    return int(same.sum())


# -- columns ------------------------------------------------------------------------------------------------------
def _column_findings(prepared: Prepared, name: str, constant: dict[str, float]) -> Iterator[Finding]:
    import pyarrow.compute as pc

    column = find_column(prepared.tables["train"], name)
    if is_list(column):  # texts in words: their lists are not counted
        yield from _missing_findings(prepared, name)
        return
    about = {item.name: item for item in prepared.columns}[name]
    counts = pc.value_counts(column.drop_null())
    present, distinct = len(column) - column.null_count, len(counts)
    if present == 0:
        words = f"{name!r} has no value in any training row."
        yield Finding("missing", "warning", (name,), words, {"share": 1.0})
        return
    most = pc.max(counts.field("counts")).as_py() / present
    if most >= NEARLY_ALL:
        constant[name] = most
    if about.kind in ("category", "text") and distinct > 0.9 * present > 45 and _single_words(column):
        words = (
            f"{name!r} has {distinct} different values in {present} training rows: perhaps an identifier, which a "
            "model learns by heart. To leave it out: ignore."
        )
        yield Finding("identifier", "warning", (name,), words, {"distinct": distinct, "rows": present})
    yield from _missing_findings(prepared, name)


def _single_words(column: pa.ChunkedArray) -> bool:
    """Return whether the values are single words: sentences may all differ and are no identifiers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return True
    words = pc.list_value_length(pc.utf8_split_whitespace(column.drop_null().slice(0, 1000)))
    return bool(pc.mean(words).as_py() < 1.5)


def _missing_findings(prepared: Prepared, name: str) -> Iterator[Finding]:
    shares = {
        part: find_column(table, name).null_count / table.num_rows
        for part, table in prepared.tables.items()
        if table.num_rows >= 50
    }
    if not shares:
        return
    low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    if shares[high] - shares[low] > 0.2:
        words = (
            f"{name!r} is missing in {shares[high]:.1%} of the {high} rows, but in {shares[low]:.1%} of the {low} "
            "rows: the parts differ."
        )
        yield Finding("missing", "warning", (name,), words, shares)
    elif shares.get("train", 0) >= 0.5:
        words = f"{name!r} is missing in {shares['train']:.1%} of the training rows."
        yield Finding("missing", "note", (name,), words, shares)


# -- labels -------------------------------------------------------------------------------------------------------
def label_findings(prepared: Prepared) -> Iterator[Finding]:
    """Yield what is odd about the labels of each task, and of pairs."""
    for rule in prepared.rules:
        yield from _few_labels(prepared, rule)
        if rule.kind == "classification":
            yield from _imbalance(prepared, rule)
            yield from _numbers_as_classes(prepared, rule)
        if rule.kind == "regression":
            yield from _classes_as_numbers(prepared, rule)
    yield from _overlap(prepared)


def _few_labels(prepared: Prepared, rule: LabelRule) -> Iterator[Finding]:
    labelled = labelled_rows(prepared.data["train"], rule.task)
    count, share = int(labelled.sum()), float(labelled.float().mean())
    numbers = {"labels": float(count), "share": share}
    if count < 20:
        words = f"{rule.task!r} has {count} labels in the training rows: hardly anything can be learned or measured."
        yield Finding("labels", "warning", (rule.task,), words, numbers)
    elif share < 0.05:
        words = f"{rule.task!r} has labels in {share:.1%} of the training rows ({count})."
        yield Finding("labels", "note", (rule.task,), words, numbers)
    for part in ("val", "test"):
        rows = prepared.data.get(part)
        held = int(labelled_rows(rows, rule.task).sum()) if rows is not None else 30
        if held < 30:
            words = f"{rule.task!r} has {held} labels in the {part} rows: its {part} metrics will be very uncertain."
            yield Finding("labels", "note", (rule.task, part), words, {"labels": held})


def _imbalance(prepared: Prepared, rule: LabelRule) -> Iterator[Finding]:
    target = prepared.data["train"].targets[rule.task]
    counts = torch.bincount(target[target >= 0].long().flatten(), minlength=len(rule.classes))
    total = int(counts.sum())
    largest, rare = int(counts.argmax()), [int(place) for place in (counts < 10).nonzero().flatten()]
    share = int(counts[largest]) / max(1, total)
    if share >= 0.9:
        words = (
            f"{rule.task!r}: {share:.1%} of the training labels are {rule.classes[largest]!r}: an accuracy of "
            f"{share:.1%} means that nothing was learned; look at the other metrics."
        )
        yield Finding("imbalance", "note", (rule.task,), words, {"share": share})
    if rare:
        shown = ", ".join(f"{rule.classes[place]} ({int(counts[place])})" for place in rare[:5])
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
        words = f"{rule.task!r}: classes with fewer than 10 training labels: {shown}{more}."
        yield Finding("imbalance", "note", (rule.task,), words, {"classes": len(rare)})


def _numbers_as_classes(prepared: Prepared, rule: LabelRule) -> Iterator[Finding]:
    labels = int(labelled_rows(prepared.data["train"], rule.task).sum())
    if len(rule.classes) > 4 and labels < 10 * len(rule.classes) and all(map(_is_number, rule.classes)):
        words = (
            f"{rule.task!r} is learned as {len(rule.classes)} classes that are numbers, with {labels} labels: if they "
            f"are amounts, say so: tasks: {{{rule.task}: regression}}."
        )
        yield Finding("numbers_as_classes", "warning", (rule.task,), words, {"classes": len(rule.classes)})


def _classes_as_numbers(prepared: Prepared, rule: LabelRule) -> Iterator[Finding]:
    """Yield that numbers were taken for amounts although they count from one to the next, as those of classes do."""
    labels = prepared.data["train"].targets[rule.task].flatten()
    labels = labels[labels.isfinite()]
    values = torch.tensor(sorted(set(labels.tolist())))
    if len(rule.columns) == 1 and len(labels) < 3 * len(values) <= 60 and bool((values.diff() == 1).all()):
        words = (
            f"{rule.task!r} is learned as a number, since its {len(values)} whole values hardly repeat in "
            f"{len(labels)} labels: if they are classes, say so: tasks: {{{rule.task}: classification}}."
        )
        yield Finding("classes_as_numbers", "note", (rule.task,), words, {"values": len(values)})


def _is_number(word: str) -> bool:
    return word.lstrip("-").replace(".", "", 1).isdigit()


def _overlap(prepared: Prepared) -> Iterator[Finding]:
    balance, rows = prepared.config.balance, prepared.data["train"]
    both = label_overlap(rows, [rule.task for rule in prepared.rules])
    size = min(prepared.config.training.batch_size, len(rows))
    for a, first in enumerate(prepared.rules):
        for b, second in enumerate(prepared.rules[:a]):
            pair, count = (second.task, first.task), int(both[a, b])
            if count:
                continue
            words = f"no training row has labels of both {second.task!r} and {first.task!r}."
            severity: Severity = "note"
            if balance.gradients == "features":
                severity = "error"
                words += " The view features compares them row by row and needs such rows: choose fork_layer."
            yield Finding("disjoint", severity, pair, words, {"rows": count})
    together = _tasks_together((both.diagonal() / len(rows)).tolist(), size)
    if len(prepared.rules) > 1 and together < 0.5:
        words = (
            f"only in {together:.0%} of the batches of {size} rows two tasks or more have labels: a gradient balancer "
            "has nothing to compare in the others. Larger batches, or gradient accumulation, help."
        )
        yield Finding("lone_tasks", "warning", tuple(r.task for r in prepared.rules), words, {"share": together})


def _tasks_together(shares: list[float], batch: int) -> float:
    """Return the chance that at least two tasks have a label in a batch, if labels were missing independently."""
    there = [1 - (1 - share) ** batch for share in shares]
    nobody = math.prod(1 - p for p in there)
    one = sum(p * math.prod(1 - q for j, q in enumerate(there) if j != i) for i, p in enumerate(there))
    return max(0.0, 1 - nobody - one)
