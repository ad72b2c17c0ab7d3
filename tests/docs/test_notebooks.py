"""The notebooks run from the first cell to the last; what is committed is small and says nothing of a machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install 'lepton-mtl[test]'")
nbclient = pytest.importorskip("nbclient", reason="pip install 'lepton-mtl[test]'")

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
MOST_BYTES = 300_000
ONE_MACHINE = re.compile(r"(?<![\w.<])/(?:home|root|tmp|usr|opt|Users)/|site-packages")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@each
def test_a_notebook_runs_from_scratch(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises with the cell that failed
    figures = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    committed = [
        output for output in outputs(nbformat.read(path, as_version=4)) if "image/png" in output.get("data", {})
    ]
    assert len(figures) == len(committed) > 0
    warned = "".join(output.text for output in outputs(notebook) if output.get("name") == "stderr")
    assert "UserWarning" not in warned, warned


@each
def test_what_is_committed_is_whole_and_small(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run it anew, all cells in order"
    assert path.stat().st_size < MOST_BYTES
    assert not [
        output for output in outputs(notebook) if output.output_type == "error" or output.get("name") == "stderr"
    ]
    text = re.sub(r'"image/png": "[^"]*"', "", path.read_text(encoding="utf-8"))
    assert not ONE_MACHINE.search(text)
