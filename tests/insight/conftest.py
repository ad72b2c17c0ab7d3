"""A synthetic comparison: four tasks, four methods, three seeds; left and right lose, the sum gains."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lepton.insight import Comparison, MetricInfo, RunResult, TaskScore

METRICS = {
    "left": [MetricInfo("accuracy", True, chance=0.11)],
    "right": [MetricInfo("accuracy", True, chance=0.11)],
    "pixels": [MetricInfo("mean_iou", True, chance=0.22), MetricInfo("pixel_accuracy", True, chance=0.66)],
    "sum": [MetricInfo("mae", False, chance=3.4)],
}
ALONE = {"left": [0.962], "right": [0.951], "pixels": [0.842, 0.935], "sum": [1.31]}
SHIFT = {
    "equal weighting": {"left": -0.060, "right": -0.041, "pixels": 0.001, "sum": -0.28},
    "log-sum": {"left": -0.009, "right": -0.012, "pixels": -0.013, "sum": -0.10},
    "tuned fixed weights": {"left": -0.004, "right": 0.002, "pixels": 0.012, "sum": -0.17},
    "UPGrad": {"left": -0.055, "right": -0.040, "pixels": -0.002, "sum": -0.31},
}


def scores(shift: dict[str, float], rng: np.random.Generator) -> dict[str, TaskScore]:
    noise = {"left": 0.004, "right": 0.004, "pixels": 0.003, "sum": 0.04}
    return {
        task: TaskScore(
            {
                metric.name: value + shift.get(task, 0.0) + noise[task] * rng.standard_normal()
                for metric, value in zip(METRICS[task], ALONE[task], strict=True)
            },
            n_labels=250,
        )
        for task in METRICS
    }


def history(tasks: list[str], rng: np.random.Generator, steps: int = 300) -> list[dict[str, float]]:
    rows = []
    for step in range(0, steps, 2):
        row: dict[str, float] = {"step": step, "epoch": step // 60}
        for i, task in enumerate(tasks):
            row[f"train/{task}/loss"] = (1 + i) * math.exp(-step / 90) + 0.1 + 0.05 * rng.standard_normal()
            row[f"train/{task}/weight"] = math.exp(0.4 * i * math.sin(step / 80)) + 0.05 * rng.random()
            if step % 30 == 0:
                name = METRICS[task][0].name
                row[f"val/{task}/{name}"] = 1 - math.exp(-step / (60 + 10 * i)) + 0.01 * rng.standard_normal()
            for other in tasks[:i]:
                row[f"conflict/{other}/{task}"] = 0.5 * math.cos(i + len(other)) + 0.2 * rng.standard_normal()
        rows.append(row)
    return rows


def make_results(seeds: int = 3) -> list[RunResult]:
    runs = []
    for m, (method, shift) in enumerate(SHIFT.items()):
        for seed in range(seeds):
            rng = np.random.default_rng([m, seed])
            size = {"shared": 61_000, "private": 9_400, "total": 70_400}
            time = 0.0121 * (1 + 0.04 * m) + 1e-4 * rng.standard_normal()
            runs.append(
                RunResult(method, seed, scores(shift, rng), history(list(METRICS), rng), time, 300 * time, size)
            )
    return runs


def make_baselines(seeds: int = 3) -> list[RunResult]:
    runs = []
    for seed in range(seeds):
        rng = np.random.default_rng([99, seed])
        for task, score in scores({}, rng).items():
            size = {"shared": 0, "private": 63_000, "total": 63_000}
            rows = [{k: v for k, v in r.items() if "conflict" not in k} for r in history([task], rng)]
            runs.append(RunResult("each alone", seed, {task: score}, rows, 0.0085, 2.55, size))
    return runs


@pytest.fixture(scope="session")
def results() -> list[RunResult]:
    return make_results()


@pytest.fixture(scope="session")
def baselines() -> list[RunResult]:
    return make_baselines()


@pytest.fixture(scope="session")
def comparison(results: list[RunResult], baselines: list[RunResult]) -> Comparison:
    return Comparison.of(results, baselines, METRICS)
