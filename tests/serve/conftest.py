"""Two exported folders, made once: one of a table, one that reads a picture."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lepton.export import ExportedModel, export_model

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("pandas")


@pytest.fixture(scope="session")
def table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.run.test_fit import TARGETS, fit, table

    run = fit(table(), TARGETS, tmp_path_factory.mktemp("runs") / "houses", kinds={"note": "text"})
    return run.export(tmp_path_factory.mktemp("exports") / "houses").folder


@pytest.fixture(scope="session")
def table_model(table_folder: Path) -> ExportedModel:
    return ExportedModel(table_folder, threads=1)


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of the demonstration, untrained, on pictures of its size."""
    from lepton.balance import Equal
    from lepton.data import InputEncoder, LabelRule, describe_columns, read_table
    from lepton.recipes.digits import make_model
    from lepton.recipes.digits.data import PIXEL_CLASSES

    class Grey(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image[:, :1].float() / 255

    class Trunk(torch.nn.Sequential):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image)  # type: ignore[no-any-return]

    model = make_model(("left", "pixels", "sum"), Equal(), seed=0)
    model.trunk = Trunk(Grey(), model.trunk)
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture(number))
    rows = read_table({"scene": [str(folder / f"{number}.png") for number in range(4)]})
    rules = [
        LabelRule("left", "classification", ("left",), tuple(map(str, range(10)))),
        LabelRule("pixels", "segmentation", ("pixels",), PIXEL_CLASSES),
        LabelRule("sum", "regression", ("sum",)),
    ]
    encoder = InputEncoder.fit(rows, describe_columns(rows))
    return export_model(model, encoder, rules, rows, folder / "scenes", image_size=(10, 14), name="digits").folder


@pytest.fixture(scope="session")
def picture_model(picture_folder: Path) -> ExportedModel:
    return ExportedModel(picture_folder, threads=1)


def picture(seed: int = 0, size: tuple[int, int] = (14, 10), form: str = "PNG", mode: str = "L") -> bytes:
    """The bytes of a picture."""
    import numpy as np
    from PIL import Image

    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(file := io.BytesIO(), form)
    return file.getvalue()


def rows_of_table(number: int) -> list[dict[str, Any]]:
    """Rows as JSON has them."""
    from tests.run.test_fit import table

    columns = table(number)
    return [{name: columns[name][row] for name in ("x", "city", "note", "day", "x2", "x3")} for row in range(number)]


class Gate:
    """Stands in front of what predicts, and lets batches through when it is told to."""

    def __init__(self, predict: Any) -> None:
        self.predict = predict
        self.open = threading.Event()
        self.reached = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, batch: Sequence[Any]) -> list[Any]:
        self.reached.set()
        assert self.open.wait(20)
        self.sizes.append(sum(len(work.rows) for work in batch))
        return self.predict(batch)  # type: ignore[no-any-return]
