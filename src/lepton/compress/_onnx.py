"""`quantise_onnx`: the graph of an exported model in whole numbers of eight bits, for ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton.compress._cost import bytes_of
from lepton.compress._graph import Array, Graph
from lepton.errors import ConfigurationError

__all__ = ["Quantised", "quantise_onnx"]

FEW = 64
"""Numbers below which a constant stays as it is: the nodes that unpack it take as many bytes."""

LEVELS = 127
"""Largest whole number that stands for a weight: -128 is not used, so that 0 stands for 0 and both signs are alike."""

HALF = (6.2e-5, 6.5e4)
"""Between these, sixteen bits hold a number to 0.05 %."""

FLOAT = 1
"""What ONNX calls float32."""

_PLAIN_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0}

_KEPT_AXIS = {("Conv", 1): 0, ("ConvTranspose", 1): 1, ("Gather", 0): 0, ("MatMul", 1): -1, ("Gemm", 1): -1}
"""Operator and place among its inputs -> the axis of the weight along which each index has a scale of its own."""

_ADDED = {("Conv", 2), ("ConvTranspose", 2), ("Gemm", 2), ("Add", 0), ("Add", 1)}
_ADDED |= {("LayerNormalization", 1), ("LayerNormalization", 2)}
"""Where a constant is a bias, or the scale of a norm: too few numbers for eight bits to be worth their error."""


@dataclass(frozen=True)
class Quantised:
    """What became of a graph.

    Attributes:
        path: the new file.
        bytes_before: of the file that it was made of, and of weights beside it.
        bytes: of the new file.
        computed: weights that are multiplied in eight bits.
        stored: weights that are kept in eight bits, and unpacked to floating point once, when the file is loaded.
        halved: biases and norms, kept in sixteen bits and unpacked when the file is loaded.
        left: constants of 64 numbers and more that stay in floating point -> why.
    """

    path: Path
    bytes_before: int
    bytes: int
    computed: tuple[str, ...]
    stored: tuple[str, ...]
    halved: tuple[str, ...]
    left: dict[str, str]


def quantise_onnx(source: Path | str, target: Path | str, *, products: bool = True) -> Quantised:
    """Write an ONNX graph whose weights are whole numbers of eight bits, for ONNX Runtime on a CPU.

    A row w of a weight matrix, what gives one output, becomes q = round(w / s) with s = max|w| / 127. Products
    x W^T with such a matrix are computed in eight bits: x is cut into 256 steps between its least and its largest
    number anew at every call (*dynamic* quantisation: no rows are needed to prepare it), the products of whole numbers
    are added up in 32 bits, and the sum is multiplied by both scales (Jacob et al., 2018, "Quantization and Training of
    Neural Networks for Efficient Integer-Arithmetic-Only Inference", with symmetric weights). Since the steps of x are
    those of its whole batch, a row's prediction depends a little on the rows beside it.

    Convolutions, embeddings and batches of matrices are *stored* in eight bits and computed as before: they are
    unpacked when the file is loaded. ONNX Runtime's convolution of whole numbers was measured to be three to five times
    slower than its float32 one, on the demonstration's model, at every batch size. Biases and norms are stored in
    sixteen bits. Names inside the graph and remarks are left out.

    Args:
        source: the ONNX file, of an exported folder or of anything else.
        target: the new file.
        products: whether products with weight matrices are computed in eight bits; False stores the matrices only,
            which is slower, and closer to the original.

    Raises:
        ConfigurationError: the new file is there already, or nothing in the graph can be quantised.
        ExportError: the file is no ONNX graph that ONNX Runtime can load.
        MissingExtraError: onnx or onnxruntime is not installed.

    Example:
        >>> import torch
        >>> from lepton.compress import quantise_onnx
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8))
        >>> program = torch.onnx.export(model.eval(), (torch.ones(2, 64),), "model.onnx", dynamo=True, verbose=False)
        >>> found = quantise_onnx("model.onnx", "int8.onnx")
        >>> len(found.computed), found.bytes_before / found.bytes > 3
        (2, True)
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise ConfigurationError(f"{target} is there already: choose another file.")
    graph = Graph(source)
    work = _Work(graph, products=products)
    for node in graph.nodes:
        work.replace(node)
    if not work.computed and not work.stored:
        raise ConfigurationError(
            f"{source} holds no weights in floating point that could be quantised: is it quantised already?"
        )
    graph.save(target)
    beside = source.with_name(f"{source.name}.data")  # where exporters of torch keep large weights
    sizes = bytes_of(source) + (bytes_of(beside) if beside.exists() else 0), bytes_of(target)
    return Quantised(target, *sizes, tuple(work.computed), tuple(work.stored), tuple(work.halved), work.left)


