"""What `attach` returns."""

from __future__ import annotations

from typing import Any, Self

from torch.utils.hooks import RemovableHandle

__all__ = ["Attached"]


class Attached:
    """A procedure that takes part in a training until `remove()`, or until the end of a `with` block.

    Args:
        handles: of the hooks that it registered.
    """

    def __init__(self, *handles: RemovableHandle) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Let the procedure take no further part."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()
