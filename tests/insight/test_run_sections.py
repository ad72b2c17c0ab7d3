"""A run's report says what its facts say: flags, costs, thin curves, and what is missing."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton.insight import (
    CostFacts,
    DataFacts,
    Flag,
    Interval,
    LabelFacts,
    Matrix,
    MetricInfo,
    Plot,
    Predictions,
    RunFacts,
    SampleFacts,
    Table,
    TaskFacts,
    model_card,
    run_sections,
    write_report,
)
from tests.insight.test_report import EVIL, Page

RANDOM = np.random.default_rng(0)
ACCURACY = (MetricInfo("accuracy", True),)
RMSE = (MetricInfo("rmse", False),)


def classification(name: str, accuracy: float, **more: Any) -> TaskFacts:
    return TaskFacts(
        name, "classification", ("a", "b"), ACCURACY, {"test": {"accuracy": accuracy}}, {"test": 400.0}, **more
    )


def regression(name: str, rmse: float, **more: Any) -> TaskFacts:
    return TaskFacts(name, "regression", (), RMSE, {"test": {"rmse": rmse}}, {"test": 400.0}, **more)


def labels(task: str) -> LabelFacts:
    counts = {"train": (700, 300), "test": (280, 120)}
    return LabelFacts(task, {"train": 1.0, "test": 1.0}, counts=counts)


def facts(*tasks: TaskFacts, history: tuple[Mapping[str, float], ...] = (), **more: Any) -> RunFacts:
    names = [task.name for task in tasks]
    cost = CostFacts(1000, dict.fromkeys(names, 10), 2000, 20 * len(names), 4000 + 40 * len(names), 4000, 5000, 3.0)
    numbers = [name for task, name in zip(tasks, names, strict=True) if task.kind == "regression"]
    found = [
        LabelFacts(n, {"train": 1.0, "test": 1.0}, mean={"train": 0.0, "test": 0.0}, std={"train": 2.0, "test": 2.0})
        if n in numbers
        else labels(n)
        for n in names
    ]
    data = DataFacts({"train": 1000, "test": 400}, "random", (), 0, tuple(found))
    told: dict[str, Any] = {
        "name": "houses", "trunk": "tabular", "method": "equal", "view": "fork_layer", "inputs": {"size": "number"},
        "tasks": tasks, "history": history, "best_epoch": 2.0, "alarms": (), "cost": cost, "data": data,
        "sample": None, "no_sample": "the file is gone.", "environment": {"Lepton": "1", "source": "x.csv"},
        "command": "lepton fit x.csv", "config": "seed: 0\n",
    }  # fmt: skip
    return RunFacts(**{**told, **more})


def blocks(run: RunFacts, kind: type) -> list[Any]:
    found: list[Any] = []

    def look(those: tuple[Any, ...]) -> None:
        for block in those:
            found.extend([block] if isinstance(block, kind) else [])
            look(getattr(block, "blocks", ()))

    look(tuple(block for section in run_sections(run) for block in section.blocks))
    return found


def flag_words(run: RunFacts) -> str:
    return " ".join(flag.text for flag in blocks(run, Flag))


def page_of(run: RunFacts, tmp_path: Path) -> str:
    return write_report(tmp_path / "r.html", run.name, run_sections(run)).read_text(encoding="utf-8")


# -- words ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("accuracy", "flagged"), [(0.69, True), (0.71, True), (0.9, False)])
def test_a_task_at_chance_level_is_flagged(accuracy: float, flagged: bool) -> None:
    assert ("is at chance level" in flag_words(facts(classification("kind", accuracy)))) is flagged


@pytest.mark.parametrize(("rmse", "flagged"), [(2.5, True), (1.99, True), (1.0, False)])
def test_an_error_no_smaller_than_that_of_the_mean_is_flagged(rmse: float, flagged: bool) -> None:
    assert ("is at chance level" in flag_words(facts(regression("price", rmse)))) is flagged


def over(value: float, low: float = math.nan, high: float = math.nan, metric: str = "rmse") -> dict[str, Interval]:
    return {metric: Interval(value, low, high)}


def test_a_task_that_is_worse_than_alone_is_flagged_with_both_numbers() -> None:
    worse = regression("price", 1.5, alone={"test": {"rmse": 1.25}}, over_alone=over(0.25, 0.1, 0.4))
    better = regression("size", 1.0, alone={"test": {"rmse": 1.5}}, over_alone=over(-0.5, -0.6, -0.4))
    found = flag_words(facts(worse, better))
    assert "Worse than in networks of their own: price (RMSE 1.5 against 1.25)" in found
    assert "size" not in found


@pytest.mark.parametrize("interval", [over(0.25, -0.1, 0.6), over(0.25), {}])
def test_a_difference_within_its_interval_or_without_one_is_no_verdict(interval: dict[str, Interval]) -> None:
    task = regression(
        "price",
        1.5,
        alone={"test": {"rmse": 1.25}},
        boosting={"test": {"rmse": 1.2}},
        over_alone=interval,
        over_boosting=interval,
    )
    run = facts(task)
    assert "their own" not in flag_words(run) and "oosting" not in flag_words(run)
    cells = [cell for table in blocks(run, Table) for row in table.rows for cell in row.cells]
    assert not [cell for cell in cells if cell.tone in ("better", "worse")]


@pytest.mark.parametrize(
    ("metric", "interval", "words"),
    [
        ("rmse", over(0.25, 0.1, 0.4), "shared is worse, +0.25 [+0.1, +0.4]"),
        ("rmse", over(-0.25, -0.4, -0.1), "shared is better, -0.25 [-0.4, -0.1]"),
        ("rmse", over(0.25, -0.1, 0.6), "no difference seen, +0.25 [-0.1, +0.6]"),
        ("accuracy", over(0.25, 0.1, 0.4, "accuracy"), "shared is better, +0.25 [+0.1, +0.4]"),
        ("accuracy", over(-0.25, -0.4, -0.1, "accuracy"), "shared is worse, -0.25 [-0.4, -0.1]"),
    ],
)
def test_the_table_judges_by_the_interval(metric: str, interval: dict[str, Interval], words: str) -> None:
    make = regression if metric == "rmse" else classification
    run = facts(make("t", 0.9, alone={"test": {metric: 0.8}}, over_alone=interval))
    remarks = [cell.remark for table in blocks(run, Table) for row in table.rows for cell in row.cells]
    assert words in remarks


def test_boosting_that_is_better_beyond_the_interval_is_named() -> None:
    task = regression("price", 1.5, boosting={"test": {"rmse": 1.25}}, over_boosting=over(0.25, 0.1, 0.4))
    assert "Gradient boosting is better: price (RMSE 1.5 against 1.25)" in flag_words(facts(task))


def test_without_held_out_rows_nothing_is_claimed() -> None:
    task = TaskFacts("price", "regression", (), RMSE, {}, {})
    run = facts(task)
    assert "No row was held out" in flag_words(run) and "chance" not in flag_words(run)
    assert "not measured, because no row was held out" in str(run_sections(run)[0].blocks)


def test_alarms_of_the_training_are_shown() -> None:
    assert "trunk.0 had no gradient" in flag_words(facts(regression("a", 1.0), alarms=("trunk.0 had no gradient.",)))


@pytest.mark.parametrize(
    ("delta", "chance", "words"),
    [
        (Interval(10.0, 4.0, 16.0), (), "delta_m is +10.0 [+4.0, +16.0] % per task over price"),
        (Interval(10.0, 4.0, 16.0), (), "Sharing is better"),
        (Interval(-10.0, -16.0, -4.0), (), "Sharing is worse"),
        (Interval(10.0, -4.0, 16.0), (), "No difference is seen"),
        (Interval(10.0), (), "this is no evidence"),
        (Interval(10.0, 4.0, 16.0), ("price",), "whether sharing helps cannot be said"),
        (None, (), ""),
    ],
)
def test_delta_m_has_an_interval_and_a_verdict(delta: Interval | None, chance: tuple[str, ...], words: str) -> None:
    tasks = (regression("price", 0.9, alone={"test": {"rmse": 1.0}}), regression("size", 1.0))
    run = facts(*tasks, delta_m=delta, at_chance=chance)
    opening = " ".join(block for block in run_sections(run)[0].blocks if isinstance(block, str))
    assert words in opening
    assert ("delta_m" in opening) is (delta is not None and not chance)


# -- costs ---------------------------------------------------------------------------------------------------------
def test_the_account_is_that_of_so_many_trunks(tmp_path: Path) -> None:
    run = facts(*(regression(f"t{i}", 1.0) for i in range(4)))
    (section,) = (section for section in run_sections(run) if section.heading == "Cost")
    rows = {row.name.value: [cell.value for cell in row.cells] for row in section.blocks[0].rows}  # type: ignore[union-attr]
    assert rows["parameters"] == ["1,040", "4,040", "74 %"]
    assert rows["operations for one row"] == ["2,080", "8,080", "74 %"]
    assert rows["checkpoint on disk"] == ["5.0 kB", "17.0 kB", "71 %"]
    assert rows["time of training"][1] == "not measured"


# -- training ------------------------------------------------------------------------------------------------------
def long_history(epochs: int) -> tuple[dict[str, float], ...]:
    keys = ("train/a/loss", "val/a/loss", "train/a/weight", "train/b/weight", "conflict/a/b", "train/grad_norm")
    draws = RANDOM.random((epochs, len(keys)))
    rows = ({"epoch": float(i + 1), **dict(zip(keys, row.tolist(), strict=True))} for i, row in enumerate(draws))
    return tuple(rows)


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    run = facts(regression("a", 1.0), regression("b", 1.0), history=long_history(3000))
    traces = [trace for plot in blocks(run, Plot) for trace in plot.traces]
    assert traces and max(len(trace.x) for trace in traces) <= 500
    assert {(trace.x[0], trace.x[-1]) for trace in traces} == {(1.0, 3000.0)}


def test_conflict_comes_with_its_warning_and_the_last_epochs_matrix() -> None:
    run = facts(regression("a", 1.0), regression("b", 1.0), history=long_history(5))
    (section,) = (section for section in run_sections(run) if section.heading == "Conflict between tasks")
    assert "does not predict generalisation" in str(section.blocks[0])
    (matrix,) = (block for block in section.blocks if isinstance(block, Matrix))
    assert matrix.cells[0][1] == matrix.cells[1][0] == f"{run.history[-1]['conflict/a/b']:.2f}"


def test_without_cosines_the_report_says_how_to_get_them() -> None:
    history = ({"epoch": 1.0, "train/a/loss": 1.0},)
    run = facts(regression("a", 1.0), regression("b", 1.0), history=history)
    (section,) = (section for section in run_sections(run) if section.heading == "Conflict between tasks")
    assert "balance.method=pcgrad" in str(section.blocks[0])


def test_equal_weights_are_words_and_no_plot() -> None:
    history = tuple({"epoch": float(i), "train/a/weight": 1.0, "train/b/weight": 1.0} for i in range(3))
    run = facts(regression("a", 1.0), regression("b", 1.0), history=history)
    (section,) = (section for section in run_sections(run) if section.heading == "Task weights")
    assert section.blocks == ("The method equal gave every task the weight 1 in every epoch.",)


# -- samples -------------------------------------------------------------------------------------------------------
def with_sample(rows: int = 50) -> RunFacts:
    truth = RANDOM.integers(0, 2, rows)
    probability = RANDOM.dirichlet([1, 1], rows)
    kinds = classification("kind", 0.9, predictions=Predictions(truth, probability.argmax(1), probability))
    values = RANDOM.normal(size=rows)
    price = regression("price", 1.0, predictions=Predictions(values, values + RANDOM.normal(size=rows)))
    sample = SampleFacts("test", np.arange(rows), 400, {EVIL: [EVIL] * rows, "size": [1.5] * (rows - 1) + [None]})
    return facts(kinds, price, sample=sample)


def test_the_worst_errors_are_the_most_sure_ones() -> None:
    run = with_sample()
    found = run.tasks[0].predictions
    assert found is not None and found.probability is not None
    wrong = np.flatnonzero(found.truth != found.predicted)
    worst = wrong[np.argmax(found.probability.max(1)[wrong])]
    (section,) = (section for section in run_sections(run) if section.heading == "kind")
    table = section.blocks[-1]
    assert table.rows[0].name.value == f"test row {worst + 1}"  # type: ignore[union-attr]


def test_hostile_words_stay_text(tmp_path: Path) -> None:
    run = dataclasses.replace(with_sample(), name=EVIL, command=EVIL, config=EVIL, inputs={EVIL: "number"})
    text = page_of(run, tmp_path)
    assert text.count("<script") == 1
    page = Page(re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))
    assert not page.all("img")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_what_is_gone_is_said(tmp_path: Path) -> None:
    text = page_of(facts(regression("a", 1.0), data=None), tmp_path)
    assert "the file is gone." in text and "Not recorded: this run was trained by a version" in text


def test_a_thousand_tasks_give_a_page_of_bounded_size_soon(tmp_path: Path) -> None:
    many = tuple(regression(f"task {i}", 1.0 + i / 1000) for i in range(1000))
    keys = [f"{part}/task {i}/loss" for i in range(1000) for part in ("train", "val")]
    history = tuple({"epoch": float(e), **dict.fromkeys(keys, 1.0 / e)} for e in range(1, 40))
    start = time.process_time()
    text = page_of(facts(*many, history=history), tmp_path)
    assert time.process_time() - start < 10
    assert len(text.encode()) < 6_000_000


# -- card ----------------------------------------------------------------------------------------------------------
def test_the_cards_front_matter_is_yaml_with_the_results() -> None:
    yaml = pytest.importorskip("yaml")
    evil = "a: b\n---\n# " + EVIL
    card = model_card(facts(classification(evil, 0.875), name=evil))
    front = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    (result,) = front["model-index"][0]["results"]
    assert (front["model-index"][0]["name"], result["task"]["name"]) == (evil, evil)
    assert result["metrics"] == [{"type": "accuracy", "value": 0.875}]
    assert front["pipeline_tag"] == "tabular-classification"


def test_nothing_in_a_card_is_markup_of_a_user() -> None:
    card = model_card(facts(classification(EVIL, 0.9), inputs={EVIL: "number"}))
    body = card.split("\n---\n", 1)[1]
    assert "<script" not in body and "<img" not in body
    assert json.dumps(EVIL) in card.split("\n---\n", 1)[0]


def test_a_card_says_what_is_predicted_how_well_and_how_to_use_it() -> None:
    card = model_card(facts(classification("kind", 0.9), regression("price", 1.0)))
    for words in (
        "| kind | classification | a, b |",
        "0.9",
        "size (number)",
        "lepton.load",
        "lepton fit x.csv",
        "1,000 training",
    ):
        assert words in card
