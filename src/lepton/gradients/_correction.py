"""What the exact Gramian, taken every n windows, says of a cheap view's Gramian in the windows between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lepton.balance import Balancer

__all__ = ["WINDOWS", "Correction", "correct_every", "correction_of"]

WINDOWS = "correction.windows"
"""The name, within a balancer's state, of the count of windows."""

DECAY = 0.5
"""Of the running mean over corrections: the ratio moves while the network trains, and one batch's is noisy."""


def log_norm_ratio(exact: Tensor, cheap: Tensor) -> tuple[Tensor, Tensor]:
    """Return log(|exact g_k| / |cheap g_k|) [T] from two Gramians [T, T], and where [T] it is known: else zero."""
    above, below = exact.diagonal(), cheap.diagonal()
    known = (above > 0) & (below > 0) & torch.isfinite(above) & torch.isfinite(below)
    ratio = torch.where(known, above, 1.0).log() - torch.where(known, below, 1.0).log()
    return ratio / 2, known


class Correction(nn.Module):
    """Keeps how the exact Gramian differs from the cheap one, and corrects the cheap one by it.

    Kept in a balancer as `correction`, whose state it shares: taken back with a skipped step, saved, copied, restored
    before each micro-batch of a window.
    """

    windows: Tensor
    ratio: Tensor
    seen: Tensor

    def __init__(self, n_tasks: int, every: int) -> None:
        super().__init__()
        self.every = every
        self.register_buffer("windows", torch.zeros((), dtype=torch.int64))
        self.register_buffer("ratio", torch.zeros(n_tasks))
        self.register_buffer("seen", torch.zeros(n_tasks))
        self._counted: int | None = None

    # -- which windows ----------------------------------------------------------------------------------------
    def due(self, opens: bool) -> bool:
        """Return whether the exact Gramian is taken in the window under way, or, if it `opens`, in the next one.

        Counted on the host, so that nothing is read from the device; the count goes to a buffer to be saved. Skipped
        steps count, too: a device may not tell of them.
        """
        return (self._number() - (not opens)) % self.every == 0

    def count(self) -> None:
        """Count a window that opens."""
        self._counted = self._number() + 1
        self.windows.fill_(self._counted)

    def recount(self) -> None:
        """Read the count again, as after loading a state."""
        self._counted = None

    def _number(self) -> int:
        if self._counted is None:
            self._counted = int(self.windows)
        return self._counted

    # -- what it says -----------------------------------------------------------------------------------------
    def learn(self, cheap: Tensor, exact: Tensor) -> None:
        """Compare the two Gramians [T, T] of one batch; an absent task's entries stay as they are."""
        ratio, known = log_norm_ratio(exact, cheap)
        self.ratio.copy_(torch.where(known, ratio.to(self.ratio).lerp(self.ratio, DECAY), self.ratio))
        self.seen += known

    def corrected(self, cheap: Tensor) -> Tensor:
        """Return the cheap Gramian [T, T] with the norms that the exact one would have."""
        mean = self.ratio / (1 - DECAY ** self.seen.clamp_min(1))
        factor = mean.exp().to(cheap)
        return cheap * factor[:, None] * factor[None]


def correction_of(balancer: Balancer) -> Correction | None:
    """Return what corrects the Gramian that this balancer is given, if anything does."""
    found = balancer._modules.get("correction")
    return found if isinstance(found, Correction) else None


def correct_every(balancer: Balancer, every: int | None) -> None:
    """Let a bound balancer's cheap view be corrected by the exact Gramian, taken every `every` windows; None: never."""
    found = correction_of(balancer)
    if every is None or not balancer.uses_gramian:
        if found is not None:
            del balancer._modules["correction"]
    elif found is None:
        assert balancer.n_tasks is not None, "bind() comes first"
        balancer.add_module("correction", Correction(balancer.n_tasks, every).to(balancer._ones.device))
    else:
        found.every = every
