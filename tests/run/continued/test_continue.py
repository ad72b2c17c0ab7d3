"""Going on with a run: what is taken over, what is measured, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lepton.errors import CheckpointError, ConfigurationError, DataError
from lepton.run import Run, continue_run, load, resume_run
from tests.run.continued.conftest import ONE, hashes, table

pd = pytest.importorskip("pandas")


def go_on(run: Run, source: Any, **options: Any) -> Any:
    return continue_run(run, source, overrides=options.pop("overrides", ONE), quiet=True, **options)


def test_a_new_run_beside_the_old_one(run: Run, tmp_path: Path) -> None:
    before = hashes(tmp_path)
    table(150, shift=1.5, seed=1).to_parquet(tmp_path / "new.parquet")
    found = go_on(run, tmp_path / "new.parquet")
    assert {name: value for name, value in hashes(tmp_path).items() if name in before} == before
    again = load(found.run.folder)
    assert found.run.folder.name == "run-continued" and again.tasks == run.tasks
    assert [rule.classes for rule in again.rules] == [rule.classes for rule in run.rules]
    assert again.encoder.to_dict() == run.encoder.to_dict()
    assert {part: len(rows) for part, rows in again.split.parts.items()} == {"train": 105, "val": 23, "test": 22}
    for key, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, found.run.model.state_dict()[key])
    assert set(again.results) == {"val", "test", "old val", "old test"}
    assert again.evaluate()["price"].metrics == pytest.approx(again.results["test"]["price"].metrics)
    told = json.loads((again.folder / "continued.json").read_text())
    assert told["method"] == "replay" and "x" in told["moved"] and told["from"] == str(run.folder)
    assert (again.folder / "README.md").exists() and (again.folder / "drift.json").exists()
    again.report()
    assert go_on(run, tmp_path / "new.parquet").run.folder.name == "run-continued-2"


def test_before_and_after_are_what_the_two_runs_say(run: Run) -> None:
    found = go_on(run, table(150, shift=1.5, seed=1))
    assert list(found.scores) == ["old rows, before", "old rows, after", "new rows, before", "new rows, after"]
    assert found.scores["old rows, before"]["price"].metrics == pytest.approx(run.results["test"]["price"].metrics)
    new = run.evaluate(found.run.tables()["test"])
    assert found.scores["new rows, before"]["kind"].metrics == pytest.approx(new["kind"].metrics)
    after = load(found.run.folder).evaluate(run.tables()["test"])
    assert found.scores["old rows, after"]["kind"].metrics == pytest.approx(after["kind"].metrics)


@pytest.mark.parametrize("method", ["replay", "lwf", "ewc", "agem", "none"])
def test_every_method_learns_the_new_rows(run: Run, method: str) -> None:
    new = table(200, shift=3.0, seed=1)
    found = go_on(run, new, method=method, overrides=["training.max_epochs=4", "training.learning_rate=1e-2"])
    before, after = (found.scores[f"new rows, {when}"]["price"].metrics["mae"] for when in ("before", "after"))
    assert after < 0.9 * before


def test_replay_forgets_less_than_nothing_does(run: Run) -> None:
    """The new rows have the opposite price, far away from the old ones in x."""
    new = table(200, shift=4.0, seed=1)
    new["price"] = -new["price"]
    strong = ["training.max_epochs=6", "training.learning_rate=1e-2"]
    lost = {}
    for method in ("replay", "none"):
        found = go_on(run, new, method=method, overrides=strong)
        scores = [found.scores[f"old rows, {when}"]["price"].metrics["mae"] for when in ("before", "after")]
        lost[method] = scores[1] / scores[0]
    assert lost["replay"] < lost["none"]


def test_labels_of_some_tasks_are_enough(run: Run) -> None:
    new = table(120, seed=2).drop(columns=["tags", "price"])
    found = go_on(run, new, method="none")
    again = load(found.run.folder)
    assert again.tasks == ["kind", "price", "tags"]
    head = again.model.head_state("price")
    for (new_weight, rows), (old_weight, own) in zip(head, run.model.head_state("price"), strict=True):
        assert torch.equal(new_weight[rows], old_weight[own])  # an idle head does not move
    assert not torch.equal(again.model.heads["kind"].weight, run.model.heads["kind"].weight)
    assert np.isnan(found.scores["new rows, after"]["price"].loss)
    again.report()


def test_a_run_with_its_source_gone_goes_on_with_the_rows_that_it_keeps(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old.parquet").unlink()
    found = go_on(run, table(150, seed=1), folder=tmp_path / "first")
    assert "keeps" in found.notes[-1] and "old rows, after" in found.scores
    assert seen_by(run.folder) == 280  # all training rows had a chance
    assert seen_by(tmp_path / "first") == 280 + 105
    go_on(load(tmp_path / "first"), table(90, seed=3), folder=tmp_path / "second")
    assert seen_by(tmp_path / "second") == 280 + 105 + 63


def seen_by(folder: Path) -> int:
    """How many training rows the memory of a run has seen."""
    state = json.loads((folder / "replay" / "state.json").read_text())["parts"]["train"]
    return sum(count for _, _, count in state["seen"])


def test_without_source_and_without_rows_only_what_needs_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old.parquet").unlink()
    shutil.rmtree(run.folder / "replay")
    before = hashes(tmp_path)
    with pytest.raises(ConfigurationError, match=r"method 'replay' needs old rows.*old\.parquet.*keeps no rows.*lwf"):
        go_on(run, table(100, seed=1))
    assert hashes(tmp_path) == before and sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    found = go_on(run, table(100, seed=1)[["x", "y", "city", "kind"]], method="lwf")
    assert "not at hand" in found.notes[-1] and list(found.scores) == ["new rows, before", "new rows, after"]


def test_a_changed_byte_in_the_kept_rows_is_found(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old.parquet").unlink()
    path = run.folder / "replay" / "train.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"train\.safetensors is not what was written"):
        go_on(run, table(100, seed=1))


def test_an_interrupted_one_is_not_resumed_by_fitting_everything_anew(run: Run) -> None:
    found = go_on(run, table(100, seed=1))
    with pytest.raises(CheckpointError, match=r"goes on from another run.*lepton continue"):
        resume_run(found.run.folder)


def test_what_is_refused_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    new = table(100, seed=1)
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (new.drop(columns=["city"]), {}, "no column 'city'"),
        (new.drop(columns=["kind", "price", "tags"]), {}, "labels of no task.*'kind'"),
        (new.assign(kind=None)[["x", "y", "city", "kind"]], {}, "no task has a label"),
        (new.assign(kind="z"), {}, r"no class of their task: 'kind': \['z'\].*--new-classes"),
        (new, {"method": "memory"}, "method must be one of"),
        (new, {"method": "replay", "strength": 2.0}, "strength must be left out"),
        (new, {"retire": ["kinds"]}, "no task 'kinds' to retire.*Did you mean 'kind'"),
        (new, {"retire": run.tasks}, "nothing would be left"),
        (None, {}, "nothing to do"),
        (new, {"overrides": ["trunk.width=4"]}, "cannot be changed"),
        (new, {"folder": tmp_path / "run"}, "there already"),
        (new.head(2), {}, "too few"),
    ]
    before = hashes(tmp_path)
    for source, options, words in refused:
        with pytest.raises((DataError, ConfigurationError), match=words):
            go_on(run, source, **options)
    assert hashes(tmp_path) == before


def test_the_training_rows_themselves_are_pointed_out(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    go_on(run, pd.read_parquet(run.config.data.source))
    assert "rows that the run was trained on" in caplog.text


def test_training_options_are_laid_out_anew_unless_told(run: Run) -> None:
    config = go_on(run, table(100, seed=1), overrides=["training.max_steps=3"]).run.config
    assert config.training.max_steps == 3 and config.training.learning_rate == pytest.approx(2.5e-3)
    assert config.data.replay == run.config.data.replay and config.seed == run.config.seed


def test_a_run_may_keep_no_rows(run: Run) -> None:
    found = go_on(run, table(100, seed=1), overrides=[*ONE, "data.replay=0"])
    assert not (found.run.folder / "replay").exists()


def test_the_method_of_a_run_does_the_same(run: Run, tmp_path: Path) -> None:
    found = run.continue_training(table(100, seed=1), tmp_path / "new", overrides=ONE)
    assert found.run.folder == tmp_path / "new" and found.to_dict()["from"] == str(run.folder)
