"""Graphs in eight bits: smaller, of the same opinion, and an exported folder like any other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.compress import bytes_of, quantise_onnx
from lepton.errors import ConfigurationError, DataError, ExportError
from lepton.export import ExportedModel
from lepton.run import Run
from tests.export.test_adult import adult

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def run(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return lepton.fit(
        adult(data_folder / "adult" / "adult.data.gz").head(3000),
        ["income", "marital_status", "hours_per_week"],
        training={"max_epochs": 2},
        folder=tmp_path_factory.mktemp("runs") / "adult",
        quiet=True,
    )


@pytest.fixture(scope="module")
def float32(run: Run, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return ExportedModel(run.export(tmp_path_factory.mktemp("exports") / "float32").folder, threads=1)


@pytest.fixture(scope="module")
def rows(data_folder: Path) -> Any:
    return adult(data_folder / "adult" / "adult.test.gz").head(1500)


# -- a folder in eight bits ---------------------------------------------------------------------------------------
def test_a_folder_in_eight_bits(run: Run, float32: ExportedModel, rows: Any, tmp_path: Path) -> None:
    found = float32.rewritten(tmp_path / "int8", quantise_onnx, weights="int8", rows=rows)
    assert found.manifest.weights == "int8" and float32.manifest.weights == "float32"
    assert bytes_of(float32.folder / "model.onnx") / found.sizes["model.onnx"] > 3.8
    assert bytes_of(run.folder / "checkpoints" / "best" / "model.safetensors") / found.sizes["model.onnx"] > 3.7
    assert "model.pt2" not in found.sizes and "There is no `model.pt2`" in (found.folder / "README.md").read_text()

    model = ExportedModel(found.folder, threads=1)
    expected, said = float32.predict(rows), model.predict(rows)
    assert list(expected) == list(said)
    for task in ("income", "marital_status"):
        same = float((expected[task] == said[task]).mean())
        assert same > 0.98
        assert model.manifest.checked["agreement"][f"{task}.label"] == pytest.approx(same, abs=2e-3)  # other batches
    hours = expected["hours_per_week"]
    assert 0 < (hours - said["hours_per_week"]).abs().mean() < 0.03 * hours.std()
    truth = rows["income"].to_numpy()
    points = [100 * float((table["income"] == truth).mean()) for table in (expected, said)]
    assert points[1] > points[0] - 0.5
    with pytest.raises(ConfigurationError, match="is there already"):
        float32.rewritten(tmp_path / "int8", quantise_onnx, weights="int8", rows=rows)


def test_the_command_line_predicts_with_it(float32: ExportedModel, rows: Any, tmp_path: Path) -> None:
    folder = float32.rewritten(tmp_path / "int8", quantise_onnx, weights="int8", rows=rows.head(50)).folder
    rows.head(20).to_csv(tmp_path / "rows.csv", index=False)
    command = [sys.executable, "-m", "lepton", "predict", str(folder), str(tmp_path / "rows.csv"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [row["income"] for row in json.loads(done.stdout)["rows"]]
    assert said == ExportedModel(folder).predict(rows.head(20))["income"].tolist()


def test_a_changed_byte(float32: ExportedModel, rows: Any, tmp_path: Path) -> None:
    folder = float32.rewritten(tmp_path / "int8", quantise_onnx, weights="int8", rows=rows.head(9)).folder
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.onnx was changed after the export"):
        ExportedModel(folder)


def test_a_graph_of_something_else_is_refused(float32: ExportedModel, rows: Any, tmp_path: Path) -> None:
    def other(source: Path, target: Path) -> None:
        model = onnx.load(source)
        model.graph.output.pop()
        onnx.save(model, target)

    def not_finite(source: Path, target: Path) -> None:
        model = onnx.load(source)
        tensor = next(found for found in model.graph.initializer if found.name.endswith("enter.bias"))
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, np.nan, np.float32), tensor.name))
        onnx.save(model, target)

    for transform, message in (
        (other, "is not the ONNX file of this manifest: its outputs are"),
        (not_finite, "that are not finite"),
        (lambda source, target: target.write_bytes(b"no graph"), "cannot be run by ONNX Runtime"),
        (lambda source, target: None, "wrote no file"),
    ):
        with pytest.raises(ExportError, match=message):
            float32.rewritten(tmp_path / "new", transform, weights="int8", rows=rows.head(9))
    with pytest.raises(DataError, match="no rows"):
        float32.rewritten(tmp_path / "new", quantise_onnx, weights="int8", rows=rows.head(0))
    assert not list(tmp_path.iterdir())


# -- the graph ----------------------------------------------------------------------------------------------------
class Everything(nn.Module):
    """Each kind of weight that there is a rule for: an embedding, convolutions, matrices one by one and in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.conv = nn.Conv1d(16, 24, 3, padding=1)
        self.up = nn.ConvTranspose1d(24, 32, 2, stride=2)
        self.norm = nn.LayerNorm(128)
        self.matrices = nn.Parameter(torch.randn(8, 32, 16) / 6)
        self.enter = nn.Linear(128, 96)
        self.leave = nn.Linear(96, 80, bias=False)

    def forward(self, numbers: Tensor) -> Tensor:
        x = torch.relu(self.conv(self.table(numbers).transpose(1, 2)))
        x = self.up(x).transpose(1, 2)  # [B, 8, 32]
        x = torch.matmul(x[:, :, None], self.matrices).flatten(1)  # [B, 128]
        return self.leave(torch.tanh(self.enter(self.norm(x))))


