"""What a balancer's fork remembers between the calls of one step, and what a user may read after it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from lepton.balance import Balancer
from lepton.errors import ForkError
from lepton.linalg import holds, readable

__all__ = ["SECOND_VISIT", "Ledger", "ledger_of"]

SECOND_VISIT = (
    "backward() reached the fork a second time in one step. Balancing needs the gradients of all tasks at once: add "
    "the losses up and call loss.backward() once (lepton.MultiTaskLoss does). For gradients of single tasks, run the "
    "forward pass inside `with lepton.no_balancing():`."
)

LONE_STEPS = 20
"""So many backward passes with a single task are no accident."""

log = logging.getLogger("lepton")

_listening = False
_ledgers: weakref.WeakKeyDictionary[Balancer, Ledger] = weakref.WeakKeyDictionary()


def ledger_of(balancer: Balancer) -> Ledger:
    """Return the ledger of a balancer, made on first use; a copy of a balancer gets its own."""
    global _listening
    ledger = _ledgers.get(balancer)
    if ledger is None:
        if not _listening:
            _listening = bool(register_optimizer_step_post_hook(_after_any_step))
        ledger = _ledgers[balancer] = Ledger(balancer)
        if _save_settled not in balancer._state_dict_hooks.values():
            balancer.register_state_dict_post_hook(_save_settled)  # type: ignore[no-untyped-call]
            balancer.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]
    return ledger


_group: tuple[Any, dist.ProcessGroup] | None = None


def _group_of_forks() -> dist.ProcessGroup:
    """Return the group that all forks add up on, made on first use: every one costs connections and threads."""
    global _group
    if _group is None or _group[0] is not dist.group.WORLD:
        # DDP reduces its buckets while a fork's backward runs: on a shared group the two could interleave.
        _group = dist.group.WORLD, dist.new_group()
    return _group[1]


def _after_any_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Tell the ledgers that an optimiser has moved their parameters.

    A parameter's version would tell as well, but the fused optimisers do not count it up.
    """
    if not torch.compiler.is_compiling():  # a compiled step counts the versions up
        for ledger in _ledgers.values():
            ledger.stepped(optimizer)


def _serves(optimizer: Optimizer, parameters: Callable[[], Iterable[Tensor]]) -> bool:
    """Return whether an optimiser that has stepped has any of the parameters."""
    # In every step, so that all names of a large model are not to be gone through: most optimisers remember something.
    if any(parameter in optimizer.state for parameter in parameters()):
        return True
    mine = {id(parameter) for parameter in parameters()}
    return any(id(p) in mine for group in optimizer.param_groups for p in group["params"])


