"""The view `parameters`: the tasks' true gradients over the shared parameters, within a budget of memory.

Letters: T tasks, P numbers in the shared parameters. The gradients J [T, P] are held at once where they fit: then the
trunk's gradient w J is there as well, and goes to the parameters straight from the fork, without a further backward
pass. Otherwise the Gramian is added up over groups of parameters, each group with T backward passes that end at the
group; a parameter that is too large for T rows is taken in blocks of rows, which costs further passes. All three are
exact.

The tasks are differentiated one after the other. All at once (`is_grads_batched`) was tried on one core at T = 8: 1.05
to 1.2 of the time in twos and 1.2 to 1.5 in one batch, on MLP, CNN and Transformer, and T times the activations.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lepton.balance import Balancer
from lepton.errors import ForkError
from lepton.gradients._ledger import Ledger, ledger_of
from lepton.gradients._upstream import Upstream
from lepton.gradients._views import index_tensor
from lepton.linalg import holds, readable

__all__ = ["Handed", "memory_limit", "prepare_state", "weigh_parameters"]

Handed = list[Tensor | None]
"""A gradient for each shared parameter."""

Rows = Callable[[int], Sequence[tuple[Tensor, Tensor]]]
"""For a task at the fork, its features and cotangents; nothing where it is absent."""

Note = tuple[Tensor, Tensor, Tensor, bool]
"""What the criterion noted: the factor from outside, the losses, which tasks are present, whose counts they have."""

PART = 2**20
"""Numbers of the gradients that are scaled, averaged and multiplied at once: the working memory beside them."""


def weigh_parameters(
    handle: Tensor, priority: Tensor, order: Sequence[int], upstream: Upstream, rows: Rows
) -> tuple[Tensor, Handed | None]:
    """Return the weights [T] times the priorities, in the fork's order, and the trunk's gradient where it is there.

    Args:
        handle: the balancer's handle.
        priority: [T] in the model's order.
        order: for each task at the fork its place among the model's tasks.
        upstream: what is differentiated.
        rows: the features and cotangents of each task at the fork.
    """
    balancer = Balancer.of(handle).bind(len(order))
    ledger = ledger_of(balancer)
    note = ledger.take_note()
    scale, losses, _, whole_window = note or (None, None, None, False)
    unscale = None if scale is None or holds(scale == 1) else 1 / scale
    at = [rows(order.index(task)) for task in range(len(order))]
    trunk = _Trunk(upstream.shared, at)
    if balancer.uses_jacobian:
        return _follow(ledger, trunk, note, priority, order, upstream)
    gramian = _Gramian(ledger, unscale, whole_window, trunk.empty(len(order), len(order)).zero_())
    if not trunk.fits(trunk.size * (1 if ledger.window == 1 else 2), upstream.budget):
        _refuse_window(ledger, upstream)
        for group in trunk.groups(upstream.budget):
            _add_group(gramian, trunk, group, upstream.budget)
        weights = _tell_scaler(ledger.solve(gramian.total, losses) * priority.to(gramian.total), gramian.total, note)
        handed = None
    else:
        jacobian = trunk.fill(range(len(at)), range(len(upstream.shared)))
        held = gramian.of_held(jacobian)
        weights = _tell_scaler(ledger.solve(held, losses) * priority.to(held), held, note)
        handed = trunk.hand(_weighted(jacobian, weights)) if upstream.whole else None
    forth = index_tensor(tuple(order), weights.device)
    return weights if list(order) == sorted(order) else weights[forth], handed


def _follow(
    ledger: Ledger,
    trunk: _Trunk,
    note: Note | None,
    priority: Tensor,
    order: Sequence[int],
    upstream: Upstream,
) -> tuple[Tensor, Handed | None]:
    """Let a balancer that follows the gradients themselves say what the trunk gets."""
    scale, _, _, whole_window = note or (None, None, None, False)
    unscale = None if scale is None else 1 / scale
    gramian = _Gramian(ledger, unscale, whole_window, trunk.empty(0))
    jacobian = gramian.settle(trunk.fill(range(len(order)), range(len(upstream.shared))))
    products = jacobian @ jacobian.T
    weights, rows = ledger.follow(jacobian, products)
    weights = _tell_scaler(weights * priority.to(weights), products, note)
    if not ledger.balancer.replaces_gradient:
        forth = index_tensor(tuple(order), weights.device)
        return weights[forth], None
    total = (weights @ rows) * ledger.share(whole_window)
    return weights, trunk.hand(ledger.hand(total if scale is None else total * scale), every=True)


def _tell_scaler(weights: Tensor, gramian: Tensor, note: Note | None) -> Tensor:
    """Return the weights, or NaN for all if a present task's gradient overflowed behind a loss scaler.

    The task is left out of the Gramian; a scaler that saw nothing would never lower its scale.
    """
    if note is None:
        return weights
    scale, _, present, _ = note
    overflow = (~torch.isfinite(gramian.diagonal()) & present).any() & (scale > 1)
    return torch.where(overflow, torch.nan, weights)


def memory_limit(budget: float, device: torch.device) -> float:
    """Return a budget in bytes: as it is, or that share of the device's memory if it is at most 1."""
    if budget > 1:
        return budget
    if device.type == "cuda":
        return budget * torch.cuda.get_device_properties(device).total_memory
    return budget * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def prepare_state(balancer: Balancer, upstream: Upstream) -> None:
    """Create a balancer's state for the shared parameters, or say why it cannot be followed here."""
    name = type(balancer).__name__
    assert balancer.n_tasks is not None, "bind() comes first"
    if balancer.replaces_gradient and not upstream.whole:
        raise ForkError(
            f"{name} gives the trunk's gradient itself, but something upstream of the fork wants one of its own: "
            "parameters outside shared=, inputs that require gradients, or a backward hook on a parameter, a module or "
            "the features. Share the whole trunk and take the hook off, or choose another balancer."
        )
    trunk = _Trunk(upstream.shared, [()] * balancer.n_tasks)
    # The gradients, the state, and its copy while a step is under way; with accumulation, the window's sum.
    copies = 3 if ledger_of(balancer).window == 1 else 4
    if not trunk.fits(copies * trunk.size, upstream.budget):
        raise ForkError(
            f"{name} follows {trunk.size:,} numbers, those of {balancer.n_tasks} tasks in all shared parameters, and "
            f"needs {copies * trunk.size * trunk.dtype.itemsize:,} bytes for it: more than "
            f"memory_budget={upstream.budget:g}. Raise the budget, name a part of the trunk with shared=, or choose a "
            "balancer that keeps none."
        )
    balancer.bind_parameters(sum(trunk.sizes), upstream.shared[0].device)


