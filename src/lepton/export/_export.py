"""`export_model`: a trained model and its rules to a folder that predicts without them."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lepton.data import Encoder, InputEncoder, LabelRule, SequenceEncoder, rules_to_dict
from lepton.errors import ExportError, import_extra
from lepton.export._check import LABELS, TOLERANCE, Differences
from lepton.export._folder import Export, finished, new_place, open_session, run_session
from lepton.export._manifest import MODEL, Manifest, Port, described
from lepton.export._reading import LEAST_STEPS, Reading
from lepton.nn import AcousticTrunk, LeptonModel, plain_trunk
from lepton.tasks import LanguageModeling, Regression, SpeechRecognition

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["export_model"]

PROGRAM = "model.pt2"

EXAMPLE_ROWS = 3
"""Rows of the batch that is traced: more than one, since a size of one would become a constant of the graph."""

LARGEST = 1_800_000_000
"""Bytes of parameters that one ONNX file can hold: protobuf ends at 2 GiB."""

_REFUSED = {
    "translation": "a translation is searched for, token by token, which one graph does not do",
    "speech_synthesis": "a synthesiser speaks a text by a voice, and predicts nothing of a row",
}
"""Kinds of tasks that are left out, and why."""

_AXES: dict[tuple[str, int], tuple[str, ...]] = {
    ("tokens", 2): ("length",),
    ("tokens", 3): ("", "length"),
    ("next_tokens", 2): ("length",),
    ("characters", 3): ("length", "letters"),
    ("waveform", 2): ("steps",),
}
"""Input and its number of dimensions -> those after the batch's that differ from batch to batch."""


