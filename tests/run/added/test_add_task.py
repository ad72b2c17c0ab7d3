"""More tasks for a run: the old outputs bit for bit, what holds on to them, and folders that stand by themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lepton
from lepton.config import make_task
from lepton.data import read_table
from lepton.errors import CheckpointError, ConfigurationError, DataError
from lepton.run import Added, Run, add_task, added_table
from lepton.train import Callback, TrainState
from lepton.transfer import extended
from tests.run.added.conftest import INPUTS, patients, write

pa = pytest.importorskip("pyarrow")

EVERY = ("head", "lora", "adapter", "lwf", "ewc", "replay", "agem", "none")


def config(place: Path, method: Any, tasks: Any = ("smoking",), epochs: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "data": {"source": str(place / "new.csv")},
        "tasks": tasks if isinstance(tasks, dict) else list(tasks),
        "method": method,
        "training": {"max_epochs": epochs, "learning_rate": 5e-3, **more.pop("training", {})},
        **more,
    }


def added(place: Path, folder: Path, method: Any, **more: Any) -> Added:
    told = {key: more.pop(key) for key in ("compare", "callbacks", "source") if key in more}
    return add_task(place / "old", config(place, method, **more), folder, **{"compare": False, "quiet": True, **told})


def outputs(run: Run, source: Path) -> dict[str, Tensor]:
    inputs = run.encoder.encode(read_table(source))  # type: ignore[union-attr]
    with torch.no_grad():
        found: dict[str, Tensor] = run.model.eval()(inputs)[0]
    return found


@pytest.mark.parametrize("method", ["head", {"type": "lora", "size": 3}, {"type": "adapter", "size": 3}])
def test_old_outputs_are_the_same_bit_for_bit_through_the_saved_folder(
    place: Path, old: Run, tmp_path: Path, method: Any
) -> None:
    """Both new tasks learn something meanwhile, in two rounds, the second one on top of the first."""
    first = added(place, tmp_path / "first", method, epochs=6)
    assert first.identical == {"progression": True, "worse": True} and first.compared > 60
    more = config(place, method, ["s5"], epochs=6)
    second = add_task(tmp_path / "first", more, tmp_path / "second", compare=False, quiet=True)
    assert set(second.identical.values()) == {True}
    before = outputs(lepton.load(tmp_path / "first"), place / "old.csv")
    for loaded in (lepton.load(tmp_path / "first"), lepton.load(tmp_path / "second")):
        after = outputs(loaded, place / "old.csv")
        for name, known in outputs(old, place / "old.csv").items():
            assert torch.equal(after[name], known), name
    assert torch.equal(after["smoking"], before["smoking"])
    assert loaded.tasks == ["progression", "worse", "smoking", "s5"]
    (smoking,) = (score for score in first.scores if score.new)
    assert smoking.after is not None and smoking.after["accuracy"] > 0.65


@pytest.mark.parametrize("method", ["lora", "adapter", "head"])
def test_the_model_is_built_as_extended_makes_it(place: Path, old: Run, tmp_path: Path, method: Any) -> None:
    """The same names and shapes, so that the weights go into one of those, which then says the same."""
    found = added(place, tmp_path / "run", method).run
    section = found.config.tasks["smoking"]
    more = extended(old.model, [make_task("smoking", section, found.rules[-1].classes)], adapter=method, size=8)
    more.load_state_dict(found.model.state_dict())
    inputs = found.encoder.encode(read_table(place / "new.csv"))  # type: ignore[union-attr]
    with torch.no_grad():
        one, other = more.eval()(inputs)[0], found.model(inputs)[0]
    assert all(torch.equal(one[name], other[name]) for name in found.tasks)


def moved(place: Path, folder: Path, method: Any, **more: Any) -> float:
    """Return how far the old regression's outputs moved, on the rows that trained it."""
    found = added(place, folder, method, **more).run
    before, after = outputs(lepton.load(place / "old"), place / "old.csv"), outputs(found, place / "old.csv")
    return float((before["progression"] - after["progression"]).abs().mean())


def test_what_holds_on_to_the_old_tasks(place: Path, tmp_path: Path) -> None:
    """Without validation rows the last weights are kept, so that nothing but the method holds anything."""
    data = {"source": str(place / "new.csv"), "split": {"val": 0.0}}
    more: dict[str, Any] = {"epochs": 8, "training": {"batch_size": 16}, "data": data}
    free = moved(place, tmp_path / "none", "none", **more)
    strong = {
        "lwf": {"type": "lwf", "strength": 20.0},
        "ewc": {"type": "ewc", "strength": 1e4, "rows": 200},
        "replay": {"type": "replay", "rows": 64},
        "agem": {"type": "agem", "rows": 128},
    }
    found = {name: moved(place, tmp_path / name, method, **more) for name, method in strong.items()}
    assert free > 5  # in units of the progression, whose standard deviation is 77
    assert max(found["lwf"], found["ewc"]) < 0.5 * free, found
    assert max(found["replay"], found["agem"]) < free, found
    weak = moved(place, tmp_path / "weak", {"type": "lwf", "strength": 1e-6}, **more)
    assert weak == pytest.approx(free, rel=0.2)


