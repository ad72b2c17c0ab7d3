"""Exported runs on tables: what they say is what the run says, and what was changed is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton
from lepton.errors import ConfigurationError, DataError, ExportError
from lepton.export import ExportedModel, is_export
from lepton.run import Run
from tests.run.test_fit import TARGETS, fit, table

pd = pytest.importorskip("pandas")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(table(), TARGETS, tmp_path_factory.mktemp("runs") / "houses")


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run.export(tmp_path_factory.mktemp("exports") / "houses").folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def same(expected: Any, found: Any, scale: float = 1.0) -> None:
    """Compare two tables of predictions: numbers closely, everything else exactly.

    Args:
        expected: predictions of the run.
        found: those of the exported model.
        scale: the deviation of the numbers, where it is more than that of `expected`.
    """
    assert list(expected) == list(found)
    for name in expected:
        if expected[name].dtype.kind == "f":
            unit = max(scale, np.nanstd(expected[name]))
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5 * unit)
        else:
            assert [repr(value) for value in found[name]] == [repr(value) for value in expected[name]]


# -- the same predictions -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [None, 1, 7])
def test_the_exported_model_says_what_the_run_says(run: Run, folder: Path, size: int | None) -> None:
    wanted = ["price", "sold", "tags", "flags"]
    expected = run.predict(table(), tasks=wanted)
    assert len({repr(value) for value in expected["price"]}) > 50  # rows differ, or nothing would be compared
    same(expected, ExportedModel(folder).predict(table(), batch_size=size))


def test_some_tasks_and_further_columns(run: Run, folder: Path) -> None:
    rows = pd.DataFrame(table(9))[["city", "x3", "x", "note", "x2", "day"]].assign(other=1)
    same(run.predict(rows, tasks="sold"), ExportedModel(folder).predict(rows, tasks=["sold"]))


def test_an_index_and_an_arrow_table_come_back(folder: Path) -> None:
    import pyarrow as pa

    model = ExportedModel(folder)
    frame = pd.DataFrame(table(5), index=[3, 1, 4, 1, 5])
    assert list(model.predict(frame).index) == [3, 1, 4, 1, 5]
    assert isinstance(model.predict(pa.table(table(5))), pa.Table)


def test_words_that_training_never_saw_and_nothing_at_all(run: Run, folder: Path) -> None:
    rows = {"x": [None, 1e30], "city": ["Rom", None], "note": [None, ""], "day": [None, "2031-12-31"]}
    rows |= {"x2": [None, -1e30], "x3": [0.0, None]}
    same(run.predict(rows, tasks=["price", "sold", "tags", "flags"]), ExportedModel(folder).predict(rows))


# -- the folder ---------------------------------------------------------------------------------------------------
def test_the_manifest_names_everything(run: Run, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["tasks"]["sold"]["labels"] == ["false", "true"]
    assert manifest["left_out"] == {"pair": "it is auxiliary"}
    for name, told in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == told
    assert set(manifest["files"]) | {"manifest.json"} == {path.name for path in folder.iterdir()}
    graph = onnx.load(folder / "model.onnx").graph
    shapes = {
        port.name: [dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim]
        for port in [*graph.input, *graph.output]
    }
    told = [*manifest["inputs"], *(port for task in manifest["tasks"].values() for port in task["outputs"])]
    assert shapes == {port["name"]: port["shape"] for port in told}
    assert shapes["numbers"] == ["batch", 6] and shapes["price.value"] == ["batch"]


def test_the_largest_difference_is_that_of_the_rows(run: Run, folder: Path) -> None:
    checked = json.loads((folder / "manifest.json").read_text())["checked"]
    largest = checked["largest_difference"]
    assert checked["rows"] == 120
    assert set(largest) == {
        f"{task}.{key}" for task in ("sold", "tags", "flags") for key in ("label", "probability")
    } | {"price.value"}
    assert max(largest.values()) < 1e-5


def test_the_torch_program_says_the_same(run: Run, folder: Path) -> None:
    import torch

    from lepton.data import input_rows, read_table

    inputs = dict(sorted(input_rows(run.encoder, read_table(table(11))).inputs.items()))
    found = torch.export.load(folder / "model.pt2").module()(inputs)
    expected = ExportedModel(folder).outputs(inputs)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.detach(), expected[name], rtol=1e-5, atol=1e-5)


def test_nothing_is_overwritten(run: Run, folder: Path, tmp_path: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(ConfigurationError, match="is there already"):
        run.export(folder)
    assert (folder / "manifest.json").read_bytes() == before
    assert not is_export(run.folder)


def test_a_run_on_rows_in_memory_needs_rows(run: Run, tmp_path: Path) -> None:
    loaded = lepton.load(run.folder)
    with pytest.raises(ConfigurationError, match="real rows"):
        loaded.export(tmp_path / "new")
    assert not list(tmp_path.iterdir())
    assert loaded.export(tmp_path / "new", rows=pd.DataFrame(table(1))).manifest.checked["rows"] == 1


def test_a_graph_that_says_something_else_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    real = torch.onnx.export

    def other_weights(program: Any, *arguments: Any, **options: Any) -> Any:
        mean, std = (program.state_dict[f"model.tasks.price.{name}"] for name in ("mean", "std"))
        program.state_dict["model.tasks.price.mean"] = mean + 0.01 * std  # not in place: the run's are the same
        return real(program, *arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", other_weights)
    with pytest.raises(ExportError, match=r"'price.value' 0\.01 is the largest difference"):
        run.export(tmp_path / "new")
    assert not list(tmp_path.iterdir())


# -- what is refused ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "model.pt2", "README.md"])
@pytest.mark.parametrize("where", [0.02, 0.5, 0.98])
def test_a_changed_byte(copy: Path, name: str, where: float) -> None:
    content = bytearray((copy / name).read_bytes())
    content[int(where * len(content))] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ExportError, match=name.replace(".", r"\.")):
        ExportedModel(copy)


def resigned(folder: Path, **changes: Any) -> None:
    """Change the manifest and give it its right hashes again, as somebody who means to would."""
    content = json.loads((folder / "manifest.json").read_text()) | changes
    content["files"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in content["files"]
        if (folder / name).exists()
    }
    content["sha256"] = "0" * 64
    text = json.dumps(content, indent=1, ensure_ascii=False)
    sha = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(text.replace("0" * 64, sha, 1))


def test_a_manifest_that_was_signed_again_is_taken(copy: Path) -> None:
    resigned(copy)  # so that the tests below fail for the reason that they name
    ExportedModel(copy)


def test_a_foreign_onnx_file(copy: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    shape = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy"]
    onnx.save(
        onnx.helper.make_model(
            onnx.helper.make_graph([node], "other", shape[:1], shape[1:]),
            opset_imports=[onnx.helper.make_opsetid("", 18)],
            ir_version=10,
        ),
        copy / "model.onnx",
    )
    with pytest.raises(ExportError, match="was changed after the export"):
        ExportedModel(copy)
    resigned(copy)
    with pytest.raises(ExportError, match=r"is not the ONNX file of this manifest: its inputs are \['x'\]"):
        ExportedModel(copy)
    with pytest.raises(ExportError, match="is a file, not the folder"):
        ExportedModel(copy / "model.onnx")
    (copy / "model.onnx").write_bytes(b"no graph")
    resigned(copy)
    with pytest.raises(ExportError, match="cannot be run by ONNX Runtime"):
        ExportedModel(copy)


def test_a_missing_file(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    with pytest.raises(ExportError, match=r"'model\.onnx' is not there"):
        ExportedModel(copy)
    resigned(copy)
    with pytest.raises(ExportError, match=r"names no model\.onnx"):
        ExportedModel(copy)


def test_a_newer_format(copy: Path) -> None:
    resigned(copy, format=2)
    with pytest.raises(ExportError, match="reads the layout 1: install a newer one"):
        ExportedModel(copy)


def test_no_export_at_all(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="lepton export RUN"):
        ExportedModel(run.folder)
    with pytest.raises(ExportError, match="no exported model"):
        ExportedModel(tmp_path / "nowhere")


def test_a_task_that_is_not_there(folder: Path) -> None:
    model = ExportedModel(folder)
    with pytest.raises(ConfigurationError, match="Did you mean 'price'"):
        model.predict(table(3), tasks=["prise"])
    with pytest.raises(ConfigurationError, match="left out: it is auxiliary"):
        model.predict(table(3), tasks=["pair"])


def test_a_column_that_is_not_there(folder: Path) -> None:
    with pytest.raises(DataError, match="city"):
        ExportedModel(folder).predict({name: values for name, values in table(3).items() if name != "city"})


# -- elsewhere ----------------------------------------------------------------------------------------------------
def test_a_copy_is_verified(folder: Path, copy: Path, tmp_path: Path) -> None:
    model = ExportedModel.from_pretrained(copy)
    place = model.save_pretrained(tmp_path / "new")
    same(ExportedModel(folder).predict(table(4)), ExportedModel.from_pretrained(place).predict(table(4)))
    with pytest.raises(ConfigurationError, match="is there already"):
        model.save_pretrained(place)
    (copy / "model.onnx").write_bytes(b"changed since it was loaded")
    with pytest.raises(ExportError, match="was changed after the export"):
        model.save_pretrained(tmp_path / "third")
    assert not (tmp_path / "third").exists()


FRESH = """
import sys
from lepton.cli._main import app
try:
    app(["predict", sys.argv[1], sys.argv[2], "--json"])
