"""Runs on folders of pictures and masks, and the files among them that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lepton
from lepton.data import read_table
from lepton.errors import LeptonError
from lepton.run import Run

pd = pytest.importorskip("pandas")

N = 16


def save(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def pairs(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(N):
        save(folder / "image" / f"{i:02}.png", rng.integers(0, 255, (16, 12, 3)))
        save(folder / "label" / f"{i:02}.png", rng.integers(0, 3, (16, 12)))
    return folder


def fit(source: Any, targets: Any, folder: Path, **options: Any) -> Run:
    training = {"max_epochs": 1, "num_workers": 0, "batch_size": 4}
    return lepton.fit(source, targets, training=training, folder=folder, quiet=True, **options)


def test_masks_beside_images(tmp_path: Path) -> None:
    source = pairs(tmp_path / "pictures")
    run = fit(str(source), ["label"], tmp_path / "run")
    assert [(rule.kind, rule.classes) for rule in run.rules] == [("segmentation", ("0", "1", "2"))]
    assert run.config.trunk.type == "unet"
    found = lepton.load(run.folder).predict(str(source / "image"))
    assert len(found) == N
    assert all(mask.shape == (16, 12) and mask.max() <= 2 for mask in found["label"])


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    for i in range(N):
        save(
            tmp_path / "pictures" / ("dark" if i % 2 else "light") / f"{i}.png",
            np.full((8, 8, 3), 20 if i % 2 else 230),
        )
    run = fit(str(tmp_path / "pictures"), ["label"], tmp_path / "run")
    assert run.rules[0].classes == ("dark", "light")
    one = run.predict({"image": [str(tmp_path / "pictures" / "light" / "0.png")]})
    assert one["label"][0] in ("dark", "light")


def test_a_table_beside_pictures(tmp_path: Path) -> None:
    rows = {
        "file": [f"{i}.png" for i in range(N)],
        "size": [float(i) for i in range(N)],
        "y": [i * 0.5 for i in range(N)],
    }
    for name in rows["file"]:
        save(tmp_path / "pictures" / name, np.zeros((8, 8, 3)))
    pd.DataFrame(rows).to_csv(tmp_path / "pictures" / "metadata.csv", index=False)
    run = fit(str(tmp_path / "pictures"), ["y"], tmp_path / "run")
    assert run.config.trunk.type == "mixed"
    assert np.isfinite(run.predict(str(tmp_path / "pictures"))["y"]).all()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "image" / "03.png").write_bytes(b"no picture"), r"03\.png"),
        (lambda folder: (folder / "image" / "03.png").write_bytes(b""), r"03\.png"),
        (lambda folder: (folder / "label" / "03.png").write_bytes(b"no picture"), r"03\.png"),
        (
            lambda folder: save(folder / "label" / "03.png", np.zeros((8, 8))),
            r"03\.png: the mask of 'label' is \[8, 8\]",
        ),
        (
            lambda folder: save(folder / "label" / "03.png", np.full((16, 12), 7)),
            r"holds \[7\]; allowed are the classes",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(break_it: Any, words: str, tmp_path: Path) -> None:
    folder = pairs(tmp_path / "pictures")
    break_it(folder)
    targets = {"label": {"type": "segmentation", "classes": ["a", "b", "c"]}}
    with pytest.raises(LeptonError, match=words):
        fit(str(folder), targets, tmp_path / "run")


def test_presence_from_masks_and_trunks_that_do_not_fit(tmp_path: Path) -> None:
    source = pairs(tmp_path / "pictures")
    run = fit(str(source), {"label": {"type": "multi_label", "min_share": 0.4}}, tmp_path / "run")
    assert run.rules[0].from_masks
    for trunk, words in (
        ("tabular", "reads no pictures"),
        ("conv", "one column of pictures and nothing else"),
    ):
        frame = pd.DataFrame(read_table(str(source)).to_pydict() | {"x": range(N)})
        with pytest.raises(LeptonError, match=words):
            fit(frame, ["label"], tmp_path / "run", trunk=trunk)