@pytest.mark.parametrize("method", EVERY)
def test_the_new_folder_is_a_run_like_any_other(place: Path, tmp_path: Path, method: str) -> None:
    found = added(place, tmp_path / "run", method, tasks=["smoking", "s5"], epochs=1)
    moved_to = tmp_path / "elsewhere" / "run"
    shutil.copytree(tmp_path / "run", moved_to)
    loaded = lepton.load(moved_to)
    assert loaded.evaluate().keys() == {"progression", "worse", "smoking", "s5"}
    assert loaded.evaluate()["s5"].metrics == loaded.results["test"]["s5"].metrics
    scores = {score.task: score for score in found.scores}
    assert loaded.results["test"]["worse"].metrics == scores["worse"].after
    asked = loaded.predict(read_table(place / "new.csv").select(list(INPUTS)))
    assert {"progression", "worse", "smoking", "s5"} <= set(asked.column_names)
    assert loaded.report().stat().st_size > 10_000
    said = json.loads((moved_to / "added.json").read_text())
    assert said["method"] == method and [score["task"] for score in said["scores"]] == loaded.tasks
    assert said["parameters"]["after"] == sum(p.numel() for p in loaded.model.parameters())
    assert (said["identical"] != {}) == (method in ("head", "lora", "adapter"))
    with pytest.raises(CheckpointError, match="made by lepton add-task"):
        lepton.run.resume_run(moved_to, quiet=True)


