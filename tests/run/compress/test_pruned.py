"""A run pruned into a new run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import lepton
from lepton.compress import prune
from lepton.errors import ConfigurationError, DataError
from lepton.run import Run
from lepton.run.compress import pruned_run

pytest.importorskip("torch_pruning")


def table(rows: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 3))
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    frame["where"] = random.choice(["north", "south", "west"], rows)
    frame["price"] = 2 * x[:, 0] + (frame["where"] == "north")
    frame["kind"] = np.where(x[:, 1] + x[:, 2] > 0, "yes", "no")
    return frame


def fitted(folder: Path, source: object, **told: float) -> Run:
    training = {"max_epochs": 6, "batch_size": 32, **told}
    trunk = {"type": "tabular", "width": 64, "depth": 2}
    return lepton.fit(source, ["price", "kind"], trunk=trunk, training=training, folder=folder, quiet=True)


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    table().to_csv(folder / "rows.csv", index=False)
    return fitted(folder / "first", folder / "rows.csv")


def test_a_pruned_run_is_a_run(run: Run) -> None:
    before = hashes(run.folder)
    found = pruned_run(run, 0.5, quiet=True)

    assert found.folder == run.folder.with_name("first-pruned")
    assert hashes(run.folder) == before
    told = json.loads((found.folder / "pruned.json").read_text())
    assert told["from"] == str(run.folder) and told["ratio"] >= 0.5
    assert told["parameters"] == sum(p.numel() for p in found.model.parameters())
    assert found.config.trunk.width == told["options"]["width"] < 64
    assert len(found.history) == len(run.history)
    assert found.results["test"]["kind"].metrics["accuracy"] > 0.75

    again = lepton.load(found.folder)
    assert again.config == found.config
    assert all(torch.equal(again.model.state_dict()[name], value) for name, value in found.model.state_dict().items())
    shown = pd.testing.assert_frame_equal
    shown(again.predict(table().head(20)), found.predict(table().head(20)))


def test_a_second_pruning_goes_beside_the_first(run: Run, tmp_path: Path) -> None:
    first = pruned_run(run, 0.3, tmp_path / "small", epochs=1, quiet=True)
    second = pruned_run(first, 0.3, tmp_path / "small", epochs=1, quiet=True, importance="taylor")
    assert second.folder == tmp_path / "small-2" and second.config.trunk.width < first.config.trunk.width


def test_the_training_begins_with_the_pruned_weights(tmp_path: Path) -> None:
    run = fitted(tmp_path / "still", table(), learning_rate=1e-30)
    found = pruned_run(run, 0.3, tmp_path / "small", epochs=1, quiet=True)
    rows = {"numbers": torch.zeros(2, 3), "missing": torch.zeros(2, 3), "categories": torch.zeros(2, 1).long()}
    expected = prune(run.model, rows, 0.3).model.state_dict()
    for name, value in found.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-20)


def test_what_goes_wrong_leaves_the_run_as_it_was(run: Run, tmp_path: Path) -> None:
    before = hashes(run.folder)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigurationError, match="cannot be made"):
        pruned_run(run, 0.5, tmp_path / "file" / "small", epochs=1, quiet=True)
    with pytest.raises(ConfigurationError, match="epochs must be a whole number"):
        pruned_run(run, 0.5, tmp_path / "small", epochs=0, quiet=True)
    with pytest.raises(ConfigurationError, match=r"at most .* % of this model's"):
        pruned_run(run, 0.999, tmp_path / "small", quiet=True)
    assert hashes(run.folder) == before and not (tmp_path / "small").exists()


def test_other_rows_are_refused(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "rows.csv", index=False)
    run = fitted(tmp_path / "first", tmp_path / "rows.csv")
    table(200).to_csv(tmp_path / "rows.csv", index=False)
    before = hashes(run.folder)
    with pytest.raises(DataError):
        pruned_run(lepton.load(run.folder), 0.5, tmp_path / "small", quiet=True)
    assert hashes(run.folder) == before and not (tmp_path / "small").exists()


def test_rows_in_memory_are_given_again(tmp_path: Path) -> None:
    run = lepton.load(fitted(tmp_path / "first", table()).folder)
    with pytest.raises(ConfigurationError, match="rows in memory"):
        pruned_run(run, 0.5, tmp_path / "small", epochs=1, quiet=True)
    found = pruned_run(run, 0.5, tmp_path / "small", epochs=1, rows=table(), quiet=True)
    assert found.config.trunk.width < 64


TRUNK = """
import torch
from torch import nn
from lepton.nn import Width

class Trunk(nn.Module):
    def __init__(self, inputs, inner=40):
        super().__init__()
        self.enter, self.leave = nn.Linear(inputs, inner), nn.Linear(inner, 16)
        self.out_features = 16
    def forward(self, numbers, missing, categories):
        return self.leave(torch.relu(self.enter(numbers)))
    def prunable(self):
        return [Width("inner", (self.enter,))]
    def sizes(self):
        return {"inner": self.enter.out_features}
"""


def test_a_trunk_of_ones_own_gets_other_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "narrowing.py").write_text(TRUNK)
    monkeypatch.syspath_prepend(tmp_path)
    run = lepton.fit(
        table(),
        ["price", "kind"],
        trunk={"class": "narrowing:Trunk", "arguments": {"inputs": 3}},
        training={"max_epochs": 1},
        folder=tmp_path / "first",
        trust=True,
        quiet=True,
    )
    found = pruned_run(run, 0.5, epochs=1, trust=True, quiet=True)
    assert found.config.trunk.arguments["inputs"] == 3 and found.config.trunk.arguments["inner"] < 20
    lepton.load(found.folder, trust=True)
