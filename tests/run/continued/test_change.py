"""Classes added and tasks retired: what stays, bit for bit or up to rounding, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lepton
from lepton.config import check_config
from lepton.data import InputEncoder, LabelRule, Split
from lepton.errors import ConfigurationError, DataError
from lepton.nn import LeptonModel
from lepton.run import Run, build_model, continue_run, load
from lepton.run.continued._change import changed_config, changed_model, changed_rules
from tests.run.continued.conftest import ONE, hashes, table

pd = pytest.importorskip("pandas")


def inputs_of(run: Run, n: int = 64) -> Any:
    from lepton.data import read_table

    return run.encoder.encode(read_table(table(n, seed=7)))


def test_new_classes_stand_at_the_end_and_leave_the_ratios_of_the_old_ones(run: Run) -> None:
    rules = changed_rules(run, {"kind": ["A", "z"], "tags": ["new"]}, [])
    assert rules[0].classes == ("a", "b", "c", "A", "z")
    model = changed_model(run, changed_config(run, rules, None, {}), rules, trust=False)
    x = inputs_of(run)
    old, new = run.model.eval()(x)[0], model.eval()(x)[0]
    before, after = old["kind"].softmax(-1), new["kind"].softmax(-1)
    torch.testing.assert_close(after[:, :3] / after[:, :3].sum(1, keepdim=True), before)
    torch.testing.assert_close(new["kind"][:, 3], old["kind"].mean(1))
    torch.testing.assert_close(new["tags"][:, :3], old["tags"])
    torch.testing.assert_close(new["price"], old["price"])
    assert (after[:, 3:] > 0).all() and (before.argmax(1) == new["kind"].argmax(1)).all()


def test_a_class_is_learned_and_the_old_ones_are_kept(run: Run, tmp_path: Path) -> None:
    before = hashes(run.folder)
    new = table(240, seed=2)[["x", "y", "city", "kind"]]
    far = np.arange(240) % 3 == 0
    new = new.assign(kind=np.where(far, "aa", new["kind"]), x=new["x"] + 6 * far)
    strong = ["training.max_epochs=6", "training.learning_rate=1e-2"]
    found = continue_run(run, new, tmp_path / "new", new_classes=True, overrides=strong, quiet=True)
    assert found.added == {"kind": ["aa"]}
    again = load(tmp_path / "new")
    assert again.rules[0].classes == ("a", "b", "c", "aa") and again.config.tasks["kind"].classes == [
        "a",
        "b",
        "c",
        "aa",
    ]
    held_out = found.run.tables()["test"].to_pandas()
    right = (again.predict(held_out)["kind"] == held_out["kind"]).to_numpy()
    assert right[held_out["kind"] == "aa"].mean() > 0.8
    old = found.scores["old rows, after"]["kind"].metrics["accuracy"]
    assert old > found.scores["old rows, before"]["kind"].metrics["accuracy"] - 0.15
    assert hashes(run.folder) == before
    # And once more, with the rows that the run keeps: the old ones have no label of the class that is new now.
    more = table(120, seed=5).assign(kind="q", tags=[["tiny"]] * 120)
    last = continue_run(again, more, tmp_path / "last", new_classes=True, overrides=ONE, quiet=True)
    assert last.run.rules[0].classes == ("a", "b", "c", "aa", "q") and "tiny" in last.run.rules[2].classes
    continue_run(load(tmp_path / "last"), more, overrides=ONE, quiet=True)


def test_lwf_holds_on_to_the_ratios_of_the_old_classes(run: Run) -> None:
    new = table(120, seed=2).assign(kind="z")[["x", "y", "city", "kind"]]
    strong = ["training.max_epochs=20", "training.learning_rate=3e-3"]
    x, far = inputs_of(run), {}
    before = run.model.eval()(x)[0]["kind"].softmax(-1)
    for method, strength in (("lwf", 20.0), ("none", None)):
        options: dict[str, Any] = {"method": method, "strength": strength, "new_classes": True, "overrides": strong}
        found = continue_run(run, new, quiet=True, **options)
        assert found.added == {"kind": ["z"]}
        after = found.run.model.eval()(x)[0]["kind"][:, :3].softmax(-1)
        far[method] = (after - before).abs().mean().item()
    assert far["lwf"] < 0.5 * far["none"]


def test_classes_in_another_order_of_the_rows_are_the_same_classes(run: Run) -> None:
    new = table(120, seed=2).sort_values("kind", ascending=False)
    found = continue_run(run, new, overrides=ONE, quiet=True)
    assert found.run.rules[0].classes == run.rules[0].classes and not found.added


def test_a_regression_gets_no_classes(run: Run) -> None:
    with pytest.raises(DataError, match="must hold numbers"):
        continue_run(run, table(60, seed=1).assign(price="dear"), new_classes=True, overrides=ONE, quiet=True)
    with pytest.raises(ConfigurationError, match="cannot get more classes"):
        changed_rules(run, {"price": ["dear"]}, [])


def test_a_task_retired_leaves_the_others_as_they_were(run: Run, tmp_path: Path) -> None:
    before = hashes(tmp_path)
    found = continue_run(run, retire=["kind"])
    again = load(found.run.folder)
    assert again.tasks == ["price", "tags"] and found.retired == ["kind"]
    x = inputs_of(run)
    old, new = run.model.eval()(x)[0], again.model.eval()(x)[0]
    assert torch.equal(run.model.features(x), again.model.features(x))
    for name in again.tasks:  # the fused product of the heads is another one: its last bits may differ
        torch.testing.assert_close(new[name], old[name], rtol=1e-5, atol=1e-6)
    assert again.results["test"].keys() == {"price", "tags"}
    assert again.evaluate()["price"].metrics["mae"] == pytest.approx(run.results["test"]["price"].metrics["mae"])
    assert {name: value for name, value in hashes(tmp_path).items() if name in before} == before
    again.report()
    further = continue_run(again, table(100, seed=1).drop(columns=["kind"]), overrides=ONE, quiet=True)
    assert further.run.tasks == ["price", "tags"]


def test_with_heads_of_their_own_the_outputs_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    """Heads that are no part of the fused product are computed as before."""
    head = {"class": "tests.run.continued.test_change:OwnHead", "arguments": {"outputs": 1}}
    targets = {
        "price": {"type": "regression", "head": head},
        "y2": {"type": "regression", "column": "y", "head": head},
    }
    run = lepton.fit(
        table(120),
        targets,
        ignore=["kind", "tags"],
        training={"max_epochs": 1},
        folder=tmp_path / "run",
        trust=True,
        quiet=True,
    )
    found = continue_run(run, retire=["y2"], trust=True)
    x = run.encoder.encode(run.tables()["test"])
    assert torch.equal(found.run.model.eval()(x)[0]["price"], run.model.eval()(x)[0]["price"])


class OwnHead(torch.nn.Module):
    """A head that is not fused with others."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.LazyLinear(8), torch.nn.Tanh(), torch.nn.Linear(8, outputs))
        self.layers[0].initialize_parameters(torch.zeros(1, 256))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(features)
        return result