def written(model: nn.Module, example: Tensor, path: Path) -> Path:
    batch = torch.export.Dim("batch")
    torch.onnx.export(model.eval(), (example,), path, dynamo=True, verbose=False, dynamic_shapes=({0: batch},))
    return path


def outputs(path: Path, inputs: Tensor) -> Any:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    torch.manual_seed(0)
    numbers = torch.randint(0, 50, (40, 4))
    return written(Everything(), numbers[:3], tmp_path_factory.mktemp("graphs") / "model.onnx"), numbers


def test_each_kind_of_weight(everything: tuple[Path, Tensor], tmp_path: Path) -> None:
    source, numbers = everything
    computed = quantise_onnx(source, tmp_path / "computed.onnx")
    stored = quantise_onnx(source, tmp_path / "stored.onnx", products=False)
    assert len(computed.computed) == 2 and len(computed.stored) == 4 and not computed.left
    assert len(stored.computed) == 0 and len(stored.stored) == 6
    expected = outputs(source, numbers)
    wrong = {found.path.stem: np.abs(outputs(found.path, numbers) - expected).mean() for found in (computed, stored)}
    assert 0 < wrong["stored"] < wrong["computed"] < 0.02 * expected.std()
    kinds = {np.dtype("int8"), np.dtype("float16"), np.dtype("int64"), np.dtype("float32")}
    for found in (computed, stored):
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(found.path).graph.initializer]
        assert {array.dtype for array in arrays} <= kinds
        assert all(array.size < 64 for array in arrays if array.dtype == np.float32)
        assert found.bytes == found.path.stat().st_size and found.bytes_before == bytes_of(source.parent)


def test_stored_weights_are_the_nearest_that_there_are(tmp_path: Path) -> None:
    """Against the formula, computed by torch in double precision."""
    torch.manual_seed(1)
    layer = nn.Linear(40, 30, bias=False)
    layer.weight.data[3] = 0  # a row of zeros has no scale
    source = written(layer, torch.randn(2, 40), tmp_path / "a.onnx")
    quantise_onnx(source, tmp_path / "b.onnx", products=False)
    found = outputs(tmp_path / "b.onnx", torch.eye(40))
    weight = layer.weight.detach().double()
    scale = (weight.abs().amax(1, keepdim=True) / 127).half().double()
    expected = (weight / scale).nan_to_num().round().clamp(-127, 127) * scale
    np.testing.assert_allclose(found, expected.T.numpy(), rtol=0, atol=1e-6)
    assert np.abs(found - weight.T.numpy()).max() <= 0.51 * float(scale.max())


def test_products_are_those_of_onnx_runtime_s_own_tool(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
    inputs = torch.randn(50, 64)
    source = written(model, inputs[:2], tmp_path / "a.onnx")
    quantize_dynamic(source, tmp_path / "b.onnx", per_channel=True, weight_type=QuantType.QInt8)
    quantise_onnx(source, tmp_path / "c.onnx")
    expected, theirs, ours = (outputs(tmp_path / f"{name}.onnx", inputs) for name in "abc")
    error = np.abs(theirs - expected).mean()
    assert np.abs(ours - theirs).mean() < 0.5 * error  # weights and scales are rounded a little differently
    assert np.abs(ours - expected).mean() < 1.1 * error
    assert (tmp_path / "c.onnx").stat().st_size < (tmp_path / "b.onnx").stat().st_size


def test_what_several_nodes_read_is_there_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.relu(self.layer(x)))

    source = written(Tied(), torch.randn(2, 64), tmp_path / "a.onnx")
    quantise_onnx(source, tmp_path / "b.onnx")
    sizes = [onnx.numpy_helper.to_array(found).size for found in onnx.load(tmp_path / "b.onnx").graph.initializer]
    assert sizes.count(64 * 64) == 1


def test_what_cannot_be_quantised(everything: tuple[Path, Tensor], tmp_path: Path) -> None:
    source, _ = everything
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ExportError, match=r"text\.onnx cannot be run by ONNX Runtime"):
        quantise_onnx(tmp_path / "text.onnx", tmp_path / "new.onnx")
    with pytest.raises(ExportError, match="is not there"):
        quantise_onnx(tmp_path / "nowhere.onnx", tmp_path / "new.onnx")
    with pytest.raises(ConfigurationError, match="is there already"):
        quantise_onnx(source, tmp_path / "text.onnx")
    small = written(nn.Linear(3, 2), torch.randn(2, 3), tmp_path / "small.onnx")
    with pytest.raises(ConfigurationError, match="no weights"):
        quantise_onnx(small, tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()
