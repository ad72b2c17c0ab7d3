"""`compress_run`: folders that predict, metrics of what is shipped, and what is said of it."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lepton
from lepton.compress import Cost, Latency
from lepton.errors import ConfigurationError, DataError, MissingExtraError
from lepton.export import ExportedModel
from lepton.insight import MetricInfo
from lepton.run import Run, compress_run, distilled_run, load
from lepton.run.compress import Compressed, Form

pytest.importorskip("onnxscript")
N = 240


def rows(seed: int = 0) -> dict[str, list[Any]]:
    numbers = np.random.default_rng(seed)
    a, b = numbers.normal(size=(2, N))
    town = numbers.choice(["Rome", "Oslo", "Bern"], N)
    noise = numbers.normal(size=N)
    return {
        "a": a.tolist(),
        "b": b.tolist(),
        "town": town.tolist(),
        "size": (50 + 10 * a + 5 * (town == "Rome") + noise).tolist(),
        "kind": np.where(a + b > 0, "flat", "house").tolist(),
        "sun": (a > 0.3 * noise).astype(int).tolist(),
        "rain": (b > 0.3 * noise).astype(int).tolist(),
    }


TARGETS = {
    "size": "regression",
    "kind": "classification",
    "weather": {"type": "multi_label", "columns": ["sun", "rain"]},
}


def write(place: Path) -> Path:
    import pandas as pd

    path = place / "rows.csv"
    pd.DataFrame(rows()).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("run")
    training = {"max_epochs": 12, "learning_rate": 1e-2}
    trunk = {"type": "tabular", "width": 48, "depth": 2}
    return lepton.fit(write(place), TARGETS, trunk=trunk, training=training, folder=place / "run", quiet=True)


@pytest.fixture(scope="module")
def found(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Compressed:
    return compress_run(
        run,
        tmp_path_factory.mktemp("out") / "small",
        prune=[0.5],
        distil=["trunk.width=8"],
        bf16=True,
        epochs=2,
        batch_sizes=(1, 8),
        seconds=0.02,
        quiet=True,
    )


def exported(found: Compressed) -> list[Form]:
    return [form for form in found.forms if form.name not in ("original", "bf16")]


def test_every_form_is_a_folder_that_predicts(found: Compressed, run: Run) -> None:
    models = ["fp32", "pruned-0.5", "distilled-width-8", "alone-width-8"]
    small = ["int8", "pruned-0.5-int8", "distilled-width-8-int8", "alone-width-8-int8"]
    pairs = [name for pair in zip(models, small, strict=True) for name in pair]
    assert [form.name for form in found.forms] == ["original", *pairs[:2], "bf16", *pairs[2:]]
    for form in exported(found):
        assert form.folder is not None
        assert form.folder.parent == found.folder
        predicted = ExportedModel(form.folder).predict(rows())
        assert list(predicted.columns) == list(run.predict(rows()).columns)
        assert form.cost.bytes == (form.folder / "model.onnx").stat().st_size
        assert sorted(form.cost.latency) == [1, 8]
    for runs in ("pruned-0.5", "distilled-width-8/taught", "distilled-width-8/alone"):
        assert load(found.folder / "runs" / runs).tasks == run.tasks


def test_scores_are_those_of_what_the_folder_says(found: Compressed, run: Run) -> None:
    """Computed again from its predictions, without any metric of ours."""
    table = run.tables()["test"]
    for form in exported(found):
        predicted = ExportedModel(form.folder or "").predict(table.to_pandas())
        scores, frame = form.scores["test"], table.to_pandas()
        assert scores["kind"]["accuracy"] == pytest.approx((predicted["kind"] == frame["kind"]).mean())
        wrong = predicted["size"] - frame["size"]
        assert scores["size"]["rmse"] == pytest.approx(math.sqrt((wrong**2).mean()), rel=1e-4)
        spread = frame["size"] - frame["size"].mean()
        assert scores["size"]["r2"] == pytest.approx(1 - (wrong**2).sum() / (spread**2).sum(), rel=1e-3)


def test_the_run_and_its_export_score_alike(found: Compressed, run: Run) -> None:
    for task, result in run.evaluate(part="test").items():
        for metric, value in found.form("fp32").scores["test"][task].items():
            assert value == pytest.approx(result.metrics[metric], abs=2e-3), (task, metric)
            assert found.original.scores["test"][task][metric] == pytest.approx(result.metrics[metric], abs=1e-6)


def test_bfloat16_is_measured_in_torch_and_exported_nowhere(found: Compressed) -> None:
    form = found.form("bf16")
    assert form.folder is None
    assert form.cost.bytes is not None
    assert form.cost.bytes < 0.75 * (found.original.cost.bytes or 0)
    assert form.scores["test"].keys() == found.original.scores["test"].keys()
    assert 0 < abs(form.scores["test"]["size"]["rmse"] / found.original.scores["test"]["size"]["rmse"] - 1) < 0.1
    assert found.smallest is not form


def test_what_is_written_holds_what_was_found(found: Compressed) -> None:
    content = json.loads((found.folder / "results.json").read_text())
    assert list(content["forms"]) == [form.name for form in found.forms]
    assert content["judged_on"] == "val"
    assert content["part"] == "test"
    assert content["forms"]["int8"]["cost"]["latency"]["1"]["calls"] >= 20
    assert content["forms"]["int8"]["lost"] == pytest.approx(found.lost(found.form("int8")))
    assert len(content["distilled"][0]["students"]) == 1
    page = (found.folder / "README.md").read_text()
    assert all(f"| {form.name} |" in page for form in found.forms)
    assert "one thread of" in page
    assert "one training each, so that chance is in it" in page
    assert (found.folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_student_and_control_differ_by_the_teacher_alone(found: Compressed) -> None:
    (pair,) = found.distilled
    assert pair.run.config == pair.control.config
    assert pair.run.config.trunk.width == 8
    assert [row["step"] for row in pair.run.history] == [row["step"] for row in pair.control.history]
    taught, alone = (each.model.state_dict() for each in (pair.run, pair.control))
    assert taught.keys() == alone.keys()
    assert any(not torch.equal(taught[name], alone[name]) for name in taught)


# -- what is said -------------------------------------------------------------------------------------------------
def form(name: str, size: int, accuracy: float, error: float, milliseconds: float, folder: bool = True) -> Form:
    cost = Cost(size, {1: Latency(milliseconds, milliseconds, 1000 / milliseconds, 20)}, 1)
    scores = {"kind": {"accuracy": accuracy}, "age": {"rmse": error}}
    return Form(name, "", cost, {"val": scores, "test": scores}, Path(name) if folder else None)


def compressed(*forms: Form) -> Compressed:
    metrics = {"kind": MetricInfo("accuracy", True), "age": MetricInfo("rmse", False)}
    original = form("original", 1000, 0.9, 2.0, 1.0, folder=False)
    return Compressed(Path("x"), "x", (original, *forms), metrics, "test", "val", (1,), "one thread of a machine")


def test_the_smallest_that_loses_little_is_chosen() -> None:
    good, small, tiny = (
        form("good", 500, 0.9, 2.0, 0.5),
        form("small", 250, 0.8901, 2.0, 2.0),
        form("tiny", 9, 0.5, 2, 1),
    )
    found = compressed(good, small, tiny)
    assert found.smallest is small
    assert found.lost(small) == pytest.approx({"kind": 0.99, "age": 0.0})
    assert dataclasses.replace(found, limit=0.5).smallest is good
    assert "2.0 times slower at batch 1" in found.sentences()[0]
    assert "4.0 times smaller" in found.sentences()[0]
    assert found.sentences()[1] == "Slower than the original here: small, batch 1: 2 ms instead of 1."
    assert "2.0 times faster at batch 1" in dataclasses.replace(found, limit=0.5).sentences()[0]


def test_it_is_chosen_by_validation_rows() -> None:
    better_on_test = form("lucky", 100, 0.9, 2.0, 1.0)
    bad = {"kind": {"accuracy": 0.5}, "age": {"rmse": 2.0}}
    lucky = dataclasses.replace(better_on_test, scores={**better_on_test.scores, "val": bad})
    assert compressed(lucky).smallest is None
    assert "No form is smaller" in compressed(lucky).sentences()[0]


def test_percent_are_lost_of_what_is_no_share() -> None:
    assert compressed(form("a", 1, 0.9, 2.02, 1.0)).lost(form("a", 1, 0.9, 2.02, 1.0))["age"] == pytest.approx(1.0)
    assert compressed(form("larger", 2000, 0.9, 2.0, 1.0)).smallest is None


def test_many_tasks_are_told_by_the_worst() -> None:
    names = [f"t{number}" for number in range(6)]
    original = form("original", 1000, 0.9, 2.0, 1.0, folder=False)
    scores = [{name: {"accuracy": value} for name in names} for value in (0.9, 0.8)]
    scores[1]["t3"]["accuracy"] = 0.5
    forms = tuple(
        dataclasses.replace(original, name=name, scores={"test": found, "val": found})
        for name, found in zip(("original", "int8"), scores, strict=True)
    )
    metrics = {name: MetricInfo("accuracy", True) for name in names}
    found = dataclasses.replace(compressed(), forms=forms, metrics=metrics)
    assert found.scores()[2] == ["int8", "t3", "+40.00", "+15.00"]


# -- refusals -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ratio", [0, 1, 1.5, -0.2, float("nan")])
def test_ratios_that_are_no_share_are_refused(run: Run, ratio: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="compress: prune must be a share of the parameters between 0 and 1"):
        compress_run(run, tmp_path / "new", prune=[ratio], quiet=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ("training.max_epochs=1", "options of the trunk, such as trunk.width=64, but 'training.max_epochs=1' is none"),
        ("", "but none is given"),
        ("trunk.widht=8", "widht"),
    ],
)
def test_students_that_are_none_are_refused(run: Run, student: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=words):
        compress_run(run, tmp_path / "new", distil=[student], quiet=True)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ConfigurationError, match="is there already: choose another folder"):
        compress_run(run, tmp_path, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_rows_in_memory_are_gone(tmp_path: Path) -> None:
    lepton.fit(rows(), ["kind"], training={"max_epochs": 1}, folder=tmp_path / "run", quiet=True)
    loaded = load(tmp_path / "run")
    with pytest.raises(ConfigurationError, match=r"measured on real rows: .*Or give rows"):
        compress_run(loaded, quiet=True)
    with pytest.raises(ConfigurationError, match="were in memory and are gone"):
        compress_run(loaded, prune=[0.5], rows=rows(), quiet=True)
    with pytest.raises(DataError, match="kind"):
        compress_run(loaded, rows={"a": [1.0]}, quiet=True)
    found = compress_run(loaded, rows=rows(1), batch_sizes=(1,), seconds=0.02, int8=False, quiet=True)
    assert found.folder == tmp_path / "run" / "compressed"
    assert found.part == found.judged_on == "rows"
    assert [form.name for form in found.forms] == ["original", "fp32"]


def test_a_missing_extra_is_named_before_anything_is_trained(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingExtraError, match=r"lepton\[compress\]|compress"):
        compress_run(run, tmp_path / "new", prune=[0.5], quiet=True)
    assert not (tmp_path / "new").exists()


def test_without_matplotlib_there_is_no_picture_and_everything_else(
    found: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    dataclasses.replace(found, folder=tmp_path).write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "results.json"]
    assert "sweep.png" not in (tmp_path / "README.md").read_text()


# -- several teachers ---------------------------------------------------------------------------------------------
def test_single_task_runs_teach_one_student(tmp_path: Path) -> None:
    source, inputs = write(tmp_path), {"a": "number", "b": "number", "town": "category"}
    training = {"max_epochs": 2}
    split = {"method": "random"}
    options = {"inputs": inputs, "training": training, "split": split, "quiet": True}
    runs = [lepton.fit(source, [task], folder=tmp_path / task, **options) for task in ("size", "kind")]
    found = distilled_run(runs, ["trunk.width=8"], tmp_path / "small", epochs=1, seeds=2, quiet=True)
    assert found.run.tasks == ["size", "kind"]
    assert [run.folder.name for run in found.controls] == ["alone-0", "alone-1"]
    assert [run.config.seed for run in found.students] == [0, 1]
    gain = next(gain for gain in found.gains if gain.metric == "accuracy")
    assert gain.teacher == runs[1].results["test"]["kind"].metrics["accuracy"]
    assert gain.difference.n == 2
    assert gain.difference.mean == pytest.approx(gain.student.mean - gain.control.mean)
    other = lepton.fit(
        source, ["kind"], folder=tmp_path / "other", **{**options, "split": {"method": "random", "seed": 1}}
    )
    with pytest.raises(ConfigurationError, match="trained on other rows"):
        distilled_run([runs[0], other], ["trunk.width=8"], tmp_path / "no", quiet=True)
    fewer = lepton.fit(source, ["kind"], folder=tmp_path / "fewer", **{**options, "inputs": {"a": "number"}})
    with pytest.raises(ConfigurationError, match=r"only one of them reads \['b', 'town'\]"):
        distilled_run([runs[0], fewer], ["trunk.width=8"], tmp_path / "no", quiet=True)
