"""`check` finds what spoils a comparison, and is silent where nothing does."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from lepton.config import Config
from lepton.run import Finding, Validation, check, make_config

Rows = dict[str, list[Any]]


def config_of(targets: Any, **rest: Any) -> Config:
    data = rest.pop("data", {})
    return make_config(source=None, targets=targets, data=data, rest=rest)


def table(n: int = 600, seed: int = 0) -> Rows:
    """Two targets that depend on the inputs together, but on no column alone."""
    random = np.random.default_rng(seed)
    a, b = random.normal(size=n), random.normal(size=n)
    color = random.choice(["red", "green", "blue"], n)
    churn = np.where(a * b + random.normal(size=n) > 0, "yes", "no")
    return {
        "a": a.tolist(),
        "b": b.tolist(),
        "color": color.tolist(),
        "churn": churn.tolist(),
        "price": (a + b + random.normal(size=n)).tolist(),
    }


def kinds(found: Validation, severity: str | None = None) -> set[str]:
    return {finding.kind for finding in found.findings if severity in (None, finding.severity)}


def only(found: Validation, kind: str) -> Finding:
    (finding,) = [finding for finding in found.findings if finding.kind == kind]
    return finding


def test_a_plain_table_raises_no_alarm() -> None:
    found = check(config_of(["churn", "price"]), table())
    assert kinds(found, "warning") == kinds(found, "error") == set()
    assert not kinds(found) & {"leak", "partial_leak", "strong_column", "duplicates"}
    assert found.passed


@pytest.mark.parametrize("target", ["churn", "price"])
def test_a_copy_of_a_target_is_named_and_a_shuffled_copy_is_not(target: str) -> None:
    rows = table()
    copied = {"yes": "left", "no": "stayed"}
    rows["copy"] = [copied.get(value, value) for value in rows[target]]
    assert only(check(config_of([target]), rows), "leak").about == ("copy", target)
    rows["copy"] = np.random.default_rng(1).permutation(rows["copy"]).tolist()
    assert "leak" not in kinds(check(config_of([target]), rows))


def test_a_monotone_image_of_a_number_gives_it_away() -> None:
    rows = table()
    rows["image"] = np.exp(3 * np.array(rows["price"])).tolist()
    found = only(check(config_of(["price"]), rows), "leak")
    assert found.about == ("image", "price")
    assert found.numbers["score"] > 0.975


def test_an_identifier_is_no_leak_although_it_is_never_wrong_in_training() -> None:
    rows = table()
    rows["customer"] = [f"customer {row}" for row in range(600)]
    rows["almost"] = [f"{row % 580}" + "x" * (row % 3) for row in range(600)]
    rows["remark"] = [f"this is remark number {row} of many" for row in range(600)]
    kinds_told = {"customer": "category", "remark": "text"}
    rows["customer"] = [name.replace(" ", "") for name in rows["customer"]]
    found = check(config_of(["churn", "price"], data={"kinds": kinds_told}), rows)
    assert "leak" not in kinds(found)
    about = [finding.about for finding in found.findings if finding.kind == "identifier"]
    assert ("customer",) in about and ("remark",) not in about


def test_a_value_that_settles_a_class_is_named() -> None:
    rows = table(1500)
    rows["state"] = ["gone" if churn == "yes" and row % 2 else "here" for row, churn in enumerate(rows["churn"])]
    found = only(check(config_of(["churn"]), rows), "partial_leak")
    assert found.about == ("state", "churn")
    assert "always yes" in found.words


def test_rows_in_two_parts_are_counted() -> None:
    rows = table(300)
    doubled = {name: values + values for name, values in rows.items()}
    found = check(config_of(["churn", "price"]), doubled)
    duplicates = [finding for finding in found.findings if finding.kind == "duplicates"]
    assert {finding.about for finding in duplicates} == {("val",), ("test",)}
    for finding in duplicates:
        assert finding.severity == "warning"
        assert finding.numbers["rows"] == finding.numbers["same_labels"]
    test_rows = set(found.prepared.split.parts["test"].tolist())
    train_rows = set(found.prepared.split.parts["train"].tolist())
    expected = sum((row + 300) % 600 in train_rows for row in test_rows)
    assert next(f for f in duplicates if f.about == ("test",)).numbers["rows"] == expected


def test_labels_that_never_meet_forbid_the_view_of_features() -> None:
    rows = table()
    rows["churn"] = [value if row % 2 else None for row, value in enumerate(rows["churn"])]
    rows["price"] = [None if row % 2 else value for row, value in enumerate(rows["price"])]
    found = check(config_of(["churn", "price"], balance={"method": "mgda", "gradients": "features"}), rows)
    assert only(found, "disjoint").severity == "error"
    assert not found.passed
    assert only(check(config_of(["churn", "price"]), rows), "disjoint").severity == "note"


def test_targets_that_determine_each_other_are_said() -> None:
    rows = table()
    rows["expensive"] = [str(value > 0) for value in rows["price"]]
    rows["dear"] = ["dear" if value > 0 else "cheap" for value in rows["price"]]
    found = check(config_of(["expensive", "dear"], data={"ignore": ["price"]}), rows)
    assert only(found, "twin_targets").about == ("expensive", "dear")


def test_columns_and_labels_that_tell_little() -> None:
    rows = table()
    rows["flag"] = [1.5 if row == 7 else 0.5 for row in range(600)]
    rows["seldom"] = [float(row) if row % 3 == 0 else None for row in range(600)]
    rows["rare"] = ["yes" if row % 75 == 0 else "no" for row in range(600)]
    found = check(config_of(["rare"], data={"ignore": ["churn"]}), rows)
    assert only(found, "constant").about == ("flag",)
    assert [f.about for f in found.findings if f.kind == "missing"] == [("seldom",)]
    assert any("98.7%" in f.words or "98.6%" in f.words for f in found.findings if f.kind == "imbalance")


def test_numbers_that_may_be_classes_and_classes_that_may_be_amounts_are_asked_about() -> None:
    def told(target: list[float], kind: str = "auto") -> set[str]:
        found = check(config_of({"y": kind}), {"x": list(np.linspace(0, 1, len(target))), "y": target})
        return kinds(found) & {"numbers_as_classes", "classes_as_numbers"}

    grades, prices = [1, 2, 3, 4, 5, 6], [100, 250, 300, 180, 220, 950]
    assert told(grades * 2) == {"classes_as_numbers"}
    assert told(grades * 6) == told(prices * 6) == {"numbers_as_classes"}
    assert told(grades * 20) == told(prices * 2) == told(grades * 20, "regression") == set()


def test_the_plan_is_that_of_the_training_and_json_can_hold_it() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    config = config_of(["churn", "price"], training={"batch_size": 32, "max_epochs": 3})
    found = check(config, table())
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(found.parts.values()) == 600
    assert found.max_steps == 3 * (found.parts["train"] // 32)
    assert found.tasks[0].labels == found.parts
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["parts"] == found.parts
    assert [finding["kind"] for finding in again["findings"]] == [finding.kind for finding in found.findings]
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(found)
    assert "churn" in console.export_text()


@pytest.mark.parametrize("name", ["wine", "diabetes", "breast_cancer", "iris"])
def test_the_tables_of_scikit_learn_raise_no_alarm_about_leaks(name: str) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    found = check(config_of(["target"]), frame)
    assert kinds(found, "warning") == set()
    assert not kinds(found) & {"leak", "partial_leak"}


def adult() -> Rows:
    place = os.environ.get("LEPTON_DATA")
    if not place or not (Path(place) / "adult" / "adult.data.gz").is_file():
        pytest.skip("needs LEPTON_DATA with the Adult table")
    names = "age workclass fnlwgt education education-num marital-status occupation relationship race sex "
    names += "capital-gain capital-loss hours-per-week native-country income"
    with gzip.open(Path(place) / "adult" / "adult.data.gz", "rt") as file:
        lines = [line.strip().split(", ") for line in file if line.strip()][:8000]
    rows: Rows = {name: [line[place] for line in lines] for place, name in enumerate(names.split())}
    rows["never_married"] = ["yes" if value == "Never-married" else "no" for value in rows["marital-status"]]
    return rows


def test_adult_gives_away_what_it_gives_away_and_nothing_else() -> None:
    found = check(config_of(["income", "never_married", "hours-per-week"]), adult())
    assert [f.about for f in found.findings if f.severity != "note"] == [("marital-status", "never_married")]
    assert only(found, "partial_leak").about == ("relationship", "never_married")
    assert "strong_column" not in kinds(found)