def test_retired_and_continued_at_once(run: Run) -> None:
    found = continue_run(run, table(120, seed=1), retire=["tags"], overrides=ONE, quiet=True)
    assert found.run.tasks == ["kind", "price"] and set(found.scores["old rows, after"]) == {"kind", "price"}


def test_many_heads_in_one_parameter_grow_and_go(tmp_path: Path) -> None:
    """From 64 linear heads on, all are rows of one parameter."""
    names = [f"t{place}" for place in range(66)]
    rules = [LabelRule(name, "classification", (name,), ("a", "b")) for name in names]
    data = {"inputs": {"x": "number"}}
    tasks = {name: {"type": "classification", "classes": ["a", "b"]} for name in names}
    config = check_config({"data": data, "tasks": tasks, "trunk": "tabular"})
    from lepton.data import describe_columns, read_table

    columns = read_table({"x": [1.0, 2.0, 3.5]})
    encoder = InputEncoder.fit(columns, describe_columns(columns))
    model: LeptonModel = build_model(config, encoder, rules)
    run = Run(tmp_path, config, encoder, rules, Split({}), model)
    x = encoder.encode(columns)
    more = changed_rules(run, {"t3": ["c"]}, ["t0"])
    found = changed_model(run, changed_config(run, more, None, {}), more, trust=False).eval()
    for name in names[1:]:
        torch.testing.assert_close(found(x)[0][name][:, :2], model.eval()(x)[0][name])
    assert found(x)[0]["t3"].shape[1] == 3
