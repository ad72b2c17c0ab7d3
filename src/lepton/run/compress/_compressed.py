"""`Compressed`: the forms of a run's model, side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lepton.data import without_nan
from lepton.errors import MissingExtraError
from lepton.insight import MetricInfo, SizedScores, as_bytes, plot_sweep, png_of
from lepton.run._folder import write_json
from lepton.run.compress._distilled import Distilled
from lepton.run.compress._form import Form, lost
from lepton.train import write_atomically

__all__ = ["Compressed"]

SHOWN_TASKS = 4
"""Tasks with columns of their own: more do not fit into a terminal."""


@dataclass(frozen=True)
class Compressed:
    """What `compress_run` made and found. `console.print(*compressed.tables())` shows it.

    Attributes:
        folder: the new folder.
        name: of the run.
        forms: the original first.
        metrics: task -> the metric by which it is judged.
        part: the rows whose scores are shown.
        judged_on: the rows by which the smallest form is chosen: validation rows where there are test rows as well.
        batch_sizes: rows of the batches that were timed.
        machine: what it was measured on, in words.
        limit: points that a task may lose.
        distilled: every student beside the same student without a teacher.
        notes: what could not be made, and why.
    """

    folder: Path
    name: str
    forms: tuple[Form, ...]
    metrics: Mapping[str, MetricInfo]
    part: str
    judged_on: str
    batch_sizes: tuple[int, ...]
    machine: str
    limit: float = 1.0
    distilled: tuple[Distilled, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def original(self) -> Form:
        """The run as it is, in torch."""
        return self.forms[0]

    def form(self, name: str) -> Form:
        """Return a form by its name."""
        return next(form for form in self.forms if form.name == name)

    def lost(self, form: Form, part: str | None = None) -> dict[str, float]:
        """Return task -> what a form loses against the original; see `lepton.run.compress.lost`.

        Args:
            form: the form.
            part: of the rows; by default those that are shown.
        """
        scores, before = form.scores[part or self.part], self.original.scores[part or self.part]
        return {task: lost(self.metrics[task], before[task], found) for task, found in scores.items()}

    @property
    def smallest(self) -> Form | None:
        """The smallest exported form that loses no more than `limit` on any task, by the rows that it is chosen by.

        None if there is none that is smaller than the original.
        """
        fitting = [
            form
            for form in self.forms
            if form.folder is not None
            and all(apart <= self.limit for apart in self.lost(form, self.judged_on).values())
        ]
        found = min(fitting, key=_bytes, default=None)
        return found if found is not None and _bytes(found) < _bytes(self.original) else None

    # -- words ------------------------------------------------------------------------------------------------
    def costs(self) -> list[list[str]]:
        """Return headings and for each form one row for each size of a batch: its size and its times."""
        rows = [row for form in self.forms for row in self._costs(form)]
        return [["form", "size", "smaller", "batch", "p50 ms", "p99 ms", "rows/s"], *rows]

    def _costs(self, form: Form) -> Iterator[list[str]]:
        about = [form.name, as_bytes(_bytes(form)), f"{form.cost.times_smaller(self.original.cost):.1f}x"]
        for size in self.batch_sizes:
            found = form.cost.latency[size]
            yield [*about, str(size), f"{found.p50:.3g}", f"{found.p99:.3g}", f"{found.rows_per_second:,.0f}"]
            about = ["", "", ""]

    def scores(self) -> list[list[str]]:
        """Return headings and one row for each form: its metrics and what it lost.

        With more tasks than fit into a table: the task that loses most, and the mean of all.
        """
        if len(self.metrics) > SHOWN_TASKS:
            return [["form", "loses most", "lost", "mean lost"], *map(self._worst, self.forms)]
        arrows = {task: "↑" if metric.higher_is_better else "↓" for task, metric in self.metrics.items()}
        heads = ((f"{task} {metric.name} {arrows[task]}", "lost") for task, metric in self.metrics.items())
        head = ["form", *(word for both in heads for word in both)]
        return [head, *([form.name, *self._scores(form)] for form in self.forms)]

    def _worst(self, form: Form) -> list[str]:
        apart = self.lost(form)
        worst = max(apart, key=lambda task: apart[task])
        return [form.name, worst, _signed(apart[worst]), _signed(statistics.fmean(apart.values()))]

    def _scores(self, form: Form) -> Iterator[str]:
        apart = self.lost(form)
        for task, metric in self.metrics.items():
            yield f"{form.scores[self.part][task][metric.name]:.4g}"
            yield "" if form is self.original else _signed(apart[task])

    def tables(self) -> list[Any]:
        """Return two tables for a terminal: what the forms cost, and what they lose."""
        from rich.table import Table

        found = []
        for title, (head, *rows) in (
            (f"{self.name}: size and time, {self.machine}", self.costs()),
            (f"{self.name}: {self.part} rows", self.scores()),
        ):
            table = Table(title=title, title_justify="left")
            for place, name in enumerate(head):
                table.add_column(name, justify="right" if place else "left", no_wrap=not place)
            for row in rows:
                table.add_row(*row)
            found.append(table)
        return found

    def sentences(self) -> list[str]:
        """Return what follows from the table, and what it does not say."""
        said = [self._chosen()]
        slower = [words for form in self.forms[1:] for words in self._slower(form)]
        said += [f"Slower than the original here: {'; '.join(slower)}."] if slower else []
        said += [_distilled_words(found) for found in self.distilled]
        said += self.notes
        said.append(
            "Lost: points (hundredths) of a metric that is a share, percent of any other; a negative number is a gain. "
            f"Times are those of the network from a batch of inputs to named outputs, on {self.machine}, all forms in "
            "turns; they say nothing of another machine."
        )
        return said

    def _chosen(self) -> str:
        chosen, rows = self.smallest, f"{self.judged_on} rows"
        if chosen is None:
            return f"No form is smaller than the original and loses at most {self.limit:g} on every task ({rows})."
        worst = max(self.lost(chosen, self.judged_on).items(), key=lambda item: item[1])
        return (
            f"Smallest with at most {self.limit:g} lost on every task, by the {rows}: {chosen.name}, "
            f"{chosen.cost.times_smaller(self.original.cost):.1f} times smaller than the original; there it loses most "
            f"on {worst[0]!r}, {_signed(worst[1])}. {self._speed(chosen)}"
        )

    def _speed(self, form: Form) -> str:
        told = []
        for size in self.batch_sizes:
            times = form.cost.times_faster(self.original.cost, size)
            word = "times faster" if times >= 1 else "times slower"
            told.append(f"{max(times, 1 / times):.1f} {word} at batch {size}")
        return f"Measured here it is {', '.join(told)}, than the original in torch."

    def _slower(self, form: Form) -> Iterator[str]:
        before = self.original.cost.latency
        slow = [size for size in self.batch_sizes if form.cost.latency[size].p50 > before[size].p50]
        if slow:
            times = (f"{form.cost.latency[size].p50:.3g} ms instead of {before[size].p50:.3g}" for size in slow)
            yield f"{form.name}, " + ", ".join(f"batch {size}: {each}" for size, each in zip(slow, times, strict=True))

    # -- files ------------------------------------------------------------------------------------------------
    def write(self) -> None:
        """Write `results.json`, `README.md` and, where matplotlib is installed, `sweep.png` into the folder."""
        write_json(self.folder / "results.json", self.to_dict())
        picture = True
        try:
            write_atomically(self.folder / "sweep.png", png_of(self.sweep()))
        except MissingExtraError:  # a picture is no reason to lose what was measured
            picture = False
        write_atomically(self.folder / "README.md", self.readme(picture).encode())

    def to_dict(self) -> dict[str, Any]:
        """Return what `results.json` holds."""
        return without_nan(  # type: ignore[no-any-return]
            {
                "run": self.name,
                "part": self.part,
                "judged_on": self.judged_on,
                "limit": self.limit,
                "machine": self.machine,
                "metrics": {task: asdict(metric) for task, metric in self.metrics.items()},
                "forms": {form.name: form.to_dict() | {"lost": self.lost(form)} for form in self.forms},
                "smallest": None if self.smallest is None else self.smallest.name,
                "distilled": [found.to_dict() for found in self.distilled],
                "notes": list(self.notes),
            }
        )

    def readme(self, picture: bool) -> str:
        """Return the page in the folder, in Markdown.

        Args:
            picture: whether `sweep.png` lies beside it.
        """
        hows = [f"- `{form.name}`: {form.how}" for form in self.forms]
        made = [form for form in self.forms if form.folder is not None]
        best = self.smallest or made[0]
        return "\n".join(
            [
                f"# {self.name}, compressed",
                "",
                *([] if not picture else ["![Size against accuracy](sweep.png)", ""]),
                *_markdown(*self.costs()),
                "",
                *_markdown(*self.scores()),
                "",
                *hows,
                "",
                *[f"{sentence}\n" for sentence in self.sentences()],
                "Each folder here predicts by itself:",
                "",
                "```sh",
                f"lepton predict {best.name} ROWS",
                f"lepton serve {best.name}",
                "```",
                "",
            ]
        )

    def sweep(self) -> Any:
        """Return the picture: size against the metric of each task."""
        forms = {}
        for form in self.forms:
            drawn = {task: found[self.metrics[task].name] for task, found in form.scores[self.part].items()}
            forms[form.name] = SizedScores(_bytes(form), drawn, form.family)
        return plot_sweep(forms, self.metrics, self.original.name)


def _bytes(form: Form) -> int:
    assert form.cost.bytes is not None
    return form.cost.bytes


def _signed(points: float) -> str:
    return f"{round(points, 2) + 0.0:+.2f}"  # 0.0 turns -0.0, which would look like a gain, into 0.0


def _distilled_words(found: Distilled) -> str:
    """Say of the primary metrics what a teacher gained."""
    told = []
    for task in found.run.tasks:
        gain = next((gain for gain in found.gains if gain.task == task), None)
        if gain is not None and not math.isnan(gain.difference.mean):
            told.append(f"{task} {gain.metric} {gain.control.mean:.4g} alone, {gain.student.mean:.4g} taught")
    runs = "one training each, so that chance is in it" if len(found.students) == 1 else f"{len(found.students)} seeds"
    return f"{found.folder.name}, {found.part} rows: {'; '.join(told)} ({runs})."


def _markdown(head: Sequence[str], *rows: Sequence[str]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
