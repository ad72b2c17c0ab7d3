"""What a person sees while several trainings and measurements go on, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lepton.train import Callback, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Display

__all__ = ["Watch", "watched"]


class Watch:
    """Bars on a terminal, lines elsewhere, nothing if nobody looks.

    Args:
        display: a started display; None if nobody looks.
    """

    def __init__(self, display: Display | None) -> None:
        self._display = display

    def __call__(self, description: str) -> Sequence[Callback]:
        """Return the listeners that show a training."""
        if self._display is None:
            return ()
        self._line(description)
        return (Progress(self._display, description),)

    @contextmanager
    def working(self, description: str) -> Iterator[None]:
        """Show that something else is under way."""
        if self._display is None:
            yield
            return
        self._line(description)
        bar = self._display.add_task(description, total=None)
        try:
            yield
        finally:
            self._display.remove_task(bar)

    def _line(self, description: str) -> None:
        assert self._display is not None
        if not self._display.console.is_terminal:
            self._display.console.print(f"{description} ...", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def watched(quiet: bool) -> Iterator[Watch]:
    """Give a display on stderr, unless `quiet`."""
    if quiet:
        yield Watch(None)
        return
    from rich.console import Console
    from rich.progress import Progress as Display

    with Display(console=Console(stderr=True), transient=True) as display:
        yield Watch(display)
