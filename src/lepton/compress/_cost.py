"""What a prediction costs on this machine: milliseconds, rows per second, bytes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError, is_number, is_whole, require

__all__ = ["Batches", "Cost", "Inputs", "Latency", "bytes_of", "measured", "measured_together"]

Inputs = Tensor | Mapping[str, Tensor]
"""What a model reads: a tensor [N, ...], or name -> tensor [N, ...]."""

Batches = Inputs | Mapping[int, Sequence[Inputs]]
"""Rows to make batches of, or batch size -> the batches themselves."""

Predict = Callable[[Any], object]

TURN = 5
"""Calls of one candidate in a row. The first of them is not counted: it finds the caches full of the candidate before
it, which no server would."""

WARM_UP = 3
LEAST_OF_ONE, LEAST, MOST = 200, 8, 2000
"""Calls that are counted whatever the time, of one row and of more rows, and at most."""

DIFFERENT = 16
"""Different batches that are made of the rows, in turns: a model can be slower for one row than for another."""


@dataclass(frozen=True)
class Latency:
    """Times of one batch size.

    Attributes:
        p50: median of the calls, in milliseconds.
        p99: 99th percentile of the calls, in milliseconds.
        rows_per_second: batch size / mean time of a call.
        calls: how many were timed.
    """

    p50: float
    p99: float
    rows_per_second: float
    calls: int


@dataclass(frozen=True)
class Cost:
    """What a prediction costs.

    Attributes:
        bytes: of what has to be stored; None where it was not told.
        latency: batch size -> times.
        threads: that torch was given.
    """

    bytes: int | None
    latency: Mapping[int, Latency]
    threads: int

    def times_faster(self, other: Cost, batch_size: int = 1) -> float:
        """Return the ratio of the medians: how many times faster than another that was measured together with it."""
        return other.latency[batch_size].p50 / self.latency[batch_size].p50

    def times_smaller(self, other: Cost) -> float:
        """Return the ratio of the bytes.

        Raises:
            ConfigurationError: the bytes of one of them were not told.
        """
        if self.bytes is None or other.bytes is None:
            raise ConfigurationError("how many times smaller needs the bytes of both: measure them with sizes={...}.")
        return other.bytes / self.bytes

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self) | {"latency": {str(size): asdict(found) for size, found in self.latency.items()}}


def measured(
    predict: Predict,
    inputs: Batches,
    batch_sizes: Sequence[int] = (1, 32, 256),
    *,
    size: int | None = None,
    threads: int = 1,
    seconds: float = 3.0,
) -> Cost:
    """Measure what a prediction costs on this machine, now.

    Args:
        predict: takes a batch of inputs; a model in eval mode, a session, anything that can be called.
        inputs: see `measured_together`.
        batch_sizes: rows of a batch.
        size: bytes of what has to be stored, see `bytes_of`.
        threads: of torch; a session of ONNX Runtime is told its own when it is made.
        seconds: time for each batch size.

    Raises:
        ConfigurationError: there are no rows, or no batches of a size.

    Example:
        >>> import torch
        >>> from lepton.compress import measured
        >>> cost = measured(torch.nn.Linear(8, 2).eval(), torch.randn(64, 8), (1, 32), seconds=0.05)
        >>> cost.latency[1].p50 <= cost.latency[1].p99, cost.latency[32].calls >= 20
        (True, True)
    """
    found = measured_together(
        {"it": predict}, inputs, batch_sizes, sizes={"it": size}, threads=threads, seconds=seconds
    )
    return found["it"]


def measured_together(
    candidates: Mapping[str, Predict],
    inputs: Batches,
    batch_sizes: Sequence[int] = (1, 32, 256),
    *,
    sizes: Mapping[str, int | None] | None = None,
    threads: int = 1,
    seconds: float = 3.0,
) -> dict[str, Cost]:
    """Measure several predictions in turns, A B C A B C ..., so that a slow second hits all alike.

    A turn is five calls in a row, of which the first is not counted. Up to 2000 calls of each batch size are, as many
    as the time allows, but at least 200 of one row and 8 of more rows. `Latency.calls` says how many: the p99 of fewer
    than 100 is nearly the slowest one.

    Args:
        candidates: name -> function of a batch of inputs.
        inputs: a tensor [N, ...] or name -> tensor [N, ...], of whose rows batches are made, from the first again where
            there are too few; or batch size -> batches, where a batch is more than rows cut out, as of texts padded to
            the longest.
        batch_sizes: rows of a batch.
        sizes: name -> bytes of what has to be stored, see `bytes_of`.
        threads: of torch, restored afterwards.
        seconds: time for each batch size and candidate.

    Returns:
        Name -> what it costs. Only ratios of costs that were measured together mean something.

    Raises:
        ConfigurationError: no candidates, no rows, or no batches of a size.

    Example:
        >>> import torch
        >>> from lepton.compress import measured_together
        >>> small, large = torch.nn.Linear(64, 1), torch.nn.Linear(64, 20000)
        >>> costs = measured_together({"small": small, "large": large}, torch.randn(32, 64), (32,), seconds=0.05)
        >>> costs["small"].times_faster(costs["large"], 32) > 1
        True
    """
    require(len(candidates) > 0, "measured_together", "candidates", dict(candidates), "at least one")
    require(is_number(seconds) and seconds > 0, "measured_together", "seconds", seconds, "positive")
    require(is_whole(threads) and threads >= 1, "measured_together", "threads", threads, "a whole number from 1 on")
    told = sizes or {}
    batches = {size: _batches(inputs, size) for size in batch_sizes}  # ordinary tensors, as a server has them
    with _threads(threads), torch.inference_mode():
        times = {size: _timed(candidates, batches[size], seconds, _least(size)) for size in batch_sizes}
    return {
        name: Cost(told.get(name), {size: _latency(found[name], size) for size, found in times.items()}, threads)
        for name in candidates
    }


def bytes_of(stored: nn.Module | Path | str) -> int:
    """Return the bytes of a file, of all files of a folder, or of the parameters and buffers of a model.

    Args:
        stored: the file, the folder or the model. A tensor that two modules share counts once.

    Raises:
        ConfigurationError: there is no such file or folder.

    Example:
        >>> import torch
        >>> bytes_of(torch.nn.Linear(3, 2))
        32
    """
    if isinstance(stored, nn.Module):
        return sum(_bytes(tensor) for tensor in [*stored.parameters(), *stored.buffers()])
    path = Path(stored)
    if not path.exists():
        raise ConfigurationError(f"bytes_of: {str(path)!r} is not there.")
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor; one of eight bits is made of others, and tells the size of what it stands for."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    parts, _ = tensor.__tensor_flatten__()
    return sum(_bytes(getattr(tensor, name)) for name in parts)


# -- batches ------------------------------------------------------------------------------------------------------
def _batches(inputs: Batches, size: int) -> list[Inputs]:
    require(is_whole(size) and size >= 1, "measured_together", "batch_sizes", size, "whole numbers from 1 on")
    if isinstance(inputs, Tensor):
        return [inputs[rows] for rows in _places([inputs], size)]
    if any(isinstance(key, int) for key in inputs):
        made = cast("Mapping[int, Sequence[Inputs]]", inputs)
        require(bool(made.get(size)), "measured_together", "inputs", sorted(made), f"batches of {size} rows too")
        return list(made[size])
    named = cast("Mapping[str, Tensor]", inputs)
    places = _places(list(named.values()), size)
    return [{name: tensor[rows] for name, tensor in named.items()} for rows in places]


def _places(tensors: Sequence[Tensor], size: int) -> list[Tensor]:
    rows = min((len(tensor) for tensor in tensors), default=0)
    require(rows > 0, "measured_together", "inputs", "no rows", "at least one row")
    return [torch.arange(turn * size, (turn + 1) * size) % rows for turn in range(DIFFERENT)]


# -- times --------------------------------------------------------------------------------------------------------
@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _least(size: int) -> int:
    return LEAST_OF_ONE if size == 1 else LEAST


def _timed(
    candidates: Mapping[str, Predict], batches: Sequence[Inputs], seconds: float, least: int
) -> dict[str, list[float]]:
    """Return the seconds of each call that counts."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for predict in candidates.values():
        for call in range(WARM_UP):
            predict(batches[call % len(batches)])
    gc.collect()
    end = time.perf_counter() + seconds * len(candidates)
    turn = 0
    while (calls := turn * (TURN - 1)) < least or (calls < MOST and time.perf_counter() < end):
        for name, predict in candidates.items():
            for call in range(TURN):
                batch = batches[(turn * TURN + call) % len(batches)]
                start = time.perf_counter()
                predict(batch)
                if call:
                    times[name].append(time.perf_counter() - start)
        turn += 1
    return times


def _latency(seconds: Sequence[float], size: int) -> Latency:
    found = np.asarray(seconds) * 1e3
    p50, p99 = np.percentile(found, [50, 99])
    return Latency(float(p50), float(p99), size / float(found.mean()) * 1e3, len(found))
