"""`run_baselines`: the same budget alone, trees on the raw columns, and an honest difference."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as csv
import pytest
import torch
from rich.console import Console

import lepton
from lepton.data import InputEncoder, LabelRule, describe_columns, read_table
from lepton.errors import DataError
from lepton.insight import delta_m
from lepton.run import Run, run_baselines
from lepton.run.baselines import _baselines as baseline_module
from lepton.run.baselines._boosting import BoostedTrees, boosting_columns

TRUNK = {"type": "tabular", "width": 16, "depth": 1, "embedding": 4}


def table(n: int = 400) -> dict[str, list[Any]]:
    """Two numbers made of the same hidden one, and a coin that nothing tells."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=n), random.normal(size=n)
    hidden = a + b
    return {
        "a": [None if row % 10 == 0 else value for row, value in enumerate(a.tolist())],
        "b": b.tolist(),
        "city": random.choice(["Ulm", "Bonn"], n).tolist(),
        "sum": (hidden + 0.1 * random.normal(size=n)).tolist(),
        "sign": np.where(hidden > 0, "up", "down").tolist(),
        "coin": random.choice(["heads", "tails"], n).tolist(),
    }


def trained(folder: Path, targets: Any = ("sum", "sign", "coin"), **options: Any) -> Run:
    training = {"max_epochs": 2, "batch_size": 32, "learning_rate": 1e-2, **options.pop("training", {})}
    return lepton.fit(
        table(), list(targets), trunk=TRUNK, training=training, folder=folder / "run", quiet=True, **options
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("runs"), balance="mgda")


@pytest.fixture(scope="module")
def found(run: Run) -> baseline_module.Baselines:
    pytest.importorskip("sklearn")
    return run_baselines(run, source=table(), resamples=25, seeds=2, quiet=True)


def test_alone_has_the_budget_of_the_run(run: Run, found: baseline_module.Baselines) -> None:
    assert set(found.alone) == {"sum", "sign", "coin"}
    for score in found.alone.values():
        assert [seed.seed for seed in score.seeds] == [0, 1]
        assert all(seed.steps == run.history[-1]["step"] for seed in score.seeds)
        assert score.parameters < sum(found.shared.parameters.values())


def test_the_run_is_scored_as_it_scored_itself(run: Run, found: baseline_module.Baselines) -> None:
    for part in ("val", "test"):
        for task, result in run.results[part].items():
            assert found.shared.scores[part][task] == pytest.approx(result.metrics, rel=1e-5)


def test_the_file_holds_what_was_found_and_json_returns_it(run: Run, found: baseline_module.Baselines) -> None:
    content = json.loads((run.folder / "baselines.json").read_text())
    assert set(content) == {"alone", "boosting", "gains"}
    assert found.gains is not None and content["gains"]["part"] == found.part
    for key, difference in found.gains.differences.items():
        assert content["gains"]["differences"][key] == pytest.approx(vars(difference), nan_ok=True)
    assert content["gains"]["at_chance"] == list(found.gains.at_chance)
    for kind, scores in (("alone", found.alone), ("boosting", found.boosting)):
        for task, score in scores.items():
            entry = content[kind][task]
            assert entry["test"] == pytest.approx(score.mean("test"))
            assert set(entry) == {"val", "test", "parameters", "seconds", "seeds"}
            assert len(entry["seeds"]) == 2
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["alone"] == content["alone"]


def test_differences_and_delta_m_are_those_of_the_scores(found: baseline_module.Baselines) -> None:
    gains = found.gains
    assert gains is not None
    alone = {task: score.mean("test") for task, score in found.alone.items()}
    for task, metrics in found.metrics.items():
        for metric in metrics:
            expected = found.shared.scores["test"][task][metric.name] - alone[task][metric.name]
            seen = gains.differences[f"shared/{task}/{metric.name}"]
            assert seen.value == pytest.approx(expected, abs=1e-5)
            assert seen.low <= seen.high
            trees = gains.differences.get(f"boosting/{task}/{metric.name}")
            if trees is not None:  # both are over the task alone, so their difference is the run over the trees
                over = gains.differences[f"shared_over_boosting/{task}/{metric.name}"]
                assert over.value == pytest.approx(seen.value - trees.value, abs=1e-6)
    expected_delta = delta_m(found.shared.scores["test"], alone, found.metrics)
    assert gains.delta_m["shared/per_task"].value == pytest.approx(expected_delta.per_task, rel=1e-3)
    assert gains.delta_m["shared/flat"].value == pytest.approx(expected_delta.flat, rel=1e-3)


def test_a_task_that_nothing_tells_is_at_chance_and_the_others_are_not(found: baseline_module.Baselines) -> None:
    assert found.gains is not None
    assert found.gains.at_chance == ("coin",)
    assert "shared/per_task_above_chance" in found.gains.delta_m


def test_trees_learn_what_the_columns_tell(found: baseline_module.Baselines) -> None:
    assert set(found.boosting) == {"sum", "sign", "coin"}
    assert found.boosting["sum"].mean("test")["r2"] > 0.6
    assert found.boosting["sign"].mean("test")["accuracy"] > 0.8


