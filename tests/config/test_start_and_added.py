"""The section `start`, adapters of tasks, and the file of `lepton add-task`: what they take and what they refuse."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from lepton.config import added_methods, check_added, check_config, config_yaml, json_schema, read_added, read_config
from lepton.errors import ConfigurationError
from lepton.transfer import AGEM, EWC, AdapterName, LwF, Replay


def config(**more: Any) -> dict[str, Any]:
    return {"data": {"source": "a.csv"}, "tasks": ["price"], **more}


def test_a_start_survives_writing_and_reading(tmp_path: Path) -> None:
    start = {"run": "runs/x", "freeze": "all", "layer_decay": 0.8, "adapter": "lora", "size": 4, "targets": ["mlp"]}
    tasks = {"price": {"type": "regression", "adapter": {"type": "adapter", "size": 3}}}
    found = check_config(config(start=start, tasks=tasks))
    (tmp_path / "c.yaml").write_text(config_yaml(found))
    again = read_config(tmp_path / "c.yaml")
    assert again == found and again.start is not None
    assert (again.start.freeze, again.start.layer_decay, again.start.size) == ("all", 0.8, 4)
    assert again.tasks["price"].adapter.size == 3
    assert "start" not in yaml.safe_load(config_yaml(check_config(config())))


def test_what_it_starts_from_lies_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "trunk.pt").write_bytes(b"")
    for key, name in (("run", "old"), ("weights", "trunk.pt")):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config(start={key: name})))
        found = read_config(tmp_path / "c.yaml")
        assert getattr(found.start, key) == str(tmp_path / name)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"run": "x", "weights": "y"}, "run and weights are two beginnings"),
        ({"run": "x", "targets": ["mlp"]}, "targets is an option of an adapter"),
        ({"run": "x", "adapter": "adapter", "alpha": 2.0}, "alpha scales lora"),
        ({"run": "x", "freeze": -1}, "start.freeze"),
        ({"run": "x", "freeze": "half"}, "start.freeze"),
        ({"run": "x", "layer_decay": 1.5}, "start.layer_decay"),
        ({"run": "x", "adapter": "lroa"}, "start.adapter"),
        ({"run": "x", "size": 0}, "start.size"),
        ({"rnu": "x"}, "unknown key 'rnu'. Did you mean 'run'"),
    ],
)
def test_starts_that_are_refused(start: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_config(config(start=start))


@pytest.mark.parametrize("adapter", [{"type": "head", "alpha": 2.0}, {"type": "none"}, {"size": 3}, "lora"])
def test_adapters_that_are_refused(adapter: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"tasks\.price\.adapter"):
        check_config(config(tasks={"price": {"type": "regression", "adapter": adapter}}))


def test_the_schema_knows_them() -> None:
    schema = json.loads(json_schema())
    assert "start" in schema["properties"]
    assert {"run", "weights", "freeze", "layer_decay"} <= set(schema["$defs"]["StartSection"]["properties"])


# -- add-task -----------------------------------------------------------------------------------------------------
def test_the_methods_take_what_their_classes_take() -> None:
    """Counted from the signatures: an option that a class gets must not be forgotten here."""
    assert set(get_args(AdapterName)) <= set(added_methods())
    for name, kind in {"lwf": LwF, "ewc": EWC, "replay": Replay, "agem": AGEM}.items():
        own = set(inspect.signature(kind).parameters) - {"model", "tasks", "replay", "seed"}
        assert own <= set(added_methods()[name].model_fields), name


@pytest.mark.parametrize("method", list(added_methods()))
def test_a_method_is_a_word_or_a_mapping(method: str) -> None:
    one = check_added({"tasks": ["churn"], "method": method})
    other = check_added({"tasks": {"churn": "auto"}, "method": {"type": method}, "balance": "equal"})
    assert one == other


def test_a_file_with_values_to_change(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("a\n1\n")
    path = tmp_path / "task.yaml"
    path.write_text("data: {source: new.csv}\ntasks: [churn]\nmethod: lora\n")
    found = read_added(path, ["method={type: ewc, strength: 5}", "training.max_epochs=3"])
    assert found.data.source == str(tmp_path / "new.csv")
    assert (found.method.type, found.method.strength, found.training.max_epochs) == ("ewc", 5.0, 3)
    path.write_text("tasks: [churn]\nmethod: lora\nmethdo: x\n")
    with pytest.raises(ConfigurationError, match=r"task.yaml, line 3: methdo: unknown key .* 'method'"):
        read_added(path)
    path.write_text("method: lora\n")
    with pytest.raises(ConfigurationError, match=r"task.yaml names no new task"):
        read_added(path)