def _refuse_window(ledger: Ledger, upstream: Upstream) -> None:
    if ledger.window > 1:
        raise ForkError(
            'gradients="parameters" with gradient_accumulation_steps above 1 keeps the sum of the tasks\' gradients '
            f"over the window, and that does not fit into memory_budget={upstream.budget:g}: raise the budget, name a "
            'part of the trunk with shared=, or choose gradients="fork_layer".'
        )


def _weighted(jacobian: Tensor, weights: Tensor) -> Tensor:
    """Return w J [P]; rows of weight zero may not be finite, so they are put to zero first, in place."""
    left_out = weights == 0
    if not readable(left_out) or bool(left_out.any()):
        jacobian.masked_fill_(left_out[:, None], 0)
    return weights.to(jacobian.dtype) @ jacobian


class _Trunk:
    """The trunk, to be differentiated for one task at a time."""

    def __init__(self, shared: Sequence[Tensor], at: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> None:
        self.shared = shared
        self.at = at
        self.sizes = [parameter.numel() for parameter in shared]
        self.size = len(at) * sum(self.sizes)
        doubles = any(parameter.dtype == torch.float64 for parameter in shared)
        self.dtype = torch.float64 if doubles else torch.float32
        self.seen: dict[int, bool] = {}  # which parameters had a gradient, and whether it was sparse

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.shared[0].device)

    def fits(self, numbers: float, budget: float | None) -> bool:
        """Return whether so many numbers are within the budget."""
        return budget is None or numbers * self.dtype.itemsize <= memory_limit(budget, self.shared[0].device)

    def groups(self, budget: float | None) -> Iterator[list[int]]:
        """Yield groups of neighbouring parameters, by their places, that fit for all tasks; at least one each."""
        group: list[int] = []
        for place, size in enumerate(self.sizes):
            numbers = len(self.at) * (size + sum(self.sizes[i] for i in group))
            if group and not self.fits(numbers, budget):
                yield group
                group = []
            group.append(place)
        yield group

    def fill(self, tasks: Sequence[int], places: Sequence[int]) -> Tensor:
        """Return the gradients of some tasks over some parameters, in one matrix."""
        out = self.empty(len(tasks), sum(self.sizes[place] for place in places))
        for row, task in zip(out, tasks, strict=True):
            self._fill_row(row, task, places)  # a function of its own: its gradients go before the next ones come
        return out

    def _fill_row(self, row: Tensor, task: int, places: Sequence[int]) -> None:
        parameters = [self.shared[place] for place in places]
        found = self._gradient(task, parameters)
        parts = torch.split(row, [self.sizes[place] for place in places])
        into, given = [], []
        for place, part, parameter, gradient in zip(places, parts, parameters, found, strict=True):
            if gradient is None:
                part.zero_()
            else:
                self.seen[place] = gradient.is_sparse
                into.append(part.view(parameter.shape))
                given.append(_dense(gradient))
        if into:
            torch._foreach_copy_(into, given)

    def _gradient(self, task: int, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
        if not self.at[task]:
            return [None] * len(parameters)
        leaves = [leaf for leaf, _ in self.at[task]]
        cotangents = [cotangent.to(leaf.dtype) for leaf, cotangent in self.at[task]]
        return torch.autograd.grad(leaves, parameters, cotangents, retain_graph=True, allow_unused=True)

    def hand(self, gradient: Tensor, every: bool = False) -> Handed:
        """Return a gradient [P] as one for each parameter.

        Args:
            gradient: [P].
            every: also for a parameter that no task has a gradient of now; None otherwise.
        """
        parts = torch.split(gradient, self.sizes)
        return [self._part(i, part) if every or i in self.seen else None for i, part in enumerate(parts)]

    def _part(self, place: int, part: Tensor) -> Tensor:
        found = part.view(self.shared[place].shape).to(self.shared[place].dtype)
        return found.to_sparse(1) if self.seen.get(place, False) else found


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


@dataclass
class _Gramian:
    """The Gramian [T, T] as it is added up."""

    ledger: Ledger
    unscale: Tensor | None
    whole_window: bool
    total: Tensor = field(repr=False)

    def settled(self, part: Tensor) -> Tensor:
        """Return gradients in the user's scale, averaged over the processes as data parallelism does."""
        if self.unscale is not None:
            part = part * self.unscale  # before anything is squared
        if self.ledger.world_size > 1:
            part = part.clone(memory_format=torch.contiguous_format)
            self.ledger.all_reduce(part)
            part /= self.ledger.world_size
        return part

    def of_held(self, jacobian: Tensor) -> Tensor:
        """Return the Gramian of gradients [T, P] that are all there, over the window so far."""
        window = self.ledger.window_sum(jacobian)
        step = max(1, PART // len(jacobian))
        for start in range(0, jacobian.shape[1], step):
            part = self.settled(jacobian[:, start : start + step])
            if window is not None:
                part = window[:, start : start + step].add_(part)
            self.total.addmm_(part, part.T)
        return self.total / self.ledger.share(self.whole_window) ** 2

    def settle(self, jacobian: Tensor) -> Tensor:
        """Settle gradients [T, P] in place, and return the estimate for the whole window."""
        step = max(1, PART // len(jacobian))
        window = self.ledger.window_sum(jacobian)
        for start in range(0, jacobian.shape[1], step):
            part = jacobian[:, start : start + step]
            part.copy_(self.settled(part))
        if window is not None:
            torch.div(window.add_(jacobian), self.ledger.share(self.whole_window), out=jacobian)
        return jacobian

    def add(self, part: Tensor, rows: slice) -> None:
        """Add the products of the tasks `rows` with each other, over some of the parameters."""
        part = self.settled(part)
        self.total[rows, rows].addmm_(part, part.T)

    def add_pair(self, row: Tensor, task: int, block: Tensor, rows: slice) -> None:
        """Add the products of one task with the tasks `rows`."""
        products = self.settled(row) @ self.settled(block).T
        self.total[task : task + 1, rows] += products
        self.total[rows, task : task + 1] += products.T


def _add_group(gramian: _Gramian, trunk: _Trunk, group: list[int], budget: float | None) -> None:
    """Add one group of parameters; in blocks of rows where a single parameter is too large for all tasks."""
    size, n_tasks = sum(trunk.sizes[place] for place in group), len(trunk.at)
    height = n_tasks
    while height > 1 and not trunk.fits(size * (height + (height < n_tasks)), budget):
        height -= 1
    if height < n_tasks and not trunk.fits(2 * size, budget):
        raise ForkError(
            f"memory_budget={budget:g} cannot hold two tasks' gradients of the parameter of shape "
            f"{list(trunk.shared[group[0]].shape)}: that needs {2 * size * trunk.dtype.itemsize} bytes. Raise the "
            'budget, name a part of the trunk with shared=, or choose gradients="fork_layer".'
        )
    for start in range(0, n_tasks, height):
        rows = slice(start, min(start + height, n_tasks))
        block = trunk.fill(range(rows.start, rows.stop), group)
        gramian.add(block, rows)
        for task in range(rows.stop, n_tasks):
            gramian.add_pair(trunk.fill([task], group), task, block, rows)