finally:
    rooms = {name.split(".")[1] for name in sys.modules if name.startswith("lepton.")}
    print(",".join(sorted(rooms)), file=sys.stderr)
"""


def test_the_command_line_predicts_without_training_code(run: Run, folder: Path, tmp_path: Path) -> None:
    rows = pd.DataFrame({name: values for name, values in table(6).items() if name != "tags"})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder), str(tmp_path / "rows.csv")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.split()[-1].split(",")) <= {"cli", "data", "errors", "export", "tasks", "audio"}
    found = pd.DataFrame(json.loads(done.stdout)["rows"])
    same(run.predict(rows, tasks=["price", "sold", "tags", "flags"]), found)


def test_the_verb_prints_the_differences(run: Run, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from lepton.cli._main import app

    pd.DataFrame({k: v for k, v in table(30).items() if k != "tags"}).to_csv(tmp_path / "rows.csv", index=False)
    arguments = ["export", str(run.folder), "-o", str(tmp_path / "new"), "--rows", str(tmp_path / "rows.csv")]
    done = CliRunner().invoke(app, [*arguments, "--plain"])
    assert done.exit_code == 0, done.output
    assert "Compared with the run on 30 real rows" in done.output and "price.value" in done.output
    assert "'pair' is not in it: it is auxiliary." in done.output
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2 and "is there already" in again.output


def test_predictions_of_tensors_are_those_of_rows(folder: Path) -> None:
    from lepton.data import read_table

    model = ExportedModel(folder)
    rows = read_table(pd.DataFrame(table(9)))
    found = model.columns(model.manifest.reading.batches(model.encoder, rows, 4), ["price", "tags"])
    same(model.predict(pd.DataFrame(table(9)), tasks=["price", "tags"]), pd.DataFrame(found))
    with pytest.raises(ConfigurationError, match="Did you mean 'price'"):
        model.columns([], ["prise"])
