"""The memory of a computation at its peak, counted tensor by tensor on any device."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["PeakMemory"]


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made inside a `with` block and are still alive, and their peak.

    What an operation needs while it runs, and what an allocator keeps in reserve, is not seen. An accelerator's own
    count would be truer, but to read a peak one must reset it, and it may be the user's.

    Attributes:
        peak: most bytes alive at the same time.

    Example:
        >>> import torch
        >>> with PeakMemory() as memory:
        ...     total = torch.zeros(1000).sum()
        >>> memory.peak
        4004
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {_place(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if _counts(leaf)}
        for leaf in pytree.tree_leaves(found):
            if _counts(leaf) and _place(leaf) not in given:
                self._note(leaf)
        return found

    def _note(self, tensor: Tensor) -> None:
        storage, place = tensor.untyped_storage(), _place(tensor)
        if place in self._known or not storage.nbytes():
            return
        self._known.add(place)
        self._alive += storage.nbytes()
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._forget, place, storage.nbytes()).atexit = False

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self._alive -= size


def _counts(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not leaf.is_sparse


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
