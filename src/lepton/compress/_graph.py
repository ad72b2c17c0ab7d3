"""An ONNX graph whose weights can be replaced: loaded simplified, written with short names."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lepton.errors import ExportError, import_extra

__all__ = ["Array", "Graph"]

Array = npt.NDArray[Any]


class Graph:
    """An ONNX graph with its constants.

    ONNX Runtime has folded its constants and merged what can be merged, by rules that hold for every machine.

    Args:
        path: the ONNX file.

    Attributes:
        constants: name -> numbers.
        nodes: as they were read, in an order in which they can be computed. The graph that is saved has those that
            `add` and `keep` were given.

    Raises:
        ExportError: it is no ONNX file, or one that ONNX Runtime cannot load.
        MissingExtraError: onnx or onnxruntime is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._onnx: Any = import_extra("onnx", "compress", "a quantised graph")
        self._model = _simplified(path, self._onnx)
        to_array = self._onnx.numpy_helper.to_array
        self.constants: dict[str, Array] = {found.name: to_array(found) for found in self._model.graph.initializer}
        self.nodes: list[Any] = list(self._model.graph.node)
        self._kept: list[Any] = []
        self._names = (f"lepton/{number}" for number in itertools.count())

    def attribute(self, node: Any, name: str, default: Any) -> Any:
        """Return an attribute of a node."""
        found = [attribute for attribute in node.attribute if attribute.name == name]
        return self._onnx.helper.get_attribute_value(found[0]) if found else default

    def constant(self, numbers: Array) -> str:
        """Add a constant and return its name."""
        name = next(self._names)
        self.constants[name] = numbers
        return name

    def keep(self, node: Any) -> None:
        """Add a node that is there."""
        self._kept.append(node)

    def add(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node of one output, and return the output's name, a new one unless it is told."""
        name = output or next(self._names)
        self.keep(self._onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def add_quantisation(self, name: str) -> tuple[str, str, str]:
        """Add a node that cuts numbers into 256 steps, and return where they, their scale and their zero are."""
        found = next(self._names), next(self._names), next(self._names)
        self.keep(self._onnx.helper.make_node("DynamicQuantizeLinear", [name], list(found)))
        return found

    def save(self, path: Path) -> None:
        """Write the graph, without what nothing reads: unused constants, names of nodes, remarks, shapes in between.

        Args:
            path: the new file.
        """
        graph = self._model.graph
        used = {name for node in self._kept for name in node.input} | {port.name for port in graph.output}
        kept = {name: numbers for name, numbers in self.constants.items() if name in used}
        for field in ("node", "initializer", "value_info", "metadata_props"):
            graph.ClearField(field)
        graph.node.extend(self._kept)
        graph.initializer.extend(self._onnx.numpy_helper.from_array(value, name) for name, value in kept.items())
        self._shorten()
        _keep_needed_domains(self._model)
        self._onnx.save(self._model, path)

    def _shorten(self) -> None:
        """Give everything between inputs and outputs a short name; of a small model, names are a tenth of the file."""
        graph = self._model.graph
        fixed = {port.name for port in [*graph.input, *graph.output]} | {""}
        short = (name for name in _short_names() if name not in fixed)
        names: dict[str, str] = {}
        for node in graph.node:
            for field in ("name", "doc_string", "metadata_props"):
                node.ClearField(field)
            for values in (node.input, node.output):
                for place, name in enumerate(values):
                    if name not in fixed and name not in names:
                        names[name] = next(short)
                    values[place] = names.get(name, name)
        for tensor in graph.initializer:
            tensor.name = names.get(tensor.name, tensor.name)


def _simplified(path: Path, onnx: Any) -> Any:
    runtime: Any = import_extra("onnxruntime", "compress", "a quantised graph")
    states: Any = import_extra("onnxruntime.capi.onnxruntime_pybind11_state", "compress", "a quantised graph")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    # The new file names weights that lay beside the old one, unless they are to be written anew.
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
    with tempfile.TemporaryDirectory() as place:
        options.optimized_model_filepath = str(Path(place) / "simplified.onnx")
        try:
            runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (states.Fail, states.InvalidProtobuf, states.InvalidGraph, states.NotImplemented) as error:
            raise ExportError(f"{path} cannot be run by ONNX Runtime: {error}") from error
        except states.NoSuchFile as error:
            raise ExportError(f"{path} is not there.") from error
        return onnx.load(options.optimized_model_filepath)


def _keep_needed_domains(model: Any) -> None:
    """Forget sets of operators that no node is of: ONNX Runtime names all that it knows."""
    needed = {node.domain for node in model.graph.node}
    kept = [found for found in model.opset_import if found.domain in needed]
    model.ClearField("opset_import")
    model.opset_import.extend(kept)
    model.ClearField("metadata_props")
    model.doc_string = ""


def _short_names() -> Iterator[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    for length in itertools.count(1):
        yield from map("".join, itertools.product(letters, repeat=length))
