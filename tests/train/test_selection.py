"""What is monitored: modes, delta_m, the best weights of each task."""

from __future__ import annotations

import pytest
import torch

import lepton
from lepton.balance import MGDA
from lepton.data import TensorData, TensorLoader
from lepton.errors import ConfigurationError
from lepton.evaluate import evaluate
from lepton.insight import MetricInfo, delta_m
from lepton.tasks import Regression
from lepton.train import Trainer, load_weights
from tests.conftest import make_model, trunk
from tests.train.conftest import loader, rows, trainer


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("val/digit/accuracy", "max"),
        ("val/digit/loss", "min"),
        ("val/slant/rmse", "min"),
        ("val/slant/r2", "max"),
        ("val/relative_loss", "min"),
    ],
)
def test_the_mode_is_what_the_metric_says(monitor: str, mode: str) -> None:
    assert trainer(monitor=monitor).selection.mode == mode
    assert trainer(monitor=monitor, mode="min").selection.mode == "min"


def test_the_best_accuracy_is_the_highest() -> None:
    run = trainer(MGDA(), monitor="val/digit/accuracy", max_epochs=5, learning_rate=0.1)
    state = run.fit(loader(), loader(48, seed=1))
    assert state.best_value == max(row["val/digit/accuracy"] for row in state.history)
    assert evaluate(run.model, loader(48, seed=1))["digit"].metrics["accuracy"] == pytest.approx(state.best_value)


BASELINES = {"digit/accuracy": 0.6, "digit/f1_macro": 0.5, "slant/rmse": 2.0, "width/mae": 1.0}


def test_delta_m_is_that_of_the_comparison() -> None:
    run = trainer(baselines=BASELINES, monitor="val/delta_m", max_epochs=3, learning_rate=0.05)
    state = run.fit(loader(), loader(48, seed=1))
    for row in state.history:
        info: dict[str, list[MetricInfo]] = {}
        scores: dict[str, dict[str, float]] = {}
        alone: dict[str, dict[str, float]] = {}
        for key, value in BASELINES.items():
            task, metric = key.split("/")
            info.setdefault(task, []).append(MetricInfo(metric, run.model.task(task).higher_is_better[metric]))
            scores.setdefault(task, {})[metric] = row[f"val/{key}"]
            alone.setdefault(task, {})[metric] = value
        assert row["val/delta_m"] == pytest.approx(delta_m(scores, alone, info).per_task)
    assert state.best_value == max(row["val/delta_m"] for row in state.history)


def test_a_baseline_of_zero_has_no_relative_improvement() -> None:
    state = trainer(baselines={"slant/r2": 0.0, "digit/accuracy": 0.5}, max_epochs=1).fit(loader(), loader(48, seed=1))
    row = state.history[0]
    assert row["val/delta_m"] == pytest.approx(100 * (row["val/digit/accuracy"] - 0.5) / 0.5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"baselines": {"digit/acuracy": 0.5}}, "Did you mean 'digit/accuracy'"),
        ({"baselines": {"digit/accuracy": float("nan")}}, "must be a finite number"),
        ({"save_best_per_task": True}, "folder must be given"),
        ({"checkpoint_every": 3}, "folder must be given"),
    ],
)
def test_options_that_cannot_be_served(options, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        trainer(**options)


def test_delta_m_needs_baselines() -> None:
    with pytest.raises(ConfigurationError, match="pass their scores as baselines"):
        trainer(monitor="val/delta_m", max_epochs=1).fit(loader(), loader())


def test_a_baseline_of_an_auxiliary_task_is_refused() -> None:
    torch.manual_seed(0)
    model = lepton.LeptonModel(trunk(), [Regression("slant", auxiliary=True), Regression("width", outputs=2)])
    with pytest.raises(ConfigurationError, match="'slant' is auxiliary"):
        Trainer(model, baselines={"slant/rmse": 1.0})


def test_every_task_keeps_its_own_best_weights(tmp_path) -> None:
    run = trainer(folder=tmp_path, save_best_per_task=True, max_epochs=6, learning_rate=0.1)
    state = run.fit(loader(), loader(48, seed=1))
    columns = {name: run.model.task(name).primary_metric for name in run.model.task_names}
    for name, metric in columns.items():
        better = max if run.model.task(name).higher_is_better[metric] else min
        best = better(row[f"val/{name}/{metric}"] for row in state.history)
        model = make_model(heads="mixed", seed=5)
        load_weights(tmp_path / "checkpoints" / f"best-{name}", model)
        found = evaluate(model, loader(48, seed=1))[name].metrics[metric]
        assert found == pytest.approx(best, rel=1e-5) == pytest.approx(state.best_by_task[name], rel=1e-5)


def test_names_of_tasks_that_are_no_names_of_folders(tmp_path) -> None:
    torch.manual_seed(0)
    model = lepton.LeptonModel(trunk(), [Regression("a/b"), Regression("..x".replace(".", "-"))])
    data = TensorData(rows().inputs, {name: rows().targets["slant"] for name in model.task_names})
    batches = TensorLoader(data, 16)
    Trainer(model, folder=tmp_path, save_best_per_task=True, max_epochs=1).fit(batches, batches)
    assert (tmp_path / "checkpoints" / "best-a%2Fb" / "model.safetensors").exists()
