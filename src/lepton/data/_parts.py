"""How the rows of a table are divided into training, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton.data._arrays import as_numbers, as_words, places, reading
from lepton.data._dates import as_dates
from lepton.data._kinds import describe_columns, find_column
from lepton.errors import ConfigurationError, DataError, require

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PARTS", "Split", "SplitRule", "split_groups", "told_parts"]

PARTS = ("train", "val", "test")
"""The names of the parts."""

_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}

Method = Literal["stratified", "random", "group", "time", "column"]
Words = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, and the fingerprint of the table that they belong to.

    Attributes:
        parts: `"train"`, `"val"`, `"test"` -> sorted row numbers; a part may be missing.
        fingerprint: of the table: a hash of its size, its names and rows spread over it.
        how: the method that drew the parts.
    """

    parts: Mapping[str, Tensor]
    fingerprint: str = ""
    how: str = ""

    def is_of(self, table: pa.Table) -> bool:
        """Return whether a table is the one that was split.

        Args:
            table: the table.
        """
        return fingerprint(table) == self.fingerprint

    def check(self, table: pa.Table, name: str) -> None:
        """Refuse a table that is not the one that was split.

        Args:
            table: the table.
            name: what the message calls it.

        Raises:
            DataError: its fingerprint is another one.
        """
        if self.fingerprint and not self.is_of(table):
            raise DataError(
                f"{name} is not the table that this run was trained on (rows or values differ): its training, "
                "validation and test rows cannot be told apart. Give the rows to use with another file instead."
            )


