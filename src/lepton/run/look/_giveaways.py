"""Columns that give a target away, and targets that give each other away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lepton.data import InputEncoder, LabelRule
from lepton.insight import bins_of, certain_values, explained_share, ranks
from lepton.run._prepare import Prepared
from lepton.run.look._findings import Finding

__all__ = ["giveaway_findings"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

GIVEN_AWAY = 0.975
MOSTLY = 0.7
MOST_ROWS, MOST_CLASSES, MOST_LABELS = 20_000, 50, 50


def giveaway_findings(prepared: Prepared) -> Iterator[Finding]:
    """Yield the columns that predict a target alone, and the targets that predict each other.

    Text and pictures are not looked at: no table of means can read them.
    """
    if not isinstance(prepared.encoder, InputEncoder):
        return
    columns = _column_bins(prepared)
    targets = {rule.task: _matrices(rule, prepared) for rule in prepared.rules if rule.kind != "segmentation"}
    for rule in prepared.rules:
        for name, bins in columns.items():
            yield from _judged(prepared, name, bins, rule, targets.get(rule.task, []))
    yield from _between(prepared.rules, targets)


def _encoder(prepared: Prepared) -> InputEncoder:
    assert isinstance(prepared.encoder, InputEncoder)
    return prepared.encoder


# -- numbers ------------------------------------------------------------------------------------------------------
def _chosen(prepared: Prepared) -> Ints:
    """Return the training rows that are looked at: all, or a sample of them."""
    rows = len(prepared.data["train"])
    if rows <= MOST_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))


def _column_bins(prepared: Prepared) -> dict[str, list[Ints]]:
    """Return for each column the bins [N] of what it becomes; a date becomes several numbers."""
    inputs = {key: value.numpy()[_chosen(prepared)] for key, value in _inputs(prepared).items()}
    found: dict[str, list[Ints]] = {}
    number = category = 0
    for column in _encoder(prepared).columns:
        if column.kind in ("number", "date"):
            for _ in column.inputs:
                values = inputs["numbers"][:, number].astype(np.float64)
                values[inputs["missing"][:, number] > 0] = np.nan
                found.setdefault(column.name, []).append(bins_of(values))
                number += 1
        elif column.kind == "category":
            found[column.name] = [inputs["categories"][:, category]]
            category += 1
    return found


def _inputs(prepared: Prepared) -> dict[str, Tensor]:
    wanted = ("numbers", "missing", "categories")
    encoded = _encoder(prepared).encode(prepared.tables["train"])
    return {name: encoded[name] for name in wanted if name in encoded}


def _matrices(rule: LabelRule, prepared: Prepared) -> list[tuple[str, Floats]]:
    """Return what of a task is to be predicted: name -> [N] or [N, C], NaN where a label is missing."""
    target = prepared.data["train"].targets[rule.task].numpy()[_chosen(prepared)].astype(np.float64)
    if rule.kind == "classification":
        frequent = np.argsort(-np.bincount(target[target >= 0].astype(np.int64), minlength=2))[:MOST_CLASSES]
        matrix = (target[:, None] == np.sort(frequent)).astype(np.float64)
        matrix[target < 0] = np.nan
        return [(rule.task, matrix)]
    columns = target[:, None] if target.ndim == 1 else target
    names = rule.classes or rule.columns
    found = []
    for name, column in zip(names, columns.T[:MOST_LABELS], strict=False):
        known = ~np.isnan(column)
        ranked = column.copy()
        ranked[known] = ranks(column[known])
        found.append((name if len(names) > 1 else rule.task, ranked))
    return found


def _score(bins: Ints, target: Floats) -> float:
    known = ~np.isnan(target if target.ndim == 1 else target[:, 0])
    if known.sum() < 20:
        return 0.0
    return explained_share(bins[known], target[known])


# -- words --------------------------------------------------------------------------------------------------------
def _judged(
    prepared: Prepared, name: str, bins: Sequence[Ints], rule: LabelRule, targets: Sequence[tuple[str, Floats]]
) -> Iterator[Finding]:
    scores = [(_score(those, target), label) for those in bins for label, target in targets]
    score, label = max(scores, default=(0.0, rule.task))
    what = repr(rule.task) if label == rule.task else f"{label!r} of {rule.task!r}"
    numbers = {"score": score}
    if score >= GIVEN_AWAY:
        words = (
            f"{name!r} alone predicts {what} nearly perfectly ({score:.0%} of its variance, on held-out training "
            f"rows). If it is made from the target or known only afterwards, leave it out: ignore: [{name}]."
        )
        yield Finding("leak", "warning", (name, rule.task), words, numbers)
    elif score >= MOSTLY:
        words = f"{name!r} alone explains {score:.0%} of {what}. That may be right: is it known when you predict?"
        yield Finding("strong_column", "note", (name, rule.task), words, numbers)
    elif rule.kind == "classification":
        yield from _certain(prepared, name, bins[0], rule, targets[0][1])


def _certain(prepared: Prepared, name: str, bins: Ints, rule: LabelRule, classes: Floats) -> Iterator[Finding]:
    """Yield a column of categories of which some values settle a class."""
    values = {c.name: c.values for c in _encoder(prepared).columns if c.kind == "category"}.get(name)
    known = ~np.isnan(classes[:, 0])
    if values is None or classes.shape[1] != len(rule.classes) or not known.any():
        return
    found = {value.bin: value for value in certain_values(bins[known], classes[known]) if value.bin > 0}
    if not found:
        return
    share = sum(value.share for value in found.values())
    shown = "; ".join(
        f"{values[value.bin - 1]} ({value.share:.0%} of the rows): {'always' if value.always else 'never'} "
        f"{rule.classes[value.label]}"
        for value in list(found.values())[:3]
    )
    words = f"{name!r} settles {rule.task!r} for {share:.0%} of the rows: {shown}. Part of the target may be in it."
    yield Finding("partial_leak", "note", (name, rule.task), words, {"share": share})


def _between(rules: Sequence[LabelRule], targets: dict[str, list[tuple[str, Floats]]]) -> Iterator[Finding]:
    plain = {rule.task: targets[rule.task][0][1] for rule in rules if len(targets.get(rule.task, [])) == 1}
    names = list(plain)
    for a, first in enumerate(names):
        for second in names[a + 1 :]:
            one, other = plain[first], plain[second]
            score = max(_score(_target_bins(one), other), _score(_target_bins(other), one))
            if score >= GIVEN_AWAY:
                words = (
                    f"the targets {first!r} and {second!r} nearly determine each other ({score:.0%}). That is allowed, "
                    "but their gain from sharing says little about tasks that differ."
                )
                yield Finding("twin_targets", "note", (first, second), words, {"score": score})


def _target_bins(target: Floats) -> Ints:
    if target.ndim == 1:
        return bins_of(target)
    return np.where(np.isnan(target[:, 0]), 0, 1 + np.nan_to_num(target).argmax(1))
