"""What a model costs: parameters, operations for one row, memory, disk, time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lepton.config import Config
from lepton.data import AudioEncoder, Encoder, SequenceEncoder
from lepton.evaluate import to_device
from lepton.insight import CostFacts
from lepton.nn import LeptonModel
from lepton.run._sequences import EXAMPLE_TOKENS, example_sequences
from lepton.run._speech import example_recordings

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

__all__ = ["cost_of", "example_batch"]

ROWS = 2
"""Rows of the batch whose operations are counted."""


def cost_of(
    model: LeptonModel,
    config: Config,
    encoder: Encoder,
    folder: Path,
    seconds: float,
    alone_seconds: Mapping[str, float],
) -> CostFacts:
    """Return the account of a model."""
    private = {name: _head_size(model.heads[name]) for name in model.task_names}
    trunk, every = _flops(model, example_batch(config, encoder))
    trunk_bytes = _bytes(model.trunk)
    balancer = _bytes(model.balancer)
    weights = folder / "checkpoints" / "best" / "model.safetensors"
    return CostFacts(
        shared=_size(model.trunk),
        private=private,
        trunk_flops=trunk,
        head_flops=None if every is None or trunk is None else every - trunk,
        weight_bytes=_bytes(model) - balancer,
        trunk_bytes=trunk_bytes,
        disk_bytes=weights.stat().st_size if weights.exists() else None,
        seconds=seconds,
        alone_seconds=alone_seconds,
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _head_size(head: nn.Module) -> int:
    # Many linear heads are rows of one parameter: they have a weight and a bias, but no parameters of their own.
    rows = (getattr(head, name, None) for name in ("weight", "bias"))
    return _size(head) or sum(part.numel() for part in rows if isinstance(part, Tensor))


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def example_batch(config: Config, encoder: Encoder, rows: int = ROWS) -> dict[str, Tensor]:
    """Return inputs of rows whose every value is missing, or of a text: of the right shapes, without any source."""
    import pyarrow as pa

    if isinstance(encoder, SequenceEncoder):
        return example_sequences(encoder, rows)
    if isinstance(encoder, AudioEncoder):
        return example_recordings(encoder, rows)
    table = pa.table({name: pa.nulls(rows, pa.string()) for name in encoder.names})
    inputs = encoder.encode(table)
    if encoder.tokens:
        inputs["tokens"] = torch.full((rows, len(encoder.tokens), EXAMPLE_TOKENS), 5)
    if encoder.images:
        height, width = config.data.image_size or (1, 1)
        several = (len(encoder.images),) if config.trunk.type == "mixed" else ()
        inputs["image"] = torch.zeros(rows, *several, 3, height, width, dtype=torch.uint8)
        if several:
            inputs["image_missing"] = torch.zeros(rows, *several, dtype=torch.bool)
    return inputs


@torch.no_grad()
def _flops(model: LeptonModel, inputs: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the operations of the trunk, and of trunk and heads, for one row."""
    from torch.utils.flop_counter import FlopCounterMode

    inputs = to_device(inputs, model.device)
    trunk = _counted(FlopCounterMode(display=False), lambda: model.features(inputs))
    every = _counted(FlopCounterMode(display=False), lambda: model(inputs))
    # A trunk of sums and look-ups alone has no product to count: nothing is said then.
    return (trunk, every) if trunk > 0 else (None, None)


def _counted(counter: FlopCounterMode, run: Callable[[], object]) -> int:
    with counter:
        run()
    return int(counter.get_total_flops()) // ROWS
