"""Every form of a run on the same rows and the same batches."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lepton.compress import Cost, bytes_of, measured_together
from lepton.export import ExportedModel
from lepton.nn import LeptonModel
from lepton.run.compress._form import Form
from lepton.run.compress._making import Making
from lepton.run.compress._shipped import Scores, outputs_in_torch, shipped_scores, torch_scores

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["machine", "measured_forms"]

GRAPH = "model.onnx"
DIFFERENT = 16
"""Different batches of each size, at most."""


def measured_forms(making: Making, batch_sizes: Sequence[int], seconds: float) -> tuple[Form, ...]:
    """Return everything that was made with its scores and its cost.

    Args:
        making: what was made.
        batch_sizes: rows of the batches that are timed.
        seconds: time for each form and size.
    """
    exported = {
        name: ExportedModel(made.place, threads=1) for name, made in making.made.items() if made.place is not None
    }
    scores: dict[str, dict[str, Scores]] = {name: {} for name in making.made}
    for part, held in making.parts.items():
        with making.watch.working(f"measuring on {held.table.num_rows} {part} rows"):
            for name, model in exported.items():
                scores[name][part] = shipped_scores(model, making.run, held.rows, held.table)
            known = scores[next(iter(exported))][part]
            for name, made in making.made.items():
                if made.model is not None:
                    scores[name][part] = torch_scores(made.model, making.run, held.rows, known)
    with making.watch.working(f"timing {len(scores)} forms with batches of {', '.join(map(str, batch_sizes))}"):
        costs = _costs(making, exported, batch_sizes, seconds)
    return tuple(
        Form(name, made.how, costs[name], scores[name], made.place, made.run, made.family)
        for name, made in making.made.items()
    )


def _costs(
    making: Making, exported: Mapping[str, ExportedModel], batch_sizes: Sequence[int], seconds: float
) -> dict[str, Cost]:
    first = next(iter(exported.values()))
    batches = {size: list(_batches(first, making.shown.table, size)) for size in batch_sizes}
    predictions: dict[str, Any] = {}
    sizes: dict[str, int | None] = {}
    for name, made in making.made.items():
        if made.model is None:
            predictions[name], sizes[name] = exported[name].outputs, bytes_of(exported[name].folder / GRAPH)
        else:
            predictions[name], sizes[name] = _InTorch(made.model, making.run.model, first), bytes_of(made.model)
    return measured_together(predictions, batches, batch_sizes, sizes=sizes, threads=1, seconds=seconds)


def _batches(model: ExportedModel, table: pa.Table, size: int) -> Iterator[Any]:
    """Yield different batches of the rows, from the first row again where there are too few."""
    for start in range(0, max(1, min(DIFFERENT * size, table.num_rows)), size):
        rows = table.take([place % table.num_rows for place in range(start, start + size)])
        yield next(model.manifest.reading.batches(model.encoder, rows, size))


class _InTorch:
    """A model in torch as it would be served: a batch of inputs to what people see.

    Args:
        form: what computes the outputs, in eval mode.
        model: whose tasks they are.
        like: what is predicted.
    """

    def __init__(self, form: nn.Module, model: LeptonModel, like: ExportedModel) -> None:
        self.form, self.model, self.tasks = form, model, like.tasks
        self.logits = {rule.task for rule in like.rules if rule.kind in ("speech_recognition", "language_modeling")}

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        read = {name: value for name, value in inputs.items() if name != "next_tokens"}
        outputs = outputs_in_torch(self.form, read)
        # As in the graph: a transcript is searched for afterwards, and a text's perplexity is a sum.
        return {
            name: outputs[name] if name in self.logits else self.model.task(name).predict(outputs[name])
            for name in self.tasks
        }


def machine() -> str:
    """Return what the processor is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(told, "") or platform.processor() or platform.machine()