def _save_settled(balancer: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Save the state without what a step learned that was skipped, or that has not been taken yet."""
    assert isinstance(balancer, Balancer)
    for name, value in ledger_of(balancer).settled().items():
        if prefix + name in state:
            state[prefix + name] = value


def _forget(balancer: nn.Module, incompatible: Any) -> None:
    """After loading, forget the state from before."""
    assert isinstance(balancer, Balancer)
    ledger_of(balancer).forget()


class Ledger:
    """The record of one fork: the window of micro-batches under way, and the last step's results.

    A *window* is the accumulation of `window` micro-batches that end in one optimiser step. State of the balancer is
    saved when a window opens and restored before every further micro-batch, so that it advances once per window. It
    is restored as well when the next window opens and no optimiser has moved the parameters since: that is how a
    step that `GradScaler` skipped is recognised without reading anything from the device. Where no sign of an
    optimiser was ever seen (parameters updated through `.data`, say) every window counts as a step, unless the loss
    came back scaled up, as only a loss scaler does.

    Attributes:
        window: micro-batches per optimiser step.
        owner: the fork that the balancer serves, if it is a module.
        max_task_norm: bound on w_k sqrt(G_kk) for each task k, or None.
        weights: [T] weights of the last backward (before `priority`), `None` before the first.
        gramian: [T, T] Gramian of the last backward, in the scale of the user's loss.
        left_out: [T] how often each task was left out of a step because of a value that is not finite.
        room: memory of the view `parameters` on the CPU, written anew by every backward; None before the first.
    """

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = weakref.ref(balancer)
        self.window = 1
        self.owner: weakref.ref[nn.Module] | None = None
        self.max_task_norm: float | None = None
        self.group: dist.ProcessGroup | None = None
        self.weights: Tensor | None = None
        self.gramian: Tensor | None = None
        self.left_out: Tensor | None = None
        self.room: Tensor | None = None
        self.overlap_checks = 20
        self._told = False  # that a task was left out
        self._lone_steps = 0  # in a row from the beginning; -1 once that is settled
        self._overlap: tuple[Tensor, Tensor] | None = None
        self._parameters: Callable[[], Iterable[Tensor]] | None = None
        self._micro = 0
        self._closed = True
        self._version: tuple[frozenset[int], int] | None = None
        self._moved: bool | Tensor = False
        self._sign_seen = False
        self._unheld: set[str] | None = None  # the balancer's parameters that no optimiser was seen to hold
        self._scaled: Tensor | None = None
        self._saved: dict[str, Tensor] = {}
        self._statistics: list[Tensor] | None = None
        self._handed: Tensor | None = None
        self._loss_sum: Tensor | None = None
        self._weight_sum: Tensor | None = None
        self._weight_count: Tensor | None = None
        self._note: tuple[Tensor, Tensor, Tensor, bool] | None = None
        self._noted_in = self._opened_in = -1
        self._backwards = 0

    @property
    def balancer(self) -> Balancer:
        """The balancer whose ledger this is."""
        balancer = self._balancer()
        assert balancer is not None
        return balancer

    # -- several processes ------------------------------------------------------------------------------------
    def all_reduce(self, values: Tensor) -> None:
        """Sum `values` in place over the processes, on a group that nothing else uses."""
        if self.group is None:
            self.group = _group_of_forks()
        dist.all_reduce(values, group=self.group)

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        if dist.is_available() and dist.is_initialized():
            return dist.get_world_size(self.group) if self.group is not None else dist.get_world_size()
        return 1

    # -- windows ----------------------------------------------------------------------------------------------
    def watch(self, parameters: Callable[[], Iterable[Tensor]]) -> None:
        """Give the parameters whose change tells that the optimiser took its step; without them any optimiser does.

        Args:
            parameters: returns the parameters of the moment, which sharding may replace.
        """
        self._parameters = parameters

    def _versions(self) -> tuple[frozenset[int], int]:
        """Return which parameters there are (sharding exchanges them on the way), and their versions' sum."""
        parameters = [] if self._parameters is None else list(self._parameters())
        return frozenset(map(id, parameters)), sum(parameter._version for parameter in parameters)

    def _changed(self) -> bool:
        if self._version is None:
            return False
        before, now = self._version, self._versions()
        return before[0] == now[0] and before[1] != now[1]

    def stepped(self, optimizer: Optimizer) -> None:
        """Note that an optimiser has stepped, if it serves the watched parameters: that ends the window."""
        if self._unheld is None or self._unheld:
            self._look_for_parameters(optimizer)
        if self._micro == 0 or self._moved is True:
            return
        if self._parameters is not None and not _serves(optimizer, self._parameters):
            return
        # A fused optimiser is always called, and skips the update on the device if the scaler found an overflow.
        found_inf = getattr(optimizer, "found_inf", None)
        self._moved = True if found_inf is None else found_inf == 0
        self._closed = True

    def _look_for_parameters(self, optimizer: Optimizer) -> None:
        mine = {name: id(p) for name, p in self.balancer.named_parameters() if p.requires_grad}
        held = {id(p) for group in optimizer.param_groups for p in group["params"]} if mine else set()
        before = set(mine) if self._unheld is None else self._unheld
        self._unheld = {name for name in before if name in mine and mine[name] not in held}

    def _warn_of_unheld(self) -> None:
        """Warn, once, and not before the second step: another optimiser may take its first one later."""
        log.warning(
            "no optimiser holds the parameters %s of %s, so they stay as they are: give the optimiser those of the "
            "whole model, model.parameters(), or add balancer.parameters() to it",
            sorted(self._unheld or ()),
            type(self.balancer).__name__,
        )
        self._unheld = set()

    def forget(self) -> None:
        """Forget the window under way, as after loading a state."""
        self._saved, self._micro, self._closed, self._note = {}, 0, True, None

    def rewind(self) -> None:
        """Within a window, go back to the state in which it opened, on which the weights of all of it depend."""
        if not self._closed and 0 < self._micro < self.window:
            self._restore()

    def take_back(self) -> None:
        """Take the last window's state back: its step was left out."""
        self._restore()
        self.forget()

    def open(self) -> None:
        """Begin a micro-batch: restore or save the balancer's state as its place in the window demands."""
        current = torch._C._current_graph_task_id()
        if current == self._opened_in != -1 and self.balancer.acts_at_fork:
            raise ForkError(
                "two forward passes of one model meet in one backward: the balancer would see each of them as a step. "
                "Put the rows into one batch, or run one of the passes inside `with lepton.no_balancing():`."
            )
        self._opened_in = current
        if self._unheld and self._closed and self._moved is not False:
            self._warn_of_unheld()
        if self._closed or self._micro >= self.window:
            self._load(self.settled())
            self._sign_seen = self._sign_seen or self._moved is not False or self._changed()
            self._micro, self._closed = 0, False
            self._saved = {name: value.clone() for name, value in self._state()}
            self._version = self._versions() if self._saved else None
            self._moved, self._scaled = False, None
            self._statistics = self._loss_sum = self._handed = None
        else:
            self._restore()
        self._micro += 1

    def settled(self) -> dict[str, Tensor]:
        """Return the state as it is without a window whose optimiser step did not happen; nothing if it is as it is."""
        if not self._saved or (isinstance(self._moved, bool) and (self._moved or self._changed())):
            return {}
        if isinstance(self._moved, Tensor):
            return self._where(~self._moved)
        if self._sign_seen:
            return self._saved
        return {} if self._scaled is None else self._where(self._scaled)

    def _where(self, skipped: Tensor) -> dict[str, Tensor]:
        """Return the saved state where the flag, known to the device only, says so."""
        return {name: torch.where(skipped.to(value.device), self._saved[name], value) for name, value in self._state()}

    def _load(self, state: dict[str, Tensor]) -> None:
        for name, value in self._state():
            if name in state:
                value.copy_(state[name])

    def _state(self) -> list[tuple[str, Tensor]]:
        """Return the buffers that are saved; the others are constants, which a loss may need in its backward pass."""
        found = []
        for path, module in self.balancer.named_modules():
            constant = module._non_persistent_buffers_set
            own = [(name, value) for name, value in module._buffers.items() if name not in constant]
            found += [(f"{path}.{name}" if path else name, value) for name, value in own if value is not None]
        return found

    def _restore(self) -> None:
        self._load(self._saved)

    # -- the criterion's note ---------------------------------------------------------------------------------
    def note(self, scale: Tensor, losses: Tensor, present: Tensor, whole_window: bool) -> None:
        """Take down the factor that came from outside and the losses [T], and let the balancer see them."""
        current = torch._C._current_graph_task_id()
        self._noted_in = current
        self.open()
        finite = torch.where(torch.isfinite(losses), losses, 0)
        total = finite if self._loss_sum is None else self._loss_sum + finite
        self._loss_sum = total
        mean = total / self.share(whole_window)
        self._scaled = scale > 1
        self._note = (torch.where(scale == 0, 1.0, scale).detach(), mean, present, whole_window)
        self.balancer.observe(self._note[1], present)

    def take_note(self) -> tuple[Tensor, Tensor, Tensor, bool] | None:
        """Return the criterion's note of this micro-batch, once; open the micro-batch if there is none."""
        note, self._note = self._note, None
        if note is None or self._noted_in != torch._C._current_graph_task_id():
            self.open()
            return None
        return note

    def behind_scaler(self) -> Tensor | None:
        """Return which tasks [T] have a finite loss behind a loss scaler; None without a criterion's note."""
        if self._note is None:
            return None
        scale, _, present, _ = self._note
        return present & (scale.to(present.device) > 1)

    def count_backward(self, passes: Tensor) -> None:
        """Refuse more backward than forward passes through compiled graphs.

        Args:
            passes: number of forward passes, on the CPU.
        """
        self._backwards += 1
        if self._backwards > int(passes):
            raise ForkError(SECOND_VISIT)

    # -- statistics -------------------------------------------------------------------------------------------
    def accumulate(self, statistics: Sequence[Tensor], whole_window: bool, power: int = 1) -> list[Tensor]:
        """Add a micro-batch's additive statistics; return the estimate for the whole window.

        Args:
            statistics: tensors of this micro-batch, averaged over the processes.
            whole_window: the losses were already divided by the label counts of the whole window, so that the
                micro-batches add up to it instead of each standing for it.
            power: 1 for statistics that are linear in the gradients, 2 for quadratic ones.
        """
        if self.window == 1:
            return list(statistics)
        if self._statistics is None:
            self._statistics = [tensor.clone() for tensor in statistics]
        else:
            for total, tensor in zip(self._statistics, statistics, strict=True):
                total += tensor
        share = self.share(whole_window) ** power
        return [total / share for total in self._statistics]

    def window_sum(self, like: Tensor) -> Tensor | None:
        """Return the window's sum so far, of the shape of `like`, to be added to in place; None without a window."""
        if self.window == 1:
            return None
        if self._statistics is None:
            self._statistics = [torch.zeros_like(like)]
        return self._statistics[0]

    def share(self, whole_window: bool) -> float:
        """Return what the window's sum is divided by to estimate the whole window; see `accumulate`."""
        return self._micro / self.window if whole_window else float(self._micro)

    def never_together(self, overlap: Tensor, expected: Tensor) -> bool:
        """Return whether some pair of tasks shares no row, although by chance it should have; reads the device.

        Args:
            overlap: [T, T] rows of this micro-batch that both tasks have a label in.
            expected: [T, T] their expected number if labels were missing at random.
        """
        self.overlap_checks -= 1
        if self._overlap is not None:
            overlap, expected = self._overlap[0] + overlap, self._overlap[1] + expected
        self._overlap = overlap, expected
        # Eight expected and none seen: by chance that happens with probability exp(-8).
        return bool(((overlap == 0) & (expected >= 8)).any())

    # -- results ----------------------------------------------------------------------------------------------
    def solve(self, gramian: Tensor, losses: Tensor | None) -> Tensor:
        """Ask the balancer for weights [T], record them, and leave out tasks whose gradient is not finite."""
        finite = torch.isfinite(gramian.diagonal())  # the others are bounded by these
        if not holds(finite):
            self.count_left_out(~finite)
            gramian = torch.where(finite[:, None] & finite[None], gramian, 0)
        if self.balancer.wants_losses and losses is None:
            raise ForkError(
                f"{type(self.balancer).__name__} needs the losses of the batch: compute the loss with "
                "lepton.MultiTaskLoss(model), which hands them over."
            )
        self._notice_lone_tasks(gramian)
        weights = self.balancer.weights(gramian, losses=losses)
        weights = torch.where(gramian.diagonal() > 0, weights, 0).to(gramian.dtype)
        if self.max_task_norm is not None:
            norms = weights.abs() * gramian.diagonal().clamp(min=0).sqrt()
            weights = weights * (self.max_task_norm / norms.clamp(min=self.max_task_norm))
        self.weights, self.gramian = weights, gramian
        self._average(weights)
        return weights

    def _notice_lone_tasks(self, gramian: Tensor) -> None:
        """Warn if the first steps had one task each, which leaves nothing to weigh; without asking an accelerator."""
        if self._lone_steps < 0 or len(gramian) < 2 or not readable(gramian):
            return
        alone = int((gramian.diagonal() > 0).sum()) < 2
        self._lone_steps = self._lone_steps + 1 if alone else -1
        if self._lone_steps == LONE_STEPS:
            log.warning(
                "%s has seen one task at a time in the first %d backward passes, so it had nothing to weigh: add the "
                "losses of all tasks up before loss.backward(), with batches that have labels of several tasks",
                type(self.balancer).__name__,
                LONE_STEPS,
            )
            self._lone_steps = -1

    def mask(self, pulls: Tensor) -> Tensor:
        """Ask the balancer for weights [T, D] of tasks at features, and record how much of each task passes, [T]."""
        finite = torch.isfinite(pulls).all(1)
        if not holds(finite):
            self.count_left_out(~finite)
            pulls = torch.where(finite[:, None], pulls, 0)
        masks = self.balancer.masks(pulls).to(pulls)
        self.weights, self.gramian = masks.mean(1), None
        self._average(self.weights)
        return masks

    def follow(self, jacobian: Tensor, gramian: Tensor) -> tuple[Tensor, Tensor]:
        """Show the balancer the gradients [T, P]; return the weights [T] and the rows [T, P] that they combine.

        A task whose gradient is not finite is left out: its row is put to zero, in place.
        """
        finite = torch.isfinite(gramian.diagonal())
        if not holds(finite):
            self.count_left_out(~finite)
            jacobian.masked_fill_(~finite[:, None], 0)
            gramian = torch.where(finite[:, None] & finite[None], gramian, 0)
        weights, rows = self.balancer.track(jacobian)
        self.weights, self.gramian = weights, gramian
        self._average(weights)
        return weights, rows

    def hand(self, total: Tensor) -> Tensor:
        """Return what a micro-batch adds to the trunk's gradient, so that the window's gradients sum to `total`."""
        if self.window == 1:
            return total
        before, self._handed = self._handed, total
        return total if before is None else total - before

    def _average(self, weights: Tensor) -> None:
        if self._micro != self.window:
            return  # the estimate of a part of the window
        if self._weight_sum is None or self._weight_count is None:
            self._weight_sum, self._weight_count = torch.zeros_like(weights), torch.zeros_like(weights)
        self._weight_sum = self._weight_sum + weights
        self._weight_count = self._weight_count + (weights != 0)

    @property
    def mean_weights(self) -> Tensor | None:
        """[T] mean of the weights over the steps in which each task was present."""
        if self._weight_sum is None or self._weight_count is None:
            return None
        return self._weight_sum / self._weight_count.clamp(min=1)

    def count_left_out(self, left_out: Tensor) -> None:
        """Count the tasks [T] that a guard left out of this step, and tell it once where that is known."""
        if not self._told and readable(left_out) and bool(left_out.any()):
            self._told = True
            names = self.balancer.task_names
            which = [names[place] if names else place for place in left_out.nonzero()[:, 0].tolist()]
            log.warning(
                "the gradient of %s is not finite: the task is left out of the step. fork.left_out counts how often.",
                ", ".join(map(repr, which)),
            )
        self.left_out = left_out.long() if self.left_out is None else self.left_out + left_out