class Predictor(nn.Module):
    """What is traced: a batch of inputs to what each task's `predict` gives, under `TASK.KEY`.

    Of a transcript that is the logits, since no graph searches them; of a language model the perplexity of `tokens`
    followed by `next_tokens`.

    Args:
        model: in eval mode.
        tasks: names of the tasks.
        second: the number that begins a second text, for a model that reads one; there it is an empty one.
    """

    def __init__(self, model: LeptonModel, tasks: Sequence[str], second: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.tasks = list(tasks)
        self.second = second

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs of a batch of inputs, by their names."""
        read = {name: value for name, value in inputs.items() if name != "next_tokens"}
        if self.second is not None:
            read["target"] = torch.full_like(read["tokens"][:, :1], self.second)
        if len(self.tasks) == len(self.model.task_names):  # heads together, as in training
            outputs = self.model.predict_from(self.model.features(read), read)
        else:
            outputs = self.model.outputs_of(read, self.tasks)
        said = {task: self._said(task, outputs[task], inputs) for task in self.tasks}
        return {f"{task}.{key}": value for task in self.tasks for key, value in said[task].items()}

    def _said(self, name: str, output: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        task = self.model.task(name)
        if isinstance(task, SpeechRecognition):
            return {"logits": output}
        if isinstance(task, LanguageModeling):
            return {"perplexity": task.perplexities(output, inputs["next_tokens"])}
        return task.predict(output)


def export_model(
    model: LeptonModel,
    encoder: Encoder,
    rules: Sequence[LabelRule],
    rows: pa.Table,
    folder: Path,
    *,
    image_size: Sequence[int] | None = None,
    one_image: bool = True,
    name: str = "",
) -> Export:
    """Write a folder with the model as ONNX and as a torch program, its rules, a README and a manifest of hashes.

    The graph ends in what people see: probabilities, classes, numbers in their own units. What it gives on `rows`, in
    one batch after the other and for the first row alone, is compared with the model.

    Args:
        model: a trained model.
        encoder: fitted rules of the inputs.
        rules: rules of the labels of the model's tasks.
        rows: real rows to trace and to compare with; one is enough.
        folder: the new folder.
        image_size: height and width of pictures, if there are some.
        one_image: whether the model takes one picture for each row.
        name: of the run, for people.

    Raises:
        ConfigurationError: the folder is there already.
        ExportError: the model cannot be exported, or the graph says something else than the model.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        import_extra(module, "export", "an export")
    kept, left_out = _exportable(model, rules)
    second = encoder.rules.target if isinstance(encoder, SequenceEncoder) and encoder.target is not None else None
    predictor = Predictor(copy.deepcopy(model).cpu(), [rule.task for rule in kept], second).eval()
    trunk = plain_trunk(model.trunk)
    reading = Reading(
        image_size=None if image_size is None else (image_size[0], image_size[1]),
        one_image=one_image,
        next_tokens=any(rule.kind == "language_modeling" for rule in kept),
        step=2 * trunk.front.hop if isinstance(trunk, AcousticTrunk) else 1,
    )
    with new_place(folder) as part:
        first = rows.take([row % rows.num_rows for row in range(EXAMPLE_ROWS)])
        inputs = _widened(next(reading.batches(encoder, first)))
        program = _traced(predictor, inputs, _open_sizes(encoder, reading))
        ports = _write_graphs(program, inputs, list(predictor(inputs)), part)
        manifest = Manifest(
            name=name,
            versions=_versions(),
            inputs=ports.inputs,
            outputs={rule.task: described(rule, ports.outputs[rule.task]) for rule in kept},
            rules=rules_to_dict(encoder, kept),
            reading=reading,
            beams=_beams(predictor),
            left_out=left_out,
        )
        batches = [*reading.batches(encoder, rows), *reading.batches(encoder, rows.slice(0, 1))]
        checked = _compared(predictor, manifest, part, batches) | {"rows": rows.num_rows}
        manifest = finished(part, dataclasses.replace(manifest, checked=checked))
    return Export.of(folder, manifest)


# -- what is exported ---------------------------------------------------------------------------------------------
def _exportable(model: LeptonModel, rules: Sequence[LabelRule]) -> tuple[list[LabelRule], dict[str, str]]:
    """Return the rules of the tasks that go into the graph, and for the others the reason why they do not."""
    auxiliary = {rule.task for rule in rules if model.task(rule.task).auxiliary}
    reasons = {rule.task: _REFUSED[rule.kind] for rule in rules if rule.kind in _REFUSED}
    if not auxiliary.union(reasons).issuperset(rule.task for rule in rules):
        reasons |= dict.fromkeys(sorted(auxiliary - reasons.keys()), "it is auxiliary")
    kept = [rule for rule in rules if rule.task not in reasons]
    if not kept:
        why = "; ".join(f"{task!r}: {reason}" for task, reason in reasons.items())
        raise ExportError(f"no task of this run can be exported: {why}.")
    return kept, reasons


def _beams(predictor: Predictor) -> dict[str, int]:
    tasks = [predictor.model.task(name) for name in predictor.tasks]
    return {task.name: task.beam for task in tasks if isinstance(task, SpeechRecognition)}


# -- graphs -------------------------------------------------------------------------------------------------------
def _open_sizes(encoder: Encoder, reading: Reading) -> dict[str, Any]:
    """Return the sizes that may differ from batch to batch: their names and their bounds."""
    most = getattr(encoder.token_rules if isinstance(encoder, InputEncoder) else encoder, "max_length", None)
    return {
        "batch": torch.export.Dim("batch"),
        "length": torch.export.Dim("length", max=most),
        "letters": torch.export.Dim("letters"),
        "steps": reading.step * torch.export.Dim("steps", min=LEAST_STEPS),
    }


def _traced(predictor: nn.Module, inputs: dict[str, Tensor], sizes: Mapping[str, Any]) -> torch.export.ExportedProgram:
    """Return the traced program, in which the number of rows and the lengths of sequences stay open."""
    shapes = {
        name: {place: sizes[axis] for place, axis in enumerate(_axes(name, tensor)) if axis}
        for name, tensor in inputs.items()
    }
    try:
        with torch.no_grad(), _quietly():
            return torch.export.export(predictor, (inputs,), dynamic_shapes=(shapes,), strict=False)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        way = "(in a trunk of your own, len(x) makes a size a constant: write x.shape[0])"
        raise ExportError(f"this model cannot be traced by torch.export {way}: {_reason(error)}") from error


def _widened(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs twice where an open size is one, which would become a constant of the graph."""
    found: dict[str, Tensor] = {}
    for name, tensor in inputs.items():
        for place, axis in enumerate(_axes(name, tensor)):
            if axis and tensor.shape[place] == 1:
                tensor = torch.cat([tensor, tensor.narrow(place, 0, 1).expand_as(tensor)], place)
        found[name] = tensor
    return found


def _axes(name: str, tensor: Tensor) -> tuple[str, ...]:
    """Return the name of each dimension of an input that stays open, from the first one on."""
    return ("batch", *_AXES.get((name, tensor.ndim), ()))


@dataclass(frozen=True)
class Ports:
    """What a graph takes and gives."""

    inputs: tuple[Port, ...]
    outputs: dict[str, tuple[Port, ...]]


def _write_graphs(
    program: torch.export.ExportedProgram, inputs: Mapping[str, Tensor], names: Sequence[str], part: Path
) -> Ports:
    """Write the program and its ONNX graph into a folder, and return what the graph takes and gives.

    Args:
        program: what was traced.
        inputs: the batch that it was traced with.
        names: of its outputs.
        part: the folder.
    """
    taken = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder")][-len(inputs) :]
    last: Any = program.graph.output_node().args[0]
    given = [node.meta["val"] for node in last]
    try:
        with _quietly():
            torch.export.save(program, part / PROGRAM)
            graph = torch.onnx.export(
                program, (), input_names=list(inputs), output_names=list(names), dynamo=True, verbose=False
            )
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ExportError(f"this model cannot be written as ONNX: {_reason(error)}") from error
    assert graph is not None
    symbols = _symbols(dict(zip(inputs, taken, strict=True)))
    _name_axes(graph.model.graph, symbols)
    large = sum(value.nbytes for value in program.state_dict.values()) > LARGEST
    graph.save(part / MODEL, external_data=large)
    found = tuple(_port(name, value, symbols) for name, value in zip(inputs, taken, strict=True))
    outputs = [_port(name, value, symbols) for name, value in zip(names, given, strict=True)]
    tasks = dict.fromkeys(port.task for port in outputs)
    return Ports(found, {task: tuple(port for port in outputs if port.task == task) for task in tasks})


def _port(name: str, value: Tensor, symbols: Mapping[str, str]) -> Port:
    shape = tuple(size if isinstance(size, int) else _renamed(str(size), symbols) for size in value.shape)
    return Port(name, str(value.dtype).removeprefix("torch."), shape)


def _symbols(taken: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the name of each size that stays open: `s2` -> `batch`."""
    found: dict[str, str] = {}
    for name, value in taken.items():
        for size, axis in zip(value.shape, _axes(name, value), strict=False):
            if not isinstance(size, int):  # a symbol, or a multiple of one
                found |= {str(symbol): axis for symbol in size.node.expr.free_symbols}
    return found


def _renamed(size: str, symbols: Mapping[str, str]) -> str:
    return re.sub(r"\w+", lambda word: symbols.get(word[0], word[0]), size)


def _name_axes(graph: Any, symbols: Mapping[str, str]) -> None:
    """Give the open sizes of an ONNX graph their names, also between its nodes."""
    values = [*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        for place, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and size.value is not None:
                value.shape[place] = _renamed(size.value, symbols)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep back what exporters say of themselves: of operators that nobody asked for, and of their own futures."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return the first lines of what an exporter's error was caused by, without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[\d+m", "", str(error)).splitlines() if line.strip()]
    return " ".join(lines[:3])[:500] or type(error).__name__


# -- comparison ---------------------------------------------------------------------------------------------------
@torch.no_grad()
def _compared(
    predictor: Predictor, manifest: Manifest, part: Path, batches: Sequence[dict[str, Tensor]]
) -> dict[str, Any]:
    """Return the largest difference of each output, and what was allowed.

    Raises:
        ExportError: it is larger than that.
    """
    session = open_session(part / MODEL, manifest)
    perplexities = [port.name for ports in manifest.outputs.values() for port in ports if port.key == "perplexity"]
    differences = Differences(_scales(predictor), perplexities)
    for inputs in batches:
        differences.add(predictor(inputs), run_session(session, manifest, inputs))
    differences.refuse_large()
    return {"tolerance": TOLERANCE, "tolerated_labels": LABELS, "largest_difference": differences.largest}


def _scales(predictor: Predictor) -> dict[str, Tensor]:
    """Return the standard deviations of values that have them, one for each column."""
    tasks = [predictor.model.task(name) for name in predictor.tasks]
    return {f"{task.name}.value": task.std for task in tasks if isinstance(task, Regression)}


def _versions() -> dict[str, str]:
    names = {"lepton": "lepton-mtl", "torch": "torch", "onnx": "onnx", "onnxruntime": "onnxruntime"}
    return {name: importlib.metadata.version(package) for name, package in names.items()}
