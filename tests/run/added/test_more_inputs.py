"""More tasks for runs that read texts or pictures, and for one on the census of UCI Adult."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton
from lepton.errors import ConfigurationError
from lepton.run import add_task, added_table

pa = pytest.importorskip("pyarrow")

TEXTS = ["a dog runs", "the cat sleeps on a mat", "cats ran away", "dogs sleep all day"] * 15
SMALL: dict[str, Any] = {"type": "transformer", "width": 16, "depth": 1, "heads": 2, "dropout": 0.0}


@pytest.mark.parametrize("method", ["head", "lora", "adapter"])
def test_a_language_model_gets_a_classification(tmp_path: Path, method: str) -> None:
    """Causal states for the old task, pooled ones for the new: the old perplexity stays the same to the last bit."""
    pytest.importorskip("tokenizers")
    old = {"words": {"type": "language_modeling", "column": "text"}}
    rows = {"text": TEXTS, "animal": ["dog", "cat", "cat", "dog"] * 15}
    run = lepton.fit({"text": TEXTS}, old, trunk=SMALL, training={"max_epochs": 1}, folder=tmp_path / "old", quiet=True)
    told = {"tasks": ["animal"], "method": method, "training": {"max_epochs": 1}}
    added = add_task(run, told, tmp_path / "new", source=rows, compare=False, quiet=True)
    assert added.identical == {"words": True}
    one, other = run.predict(TEXTS[:5]), lepton.load(tmp_path / "new").predict(TEXTS[:5])
    assert one["words_perplexity"].equals(other["words_perplexity"])
    assert added.run.encoder.fingerprint == run.encoder.fingerprint
    for refused in ("replay", "agem"):
        with pytest.raises(ConfigurationError, match="keeps rows of one length"):
            add_task(run, told | {"method": refused}, tmp_path / "no", source=rows, quiet=True)


def test_pictures(tmp_path: Path) -> None:
    """Batch statistics of a convolutional trunk are held still, too; and a second label for the same pictures."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(40):
        pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        pixels[:, :6] = 255 if number % 2 else 0
        paths.append(str(tmp_path / f"{number}.png"))
        image.fromarray(pixels).save(paths[-1])
    training = {"max_epochs": 1, "num_workers": 0}
    sides = {"image": paths, "left": [["black", "white"][number % 2] for number in range(40)]}
    trunk = {"type": "conv"}
    run = lepton.fit(sides, ["left"], trunk=trunk, training=training, folder=tmp_path / "old", quiet=True)
    rows = {"image": paths, "odd": [float(number % 2) for number in range(40)]}
    for method in ("lora", "replay"):
        told = {"tasks": {"odd": "regression"}, "method": method, "training": training}
        added = add_task(run, told, tmp_path / method, source=rows, compare=False, quiet=True)
        assert added.identical == ({"left": True} if method == "lora" else {})
        assert lepton.load(tmp_path / method).predict({"image": paths[:3]}).shape[0] == 3


def test_a_third_task_on_adult(data_folder: Path, tmp_path: Path) -> None:
    header = "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,sex,"
    header += "capital-gain,capital-loss,hours-per-week,native-country,income"
    with gzip.open(data_folder / "adult" / "adult.data.gz", "rt") as file:
        lines = [line.replace(", ", ",") for line in file.read().splitlines() if line]
    (tmp_path / "old.csv").write_text("\n".join([header, *lines[:2000]]))
    (tmp_path / "new.csv").write_text("\n".join([header, *lines[2000:2600]]))
    run = lepton.fit(
        tmp_path / "old.csv",
        ["income", "marital-status"],
        ignore=["relationship", "occupation"],
        trunk={"type": "tabular", "width": 64, "depth": 2},
        training={"max_epochs": 5},
        folder=tmp_path / "run",
        quiet=True,
    )
    (tmp_path / "task.yaml").write_text("data: {source: new.csv}\ntasks: [occupation]\nmethod: lora\n")
    added = add_task(run, tmp_path / "task.yaml", tmp_path / "more", quiet=True)
    assert set(added.identical.values()) == {True} and added.compared >= 300
    scores = {score.task: score for score in added.scores}
    assert scores["income"].after == scores["income"].before
    assert scores["income"].before is not None and scores["income"].before["auroc"] > 0.8
    assert scores["occupation"].after is not None and scores["occupation"].alone is not None
    assert scores["occupation"].after["accuracy"] > 0.15  # the most frequent of 14 is there in 13 % of the rows
    assert added_table(added).row_count == 3
    assert lepton.load(tmp_path / "more").evaluate()["marital-status"].n_labels == 300