def test_the_comparison_pairs_the_seed_of_the_run(found: baseline_module.Baselines) -> None:
    comparison = found.comparison()
    assert comparison.methods[0].seeds == (0,)
    assert comparison.methods[1].seeds == (0, 1)
    cell = comparison.cell("shared", "sum", "r2")
    assert cell.baseline.n == 2
    assert cell.difference.mean == pytest.approx(cell.score.mean - found.alone["sum"].seeds[0].test["r2"])


def test_the_terminal_shows_tasks_and_chance(found: baseline_module.Baselines) -> None:
    with open(os.devnull, "w") as nowhere:
        console = Console(width=110, record=True, file=nowhere)
        console.print(found)
    text = console.export_text()
    assert "delta_m % per task" in text and "boosted trees" in text
    assert "At chance alone" in text


def test_baselines_move_neither_the_run_nor_random_numbers(tmp_path: Path) -> None:
    run = trained(tmp_path, ["sum", "sign"])
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    state = torch.get_rng_state()
    found = run_baselines(run, source=table(), boosting=False, resamples=20, quiet=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.boosting == {}
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_one_task_alone_is_the_run_itself(tmp_path: Path) -> None:
    """A run of a single task and its baseline are the same training, from the same weights in the same order."""
    run = trained(tmp_path, ["sum"])
    found = run_baselines(run, source=table(), boosting=False, resamples=20, quiet=True)
    assert found.alone["sum"].mean("test") == pytest.approx(found.shared.scores["test"]["sum"], rel=1e-5)


def test_an_interrupt_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, ["sum", "sign"])
    whole = baseline_module.train_alone

    def interrupted(prepared: Any, task: str, *arguments: Any, **options: Any) -> Any:
        if task == "sign":
            raise KeyboardInterrupt
        return whole(prepared, task, *arguments, **options)

    monkeypatch.setattr(baseline_module, "train_alone", interrupted)
    found = run_baselines(run, source=table(), boosting=False, resamples=20, quiet=True)
    assert found.interrupted
    assert set(found.alone) == set(json.loads((run.folder / "baselines.json").read_text())["alone"]) == {"sum"}
    assert found.gains is not None and "shared/sum/rmse" in found.gains.differences
    monkeypatch.undo()
    run_baselines(run, source=table(), boosting=False, resamples=20, quiet=True)
    assert set(json.loads((run.folder / "baselines.json").read_text())["alone"]) == {"sum", "sign"}


def test_other_rows_are_refused(run: Run) -> None:
    with pytest.raises(DataError, match="is not the table"):
        run_baselines(run, source=table(399), boosting=False, quiet=True)


def test_a_run_without_held_out_rows_has_nothing_to_compare(tmp_path: Path) -> None:
    run = trained(tmp_path, ["sum"], split={"val": 0.0, "test": 0.0})
    with pytest.raises(DataError, match="neither test nor validation"):
        run_baselines(run, source=table(), boosting=False, quiet=True)


def test_a_loaded_run_finds_its_rows_and_a_further_call_gives_the_same(tmp_path: Path) -> None:
    source = tmp_path / "table.csv"
    csv.write_csv(read_table(table(200)), source)
    options = {"training": {"max_epochs": 1}, "trunk": TRUNK, "split": {"test": 0.0}}
    run = lepton.fit(source, ["sum", "sign"], folder=tmp_path / "run", quiet=True, **options)
    once = run_baselines(run, boosting=False, resamples=20, quiet=True)
    again = run_baselines(lepton.load(run.folder), boosting=False, resamples=20, quiet=True)
    assert once.part == again.part == "val"
    assert once.gains == again.gains


# -- trees --------------------------------------------------------------------------------------------------------
def test_trees_read_numbers_as_they_stand_and_missing_as_missing() -> None:
    rows = read_table(table())
    columns = [column for column in describe_columns(rows) if column.name in ("a", "b", "city")]
    read, categorical = boosting_columns(InputEncoder.fit(rows, columns), rows)
    assert categorical == [False, False, True]
    assert np.isnan(read[:, 0]).sum() == 40
    assert np.array_equal(read[:, 1], np.array(table()["b"]))
    assert set(read[:, 2]) == {0.0, 1.0}


def test_trees_give_what_a_head_gives() -> None:
    pytest.importorskip("sklearn")
    columns = np.random.default_rng(0).normal(size=(120, 2))
    labels = torch.from_numpy((columns[:, 0] > 0).astype(np.int64))
    labels[:5] = -100
    rule = LabelRule("kind", "classification", ("kind",), ("no", "yes", "never"))
    logits = BoostedTrees(rule, [False, False], 0).fit(columns, labels).outputs(columns)
    assert logits.shape == (120, 3)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(120))
    assert (logits.argmax(1)[5:] == labels[5:]).float().mean() > 0.95
    several = torch.stack([labels.clamp(min=0).float(), torch.ones(120)], 1)
    rule = LabelRule("tags", "multi_label", ("x", "y"), ("x", "y"))
    logits = BoostedTrees(rule, [False, False], 0).fit(columns, several).outputs(columns)
    assert logits.shape == (120, 2)
    assert (logits[:, 1] > 0).all()
