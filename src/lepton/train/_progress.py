"""Progress that a person watches: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, TextIO

from lepton.train._events import Callback
from lepton.train._state import TrainState
from lepton.train._step import StepResult

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["ConsoleProgress", "Progress"]

SHOWN = 8
"""Tasks whose losses are shown: more do not fit into a line."""


class Progress(Callback):
    """Shows a bar with the steps on a `rich` progress display that belongs to the caller.

    Args:
        display: a started `rich.progress.Progress`.
        description: what is being trained.
        every: steps between updates.
    """

    def __init__(self, display: RichProgress, description: str, every: int = 10) -> None:
        self.display = display
        self.description = description
        self.every = every
        self._bar: TaskID | None = None

    def on_train_begin(self, state: TrainState) -> None:
        """Add the bar."""
        self._bar = self.display.add_task(self.description, total=state.max_steps, completed=state.step)

    def on_step_end(self, state: TrainState, result: StepResult) -> None:
        """Move the bar."""
        if self._bar is not None and state.step % self.every == 0:
            self.display.update(self._bar, completed=state.step)

    def on_train_end(self, state: TrainState) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self.display.remove_task(self._bar)


class ConsoleProgress(Callback):
    """Shows epoch, step, time left and the tasks' losses: a bar on a terminal, a line every so often elsewhere.

    Losses are read from the device with each update, not with each step.

    Args:
        tasks: the tasks' names, in the model's order.
        stream: where to write; standard error by default.
        interval: seconds between updates of the bar.
        line_interval: seconds between lines where there is no terminal; every epoch's end gives a line as well.

    Example:
        >>> import io
        >>> stream = io.StringIO()
        >>> progress = ConsoleProgress(["price"], stream=stream)
        >>> state = TrainState(step=8, epoch=1, max_steps=16)
        >>> progress.on_train_begin(state)
        >>> progress.on_epoch_end(state, {"train/price/loss": 0.25, "val/price/loss": 0.5})
        >>> stream.getvalue()
        'epoch 1, step 8 of 16: price 0.25, val 0.5\\n'
    """

    def __init__(
        self,
        tasks: list[str] | tuple[str, ...],
        *,
        stream: TextIO | None = None,
        interval: float = 0.2,
        line_interval: float = 10.0,
    ) -> None:
        self.tasks = tuple(tasks)
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.interval = interval if self.terminal else line_interval
        self._display: RichProgress | None = None
        self._bar: TaskID | None = None
        self._begun = self._shown = 0.0
        self._first_step = 0

    def on_train_begin(self, state: TrainState) -> None:
        """Start the clock and, on a terminal, the bar."""
        self._begun = self._shown = time.monotonic()
        self._first_step = state.step
        if self.terminal:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Display

            columns = BarColumn(bar_width=24), TextColumn("{task.description}")
            self._display = Display(*columns, console=Console(file=self.stream))
            self._bar = self._display.add_task("", total=state.max_steps, completed=state.step)
            self._display.start()

    def on_step_end(self, state: TrainState, result: StepResult) -> None:
        """Show the step if it is time."""
        now = time.monotonic()
        if now - self._shown < self.interval:
            return
        self._shown = now
        left = (now - self._begun) / (state.step - self._first_step) * (state.max_steps - state.step)
        found = zip(self.tasks, result.losses.tolist(), result.present.tolist(), strict=True)
        shown = shortened([f"{name} {loss:.4g}" for name, loss, present in found if present], ", ")
        self._show(
            state, f"epoch {state.epoch + 1}, step {state.step} of {state.max_steps}, {clock(left)} left: {shown}"
        )

    def on_epoch_end(self, state: TrainState, row: dict[str, float]) -> None:
        """Say how the epoch went."""
        parts = []
        for name in self.tasks:
            loss, val = row[f"train/{name}/loss"], row.get(f"val/{name}/loss")
            if math.isnan(loss) and (val is None or math.isnan(val)):
                continue  # a task without labels here, such as an old one while a new one is learned
            parts.append(f"{name} {loss:.4g}" + ("" if val is None else f", val {val:.4g}"))
        text = f"epoch {state.epoch}, step {state.step} of {state.max_steps}: {shortened(parts, '; ')}"
        if self._display is not None:
            self._display.console.print(text, highlight=False, markup=False)
        self._show(state, text, line=self._display is None)

    def _show(self, state: TrainState, text: str, line: bool = True) -> None:
        if self._display is not None and self._bar is not None:
            self._display.update(self._bar, completed=state.step, description=text.replace("[", "\\["))
        elif line:
            self.stream.write(text + "\n")
            self.stream.flush()

    def on_train_end(self, state: TrainState) -> None:
        """Stop the bar and say why the training ended early."""
        if self._display is not None:
            self._display.stop()
            self._display = None
        if state.stopped:
            self.stream.write(f"stopped: {state.stopped}\n")


def shortened(parts: list[str], separator: str) -> str:
    """Join the parts; of very many only the first, and how many more there are."""
    more = f"{separator}and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    return separator.join(parts[:SHOWN]) + more


def clock(seconds: float) -> str:
    """Return a time as `h:mm:ss` or `m:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
