"""Splits: every row in one part, nothing leaks, and the same table gives the same parts."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest
import torch

from lepton.data import SplitRule, read_table
from lepton.errors import ConfigurationError, DataError

N = 400
RNG = np.random.default_rng(0)
COLUMNS: dict[str, Any] = {
    "kind": RNG.choice(["a", "b", "rare"], N, p=[0.5, 0.45, 0.05]).tolist(),
    "flag": [None if i % 10 == 0 else bool(v) for i, v in enumerate(RNG.integers(0, 2, N))],
    "price": RNG.normal(size=N).tolist(),
    "patient": (np.arange(N) // 7).tolist(),
    "day": [(dt.date(1960, 1, 1) + dt.timedelta(days=int(d))).isoformat() for d in RNG.permutation(N)],
    "part": RNG.choice(["train", "valid", "TEST"], N, p=[0.6, 0.2, 0.2]).tolist(),
}
TABLE = read_table(COLUMNS)
TARGETS = ("kind", "flag", "price")
RULES = [
    SplitRule(targets=TARGETS),
    SplitRule("random"),
    SplitRule("group", "patient"),
    SplitRule("time", "day"),
    SplitRule("column", "part"),
    SplitRule(test=0, targets=TARGETS),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.method}-{rule.test}")
def test_every_row_is_in_exactly_one_part_and_always_in_the_same(rule: SplitRule) -> None:
    split = rule.apply(TABLE)
    assert torch.equal(torch.cat(list(split.parts.values())).sort().values, torch.arange(N))
    again = rule.apply(read_table(COLUMNS))
    assert all(torch.equal(again.parts[name], rows) for name, rows in split.parts.items())
    assert again.fingerprint == split.fingerprint


@pytest.mark.parametrize("method", ["stratified", "random"])
def test_sizes_are_as_asked_for_and_the_seed_matters(method: Any) -> None:
    split = SplitRule(method, val=0.2, test=0.1, targets=TARGETS).apply(TABLE)
    assert [len(split.parts[name]) for name in ("train", "val", "test")] == [280, 80, 40]
    other = SplitRule(method, val=0.2, test=0.1, seed=1, targets=TARGETS).apply(TABLE)
    assert not torch.equal(other.parts["val"], split.parts["val"])


def shares(name: str, rows: torch.Tensor) -> dict[Any, float]:
    values = [COLUMNS[name][row] for row in rows.tolist()]
    return {value: values.count(value) for value in set(COLUMNS[name])}


@pytest.mark.parametrize("targets", [("kind", "flag"), ("flag", "kind"), TARGETS])
def test_strata_keep_the_shares_of_every_targets_classes_and_of_missing_labels(targets: tuple[str, ...]) -> None:
    split = SplitRule(val=0.2, test=0.2, targets=targets).apply(TABLE)
    for name in ("kind", "flag"):
        every = shares(name, torch.arange(N))
        for part, fraction in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
            for value, count in shares(name, split.parts[part]).items():
                assert abs(count - fraction * every[value]) <= 2, (name, part, value)
    if "price" in targets:
        prices = np.array(COLUMNS["price"])
        means = [prices[rows.numpy()].mean() for rows in split.parts.values()]
        assert max(means) - min(means) < 0.15


def test_groups_stay_together() -> None:
    parts = SplitRule("group", "patient").apply(TABLE).parts
    patients = [{COLUMNS["patient"][row] for row in rows.tolist()} for rows in parts.values()]
    assert sum(len(found) for found in patients) == len(set(COLUMNS["patient"]))
    few = SplitRule("group", "kind").apply(read_table({"kind": ["a", "b", "c", "d"] * 20}))
    assert [len(few.parts[name]) for name in ("train", "val", "test")] == [40, 20, 20]


@pytest.mark.parametrize("column", ["day", "price"])
def test_time_goes_on(column: str) -> None:
    parts = SplitRule("time", column).apply(TABLE).parts
    values = {name: [COLUMNS[column][row] for row in rows.tolist()] for name, rows in parts.items()}
    assert max(values["train"]) <= min(values["val"])
    assert max(values["val"]) <= min(values["test"])


def test_time_goes_on_in_words_too() -> None:
    iso = SplitRule("time", "day").apply(TABLE)
    for form in ("%d.%m.%Y", "%m/%d/%Y"):
        words = [dt.date.fromisoformat(day).strftime(form) for day in COLUMNS["day"]]
        parts = SplitRule("time", "day").apply(read_table({"day": words})).parts
        assert all(torch.equal(parts[name], rows) for name, rows in iso.parts.items())
    unclear = read_table({"day": ["03/04/2026", "05/06/2026", "04/07/2026"] * 30})
    with pytest.raises(DataError, match="%d/%m/%Y or %m/%d/%Y: nothing tells which"):
        SplitRule("time", "day").apply(unclear)
    assert SplitRule("time", "day", date_format="%d/%m/%Y").apply(unclear).parts["test"].tolist()[-1] == 89


def test_a_column_may_say_it() -> None:
    parts = SplitRule("column", "part").apply(TABLE).parts
    for name, word in (("train", "train"), ("val", "valid"), ("test", "TEST")):
        assert {COLUMNS["part"][row] for row in parts[name].tolist()} == {word}


@pytest.mark.parametrize(
    ("rule", "columns", "words"),
    [
        (SplitRule(), {"a": [1, 2, 3]}, "3 rows are too few.*'test' would be empty"),
        (SplitRule("random"), {"a": [1, 2]}, "2 rows are too few"),
        (SplitRule("time", "a"), {"a": [1, 2]}, "too few"),
        (SplitRule("group", "a"), {"a": [1, 2] * 50}, "2 groups are too few"),
        (SplitRule("time", "a"), {"a": [1, None] * 50}, "must hold a date or a number in every row"),
        (SplitRule("time", "a"), {"a": ["x", "y"] * 50}, "must hold a date or a number in every row"),
        (SplitRule("column", "a"), {"a": ["train", "tset"]}, "holds 'tset'; allowed are"),
        (SplitRule("column", "a"), {"a": ["train", None]}, "holds 'None'; allowed are"),
        (SplitRule("column", "a"), {"a": ["val", "test"]}, "names no row for training"),
        (SplitRule("group", "b"), {"bb": [1, 2]}, "no column 'b'.*Did you mean 'bb'"),
    ],
)
def test_rows_that_cannot_be_divided(rule: SplitRule, columns: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        rule.apply(read_table(columns))


@pytest.mark.parametrize(
    "options",
    [{"method": "grup"}, {"method": "time"}, {"val": -0.1}, {"val": 0.6, "test": 0.5}, {"val": 1.0}, {"seed": -1}],
)
def test_rules_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="split"):
        SplitRule(**options)


def test_another_table_is_noticed() -> None:
    split = SplitRule().apply(TABLE)
    split.check(read_table(COLUMNS), "the table")
    for other in (COLUMNS | {"price": [0.0] * N}, {name: values[:-1] for name, values in COLUMNS.items()}):
        with pytest.raises(DataError, match="is not the table that this run was trained on"):
            split.check(read_table(other), "the table")