def fingerprint(table: pa.Table) -> str:
    """Return a hash of the number of rows, the names and up to a thousand rows spread over the table."""
    step = max(1, table.num_rows // 1000)
    sample = table.take(list(range(0, table.num_rows, step)))
    words = json.dumps([table.num_rows, table.column_names, sample.to_pylist()], default=str)
    return hashlib.sha256(words.encode()).hexdigest()


@dataclass(frozen=True)
class SplitRule:
    """How to divide a table.

    Attributes:
        method: how the parts are drawn: `"stratified"`: at random, so that the parts have like shares of the classes
            of all targets, of their missing labels and of the quarters of their numbers; `"random"`; `"group"`: rows
            of equal value in `column` stay together, and so do those without one; `"time"`: the latest rows by `column`
            are the test, those before them the validation; `"column"`: `column` says train, val or test.
        column: see `method`.
        val: share of the rows for validation.
        test: share for the test; 0 for none.
        seed: fixes the draw.
        targets: columns whose shares `"stratified"` keeps alike.
        date_format: what the dates in `column` look like, as `strptime` says it; found out where that is possible.
    """

    method: Method = "stratified"
    column: str | None = None
    val: float = 0.15
    test: float = 0.15
    seed: int = 0
    targets: Sequence[str] = field(default=(), repr=False)
    date_format: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        methods = ("stratified", "random", "group", "time", "column")
        require(self.method in methods, "split", "method", self.method, f"one of {methods}")
        require(0 <= self.val < 1 and 0 <= self.test < 1, "split", "val, test", (self.val, self.test), "in [0, 1)")
        require(self.val + self.test < 1, "split", "val + test", self.val + self.test, "below 1: some rows must train")
        require(self.seed >= 0, "split", "seed", self.seed, "at least 0")
        if self.method in ("group", "time", "column") and self.column is None:
            raise ConfigurationError(f"split: method {self.method!r} needs column=, the column that decides.")

    def apply(self, table: pa.Table) -> Split:
        """Divide the rows of a table.

        Raises:
            DataError: there are too few rows, or the column holds something else.
        """
        if self.method == "column":
            parts = self._by_column(table)
        elif self.method == "time":
            parts = self._by_order(np.argsort(self._times(table), kind="stable"))
        else:
            parts = self._at_random(table)
        return Split(
            {name: torch.as_tensor(np.sort(rows)) for name, rows in parts.items() if len(rows)},
            fingerprint(table),
            self.method,
        )

    # -- methods ----------------------------------------------------------------------------------------------
    def _fractions(self) -> dict[str, float]:
        return {"train": 1 - self.val - self.test, "val": self.val, "test": self.test}

    def _by_column(self, table: pa.Table) -> dict[str, npt.NDArray[np.int64]]:
        assert self.column is not None
        parts = told_parts(table, self.column)
        if not (parts == "train").any():
            raise DataError(f"split column {self.column!r} names no row for training.")
        return {name: np.flatnonzero(parts == name) for name in PARTS}

    def _times(self, table: pa.Table) -> npt.NDArray[np.float64]:
        assert self.column is not None
        column = find_column(table, self.column)
        formats = {self.column: self.date_format} if self.date_format else {}
        (described,) = describe_columns(table.select([self.column]), date_formats=formats)
        with reading(self.column, "a date or a number"):
            dates = described.kind == "date"
            times = as_dates(column, described.date_format) if dates else as_numbers(column)
        if np.isnan(times).any():
            raise DataError(
                f"split column {self.column!r} must hold a date or a number in every row, but it holds {described.why}."
            )
        return times

    def _by_order(self, order: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        test, val = round(self.test * len(order)), round(self.val * len(order))
        end = len(order) - test
        parts = {"train": order[: end - val], "val": order[end - val : end], "test": order[end:]}
        self._refuse_empty({name: len(rows) for name, rows in parts.items()}, len(order))
        return parts

    def _at_random(self, table: pa.Table) -> dict[str, npt.NDArray[np.int64]]:
        n_rows = table.num_rows
        if self.method == "group":
            assert self.column is not None
            words = as_words(find_column(table, self.column)).fill_null("")
            _, units = np.unique(np.asarray(words.to_pylist(), dtype=str), return_inverse=True)
        else:
            units = np.arange(n_rows)
        count = int(units.max()) + 1
        if self.method == "stratified":
            part = _deal(_strata(table, self.targets), self._fractions(), self.seed)
        else:
            part = np.empty(count, dtype=object)
            for name, rows in self._by_order(np.random.default_rng(self.seed).permutation(count)).items():
                part[rows] = name
        parts = {name: np.flatnonzero(part[units] == name) for name in PARTS}
        if self.method == "stratified":
            self._refuse_empty({name: len(rows) for name, rows in parts.items()}, n_rows)
        return parts

    def _refuse_empty(self, sizes: Mapping[str, int], n_rows: int) -> None:
        empty = [name for name, share in self._fractions().items() if share > 0 and sizes.get(name, 0) == 0]
        if empty:
            what = "groups" if self.method == "group" else "rows"
            raise DataError(
                f"{n_rows} {what} are too few for a split into {self._fractions()}: {empty[0]!r} would be empty."
            )


def split_groups(table: pa.Table, groups: Sequence[tuple[Tensor, SplitRule]]) -> Split:
    """Divide the rows of a table, each group by a rule of its own.

    Args:
        table: the table.
        groups: row numbers [M] and the rule that divides these rows.

    Raises:
        DataError: as `SplitRule.apply`.
    """
    parts: dict[str, list[Tensor]] = {}
    for rows, rule in groups:
        for name, own in rule.apply(table.take(rows.numpy())).parts.items():
            parts.setdefault(name, []).append(rows[own])
    found = {name: torch.cat(parts[name]).sort().values for name in PARTS if name in parts}
    return Split(found, fingerprint(table), groups[0][1].method)


def told_parts(table: pa.Table, column: str) -> npt.NDArray[np.str_]:
    """Return the part that a column names for each row [N].

    Raises:
        DataError: it holds something else.
    """
    words = as_words(find_column(table, column))
    found = words.unique().to_pylist()
    strange = sorted({str(word) for word in found if str(word).lower() not in _WORDS})
    if strange:
        raise DataError(f"split column {column!r} holds {strange[0]!r}; allowed are train, val and test.")
    parts = np.array([PARTS.index(_WORDS[word.lower()]) for word in found], dtype=np.int64)
    return np.array(PARTS)[parts[places(words, found)]]


def _strata(table: pa.Table, targets: Sequence[str]) -> Words:
    """Return for each row a word that says which classes, missing labels and quarters of numbers it has."""
    keys: list[list[Any]] = []
    for name in targets:
        column = find_column(table, name)
        words = np.asarray(as_words(column).fill_null("").to_pylist(), dtype=object)
        if len(set(words)) > 20:
            numbers = as_numbers(column)
            if np.isnan(numbers).all():
                continue
            quarters = np.nanquantile(numbers, [0.25, 0.5, 0.75])
            words = np.where(np.isnan(numbers), "", np.searchsorted(quarters, numbers).astype(str))
        keys.append(list(words))
    return np.array(["\0".join(row) for row in zip(*keys, strict=True)] or [""] * table.num_rows, dtype=object)


def _deal(strata: Words, fractions: Mapping[str, float], seed: int) -> Words:
    """Deal the rows out like cards, stratum after stratum: each goes to the part that lacks most of its share."""
    order = np.random.default_rng(seed).permutation(len(strata))
    _, codes = np.unique(strata.astype(str), return_inverse=True)
    order = order[np.argsort(codes[order], kind="stable")]
    names = [name for name, share in fractions.items() if share > 0]
    lacking = dict.fromkeys(names, 0.0)
    dealt = np.empty(len(order), dtype=object)
    for row in order.tolist():
        for name in names:
            lacking[name] += fractions[name]
        part = max(names, key=lacking.__getitem__)
        lacking[part] -= 1
        dealt[row] = part
    return dealt
