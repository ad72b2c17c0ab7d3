"""The door: everything that touches a balancer's state, opaque to `torch.compile` and always run eagerly.

With the balancer's update written in a backward that is traced, `torch.compile(fullgraph=True)` compiles without
complaint and trains with wrong weights. Behind one operator nothing of it is traced: forming the Gramian, the sum over
processes, the solver, the state, the record. The operator finds its balancer by a tensor handle and returns a fresh
tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lepton.balance import Balancer
from lepton.errors import ConfigurationError
from lepton.gradients._ledger import Ledger, ledger_of
from lepton.gradients._views import (
    features_gramian,
    fork_layer_gramian,
    fork_layer_kernel,
    fork_layer_statistic,
    index_tensor,
    rows_overlap,
    signs_statistic,
    wide,
)
from lepton.linalg import holds

__all__ = ["open_door"]


def open_door(
    handle: Tensor,
    priority: Tensor,
    view: str,
    order: list[int],
    z: list[Tensor],
    cotangents: list[Tensor],
    places: list[int],
    linear: list[Tensor],
    segments: list[int],
) -> Tensor:
    """Return the balancer's weights times the priorities, [T] in the fork's order; [T, D] in the view `signs`.

    Args:
        handle: the balancer's handle.
        priority: [T] in the model's order.
        view: which Gramian.
        order: for each task at the fork, fused ones first, its place among the model's tasks.
        z: the features as matrices [N, D], one for each leaf; with a trunk pass per task one for each leaf and task.
        cotangents: the present ones [N, D], leaf by leaf.
        places: the number of leaves, for each leaf its number of present cotangents, for each of these its task.
        linear: weight gradient [C, D], output cotangents [N, C] and weight [C, D] of the fused heads, if any;
            zeros where none of their tasks is present, so that every micro-batch and process has the same shapes.
        segments: number of outputs of each fused head.
    """
    # The operator costs some ten microseconds of dispatch that only a compiled graph needs.
    door = _weigh_op if torch.compiler.is_compiling() else _weigh_behind_door
    weights: Tensor = door(handle, priority, view, order, z, cotangents, places, linear, segments)
    return weights


def _weigh_behind_door(
    handle: Tensor,
    priority: Tensor,
    view: str,
    order: list[int],
    z: list[Tensor],
    cotangents: list[Tensor],
    places: list[int],
    linear: list[Tensor],
    segments: list[int],
) -> Tensor:
    balancer = Balancer.of(handle).bind(len(order))
    ledger = ledger_of(balancer)
    note = ledger.take_note()
    scale, losses, _, whole_window = note or (None, None, None, False)
    own = _by_leaf(len(order) - len(segments), cotangents, places)
    device_type = (linear or z)[0].device.type
    with torch.no_grad(), torch.autocast(device_type, enabled=False):
        # Before anything is squared: the square of a scaled gradient may not fit into float32.
        if view == "signs":
            pulls = _pulls(ledger, own, z, linear, tuple(segments), whole_window)
            forth, back = _orders(order, pulls.device)
            return (ledger.mask(pulls[back]) * priority.to(pulls)[:, None])[forth]
        unscale = None if scale is None or holds(scale == 1) else 1 / scale
        gramian = _gramian(ledger, view, own, z, linear, tuple(segments), whole_window, unscale)
        if order == sorted(order):
            return ledger.solve(gramian, losses) * priority.to(gramian)
        forth, back = _orders(order, gramian.device)
        weights: Tensor = ledger.solve(gramian[back][:, back], losses) * priority.to(gramian)
        return weights[forth]


def _orders(order: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what brings [T] from the model's order into the fork's, and back."""
    forth = index_tensor(tuple(order), device)
    return forth, index_tensor(tuple(order.index(task) for task in range(len(order))), device)


def _weigh_compiled(
    handle: Tensor,
    priority: Tensor,
    view: str,
    order: list[int],
    z: list[Tensor],
    cotangents: list[Tensor],
    places: list[int],
    linear: list[Tensor],
    segments: list[int],
) -> Tensor:
    balancer = Balancer.of(handle)
    ledger_of(balancer).count_backward(balancer.passes)
    return _weigh_behind_door(handle, priority, view, order, z, cotangents, places, linear, segments)


_weigh_op = torch.library.custom_op("lepton::weigh", _weigh_compiled, mutates_args=())


@_weigh_op.register_fake
def _(
    handle: Tensor,
    priority: Tensor,
    view: str,
    order: list[int],
    z: list[Tensor],
    cotangents: list[Tensor],
    places: list[int],
    linear: list[Tensor],
    segments: list[int],
) -> Tensor:
    like = (linear or [wide(tensor[:0]) for tensor in z])[0]
    if view == "signs":
        each = len(z) // max(1, places[0] if places else 1)
        return like.new_empty(len(order), sum(tensor.shape[1] for tensor in z[::each]))
    return like.new_empty(len(order))