def test_export(place: Path, tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    run = added(place, tmp_path / "run", "lora", epochs=1).run
    checked = run.export(tmp_path / "exported").manifest.checked["largest_difference"]
    assert {"smoking.label", "worse.label", "progression.value"} <= set(checked)


def test_each_task_keeps_its_own_labels_and_statistics(place: Path, old: Run, tmp_path: Path) -> None:
    """A column of the new rows with the name of an old task teaches nothing, and no new label is found in old rows."""
    every = patients()
    wrong = [-value for value in every["progression"]]
    write(tmp_path, "new", {name: every[name] for name in (*INPUTS, "s5")} | {"progression": wrong}, step=2)
    run = added(place, tmp_path / "run", "head", tasks=["s5"], epochs=1, data={"source": str(tmp_path / "new.csv")}).run
    rows = read_table(tmp_path / "run" / "rows.parquet")
    assert rows.num_rows == 442 + 221
    both = pa.compute.and_(pa.compute.is_valid(rows["progression"]), pa.compute.is_valid(rows["s5"]))
    assert pa.compute.sum(both).as_py() in (0, None)
    assert run.model.task("progression").mean == old.model.task("progression").mean
    train = read_table(tmp_path / "new.csv")["s5"].to_numpy()
    assert abs(float(run.model.task("s5").mean) - train.mean()) < 0.1
    shares = {part: len(numbers) / rows.num_rows for part, numbers in run.split.parts.items()}
    assert shares["train"] == pytest.approx(0.7, abs=0.02) and shares["test"] == pytest.approx(0.15, abs=0.02)


def test_the_two_other_ways(place: Path, tmp_path: Path) -> None:
    found = added(place, tmp_path / "run", "lora", compare=True, epochs=2)
    filled = {score.task: [score.before, score.after, score.alone, score.retrained] for score in found.scores}
    there = {task: [scores is not None for scores in each] for task, each in filled.items()}
    assert there == {
        "progression": [True, True, False, True],
        "worse": [True, True, False, True],
        "smoking": [False, True, True, True],
    }
    progression = filled["progression"]
    assert progression[0] == progression[1] != progression[3]
    table = added_table(found)
    assert table.row_count == 3 and [column.header for column in table.columns][2:] == [
        "before",
        "after",
        "alone",
        "all retrained",
    ]
    assert "4," in found.words[0] or "parameters more" in found.words[0]
    assert "bit for bit" in found.words[1]


def test_without_the_old_rows(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(place / "old", folder)
    told = (folder / "config.yaml").read_text().replace("old.csv", "gone.csv")
    (folder / "config.yaml").write_text(told)
    for method in ("ewc", "replay", "agem"):
        with pytest.raises(ConfigurationError, match=f"method {method} looks at rows .* not at hand: .*gone.csv"):
            add_task(folder, config(place, method), tmp_path / "run", quiet=True)
    found = add_task(folder, config(place, "lora"), tmp_path / "run", quiet=True)
    assert [score.task for score in found.scores] == ["smoking"]
    assert found.identical == {"progression": True, "worse": True}  # on the new rows
    assert any("not measured" in note for note in found.notes)
    loaded = lepton.load(tmp_path / "run")
    assert loaded.evaluate()["worse"].n_labels == 0 < loaded.evaluate()["smoking"].n_labels
    assert loaded.report().exists()


def test_rows_in_memory_and_the_method_of_a_run(place: Path, old: Run, tmp_path: Path) -> None:
    table = read_table(place / "new.csv")
    told = {"tasks": {"smoke": {"column": "smoking"}}, "method": "head", "training": {"max_epochs": 1}}
    found = old.add_task(told, tmp_path / "run", source=table, compare=False, quiet=True)
    assert found.run.tasks == ["progression", "worse", "smoke"]
    assert lepton.load(tmp_path / "run").rules[-1].columns == ("smoking",)


# -- what is refused ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": {"worse": {"column": "smoking"}}}, "already has a task 'worse'"),
        ({"tasks": {"worse": {"type": "classification", "classes": ["yes", "no"]}}}, "keeps its head and its classes"),
        ({"tasks": {"again": {"type": "regression", "column": "bmi"}}}, "'bmi' is an input and a target"),
        ({"tasks": {"none": {"column": "nothing"}}}, "no column 'nothing'"),
        ({"tasks": []}, "names no new task"),
        ({"tasks": {"smoking": {"adapter": {"type": "lora"}}}}, "section method says it"),
        ({"method": "loar"}, "Did you mean 'lora'"),
        ({"method": {"type": "head", "size": 3}}, "unknown key 'size'"),
        ({"method": {"type": "lora", "targets": ["mlp.nothing"]}}, "there is no layer 'mlp.nothing'"),
        ({"data": {"source": "new.csv", "inputs": {"age": "number"}}}, "data.inputs is decided by the run"),
    ],
)
def test_bad_configurations(place: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    told = config(place, "lora") | change
    told["data"] = told["data"] | {"source": str(place / "new.csv")}
    with pytest.raises((ConfigurationError, DataError), match=words):
        add_task(place / "old", told, tmp_path / "run", quiet=True, compare=False)
    assert not list(tmp_path.iterdir())


def test_no_method_is_a_sentence(place: Path, tmp_path: Path) -> None:
    told = config(place, "lora")
    del told["method"]
    with pytest.raises(ConfigurationError, match=r"give method, one of \['head', 'lora'"):
        add_task(place / "old", told, tmp_path / "run", quiet=True)


def test_a_column_that_an_old_task_has(place: Path, tmp_path: Path) -> None:
    every = patients()
    write(tmp_path, "new", {name: every[name] for name in (*INPUTS, "worse")})
    told = config(place, "head", {"other": {"column": "worse"}}) | {"data": {"source": str(tmp_path / "new.csv")}}
    with pytest.raises(ConfigurationError, match="that of the old task 'worse'"):
        add_task(place / "old", told, tmp_path / "run", quiet=True)


def test_a_missing_input_column(place: Path, tmp_path: Path) -> None:
    every = patients()
    write(tmp_path, "new", {name: every[name] for name in (*INPUTS[1:], "smoking")})
    told = config(place, "head") | {"data": {"source": str(tmp_path / "new.csv")}}
    with pytest.raises(DataError, match="the rows have no column 'age'"):
        add_task(place / "old", told, tmp_path / "run", quiet=True)


@pytest.mark.parametrize("damage", ["rules.json", "checkpoints/best/model.safetensors", "run.json"])
def test_a_damaged_run(place: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(place / "old", tmp_path / "old")
    content = (tmp_path / "old" / damage).read_bytes()
    (tmp_path / "old" / damage).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError):
        add_task(tmp_path / "old", config(place, "head"), tmp_path / "run", quiet=True)
    with pytest.raises(CheckpointError, match="there is no run"):
        add_task(tmp_path / "odl", config(place, "head"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_taken_is_left_alone(place: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("mine")
    found = added(place, tmp_path / "run", "head", epochs=1)
    assert found.run.folder == tmp_path / "run-2"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


class Stop(Callback):
    """Ctrl-C after the first epoch."""

    def on_epoch_end(self, state: TrainState, row: dict[str, float]) -> None:
        raise KeyboardInterrupt


def test_half_a_run_is_none(place: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        added(place, tmp_path / "run", "lora", callbacks=[Stop()])
    assert not list(tmp_path.iterdir())