class _Work:
    """One pass over the nodes of a graph."""

    def __init__(self, graph: Graph, *, products: bool) -> None:
        self.graph = graph
        self.products = products
        self.computed: dict[str, None] = {}  # in their order
        self.stored: dict[str, None] = {}
        self.halved: dict[str, None] = {}
        self.left: dict[str, str] = {}
        self._made: dict[Any, Any] = {}

    def replace(self, node: Any) -> None:
        """Add what stands in the place of a node."""
        if self.products and node.op_type in ("MatMul", "Gemm") and self._is_plain_product(node):
            self._add_product(node)
            return
        for place, name in enumerate(node.input):
            if self._is_large(name):
                node.input[place] = self._unpacked(node, place, name)
        self.graph.keep(node)

    def _is_large(self, name: str) -> bool:
        found = self.graph.constants.get(name)
        return found is not None and found.dtype == np.float32 and found.size >= FEW

    def _is_plain_product(self, node: Any) -> bool:
        """Return whether a node is x W, x W^T or one of them plus b."""
        plain = all(self.graph.attribute(node, name, value) == value for name, value in _PLAIN_GEMM.items())
        return plain and self._is_large(node.input[1]) and self.graph.constants[node.input[1]].ndim == 2

    def _is_turned(self, node: Any) -> bool:
        return bool(node.op_type == "Gemm" and self.graph.attribute(node, "transB", 0))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what is made for the first node that reads it, and read by the others too."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    # -- kept small, unpacked when the file is loaded ---------------------------------------------------------
    def _unpacked(self, node: Any, place: int, name: str) -> str:
        """Return the name of what a node reads in the place of a constant."""
        where, numbers = (node.op_type, place), self.graph.constants[name]
        if where in _KEPT_AXIS and numbers.ndim > 1:
            self.stored[name] = None
            axis = 0 if self._is_turned(node) else _KEPT_AXIS[where]
            return str(self._once((name, axis), lambda: self._from_eight_bits(numbers, axis)))
        if where in _ADDED and _fits_half(np.abs(numbers).max()):
            self.halved[name] = None
            return str(self._once(name, lambda: self._from_half(numbers)))
        self.left[name] = f"{node.op_type} may need all of its digits"
        return name

    def _from_half(self, numbers: Array) -> str:
        return self.graph.add("Cast", [self.graph.constant(numbers.astype(np.float16))], to=FLOAT)

    def _from_eight_bits(self, numbers: Array, axis: int) -> str:
        # A Cast and a Mul, and no DequantizeLinear: those ONNX Runtime computes when it loads the file, this one at
        # every call.
        scale = _scale(numbers, axis)
        whole = self.graph.add("Cast", [self.graph.constant(_whole(numbers, scale))], to=FLOAT)
        return self.graph.add("Mul", [whole, self._scale(scale)])

    def _scale(self, scale: Array) -> str:
        return self._from_half(scale) if scale.dtype == np.float16 else self.graph.constant(scale)

    # -- computed in eight bits -------------------------------------------------------------------------------
    def _add_product(self, node: Any) -> None:
        x, weight, *bias = node.input
        self.computed[weight] = None
        whole, scale = self._once((weight, self._is_turned(node)), lambda: self._matrix(node, weight))
        x_whole, x_scale, x_zero = self._once(("steps", x), lambda: self.graph.add_quantisation(x))
        total = self.graph.add("Cast", [self.graph.add("MatMulInteger", [x_whole, whole, x_zero])], to=FLOAT)
        both = self.graph.add("Mul", [x_scale, scale])
        product = self.graph.add("Mul", [total, both], "" if bias else node.output[0])
        if bias:
            b = self._unpacked(node, 2, bias[0]) if self._is_large(bias[0]) else bias[0]
            self.graph.add("Add", [product, b], node.output[0])

    def _matrix(self, node: Any, name: str) -> tuple[str, str]:
        """Return the names of whole numbers [K, N] and of their scales [N]."""
        numbers = self.graph.constants[name].T if self._is_turned(node) else self.graph.constants[name]
        scale = _scale(numbers, -1)
        return self.graph.constant(_whole(numbers, scale)), self._scale(scale[0])


def _fits_half(largest: float) -> bool:
    return largest == 0 or HALF[0] < largest < HALF[1]


def _scale(numbers: Array, kept: int) -> Array:
    """Return the width of a step, for each index of one axis, and where that is the last one for each matrix too."""
    over = (-2,) if kept == -1 else tuple(axis for axis in range(numbers.ndim) if axis != kept)
    largest = np.abs(numbers).max(over, keepdims=True)
    scale: Array = np.where(largest > 0, largest, 1.0) / LEVELS
    in_half = HALF[0] < scale.min() and scale.max() < HALF[1]
    return scale.astype(np.float16 if in_half else np.float32)


def _whole(numbers: Array, scale: Array) -> Array:
    whole: Array = np.rint(numbers / scale.astype(np.float32)).clip(-LEVELS, LEVELS).astype(np.int8)
    return whole