def _by_leaf(n_own: int, cotangents: Sequence[Tensor], places: Sequence[int]) -> list[list[Tensor | None]]:
    """Put the present cotangents back into one row of K entries for each leaf."""
    n_leaves = places[0] if places else 0
    counts, tasks = places[1 : 1 + n_leaves], places[1 + n_leaves :]
    columns: list[list[Tensor | None]] = []
    start = 0
    for count in counts:
        column: list[Tensor | None] = [None] * n_own
        for position in range(start, start + count):
            column[tasks[position]] = cotangents[position]
        columns.append(column)
        start += count
    return columns


def _gramian(
    ledger: Ledger,
    view: str,
    own: list[list[Tensor | None]],
    z: Sequence[Tensor],
    linear: Sequence[Tensor],
    segments: tuple[int, ...],
    whole_window: bool,
    unscale: Tensor | None,
) -> Tensor:
    if unscale is not None and linear:
        linear = [linear[0] * unscale, linear[1] * unscale, linear[2]]
    if view == "features":
        return _features(ledger, _scaled(own, unscale), linear, segments, whole_window)
    gradient, _, weight = linear or (None, None, None)
    single = ledger.world_size == 1 and ledger.window == 1
    if single and gradient is None and len(z) == 1 and z[0].shape[0] < z[0].shape[1]:
        return fork_layer_kernel(z[0], _scaled(own, unscale)[0])
    each = len(z) // len(own) if own else 0  # one matrix per leaf, or one per leaf and task
    statistics = [fork_layer_statistic(z[i * each : (i + 1) * each], column) for i, column in enumerate(own)]
    if unscale is not None:
        statistics = [statistic * unscale for statistic in statistics]
    additive = [_average(ledger, tensor) for tensor in [*statistics, *([] if gradient is None else [gradient])]]
    summed = ledger.accumulate(additive, whole_window)
    if gradient is None:
        return fork_layer_gramian(summed, None, None, segments)
    return fork_layer_gramian(summed[:-1], summed[-1], weight, segments)


def _pulls(
    ledger: Ledger,
    own: list[list[Tensor | None]],
    z: Sequence[Tensor],
    linear: Sequence[Tensor],
    segments: tuple[int, ...],
    whole_window: bool,
) -> Tensor:
    outputs, weight = (linear[1], linear[2]) if linear else (None, None)
    pulls = _average(ledger, signs_statistic(z, own, outputs, weight, segments))
    (window,) = ledger.accumulate([pulls], whole_window)
    return window


def _scaled(own: list[list[Tensor | None]], factor: Tensor | None) -> list[list[Tensor | None]]:
    if factor is None:
        return own
    return [[None if c is None else wide(c) * factor for c in column] for column in own]


def _average(ledger: Ledger, statistic: Tensor) -> Tensor:
    """Average over the processes, as data parallelism averages gradients."""
    if ledger.world_size == 1:
        return statistic
    statistic = statistic.clone()
    ledger.all_reduce(statistic)
    return statistic / ledger.world_size


def _features(
    ledger: Ledger,
    own: list[list[Tensor | None]],
    linear: Sequence[Tensor],
    segments: tuple[int, ...],
    whole_window: bool,
) -> Tensor:
    outputs, weight = (linear[1], linear[2]) if linear else (None, None)
    gramian = features_gramian(own, outputs, weight, segments)
    if ledger.world_size > 1:
        ledger.all_reduce(gramian)
        gramian = gramian / ledger.world_size**2
    if ledger.overlap_checks > 0:
        _refuse_disjoint_rows(ledger, own, outputs, segments)
    if ledger.window == 1:
        return gramian
    # Micro-batches hold different rows: their Gramians add up.
    (window,) = ledger.accumulate([gramian], whole_window, power=2)
    return window


def _refuse_disjoint_rows(
    ledger: Ledger, own: list[list[Tensor | None]], outputs: Tensor | None, segments: tuple[int, ...]
) -> None:
    """Look, in the first steps only because it reads from the device, whether some pair of tasks never shares a row."""
    overlap, n_rows = rows_overlap(own, outputs, segments)
    if ledger.world_size > 1:
        ledger.all_reduce(overlap)
        n_rows *= ledger.world_size
    each = overlap.diagonal()
    if ledger.never_together(overlap, each[:, None] * each[None] / n_rows):
        raise ConfigurationError(
            'gradients="features" compares the tasks row by row, but some tasks share no row with each other: their '
            'inner products would be zero by construction. Choose gradients="fork_layer" (the default), which '
            "compares them over the whole batch."
        )
