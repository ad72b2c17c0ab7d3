from __future__ import annotations

from collections.abc import Sequence

from lepton.insight._results import RunResult
from lepton.insight.comparison._comparison import Comparison
from lepton.insight.comparison._plots import plot_comparison, plot_conflict, plot_curves, plot_weights
from lepton.insight.comparison._sentences import summary_sentences
from lepton.insight.comparison._table import comparison_table
from lepton.insight.page import CONFLICT_WARNING, Block, Chart, Points, Section

__all__ = ["comparison_sections"]


def comparison_sections(
    comparison: Comparison,
    results: Sequence[RunResult],
    baselines: Sequence[RunResult] = (),
    *,
    reference: str | None = None,
) -> list[Section]:
    """Return the standard report of a comparison: words, scores, table, curves, weights, conflict.

    What was not logged is left out. Add sections of your own before handing them to `write_report`.

    Args:
        comparison: of these results and baselines.
        results: the runs that it compares; their histories are drawn.
        baselines: the single-task runs, drawn beside them.
        reference: the method whose time per step counts as 1, and whose conflicts are shown if it has logged any;
            by default the first one.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        ConfigurationError: if no method is called `reference`.
    """
    sentences = summary_sentences(comparison)
    table = comparison_table(comparison, reference)
    sections = [
        Section("", (sentences[0], Points(tuple(sentences[1:])))),
        Section("Each task, alone and shared", (_comparison_chart(comparison),)),
        Section("Scores and costs", (table, *_notes(comparison))),
    ]
    tasks = list(comparison.metrics)
    drawn = {
        "Learning curves": _curve_charts(comparison, [*baselines, *results]),
        "Task weights": _weight_charts(results, tasks),
        "Conflict between tasks": _conflict_blocks(results, tasks, reference),
    }
    return sections + [Section(heading, blocks) for heading, blocks in drawn.items() if blocks]


def _comparison_chart(comparison: Comparison) -> Chart:
    sentences = summary_sentences(comparison)
    return Chart(
        plot_comparison(comparison),
        f"Dot plot of every task's primary metric under every method, beside the task alone. {sentences[0]}",
        "Right is better in every panel. The line with its band is the task trained alone; orange marks left of it "
        "are tasks that sharing made worse. Intervals are of each score by itself; the colour goes by the difference "
        "paired by seed, which can be clear where the intervals overlap.",
    )


def _notes(comparison: Comparison) -> list[Block]:
    every = (comparison.baseline, *comparison.methods)
    items = tuple(f"{summary.method}: {note}" for summary in every for note in summary.notes)
    return [Points(items)] if items else []


def _logged(runs: Sequence[RunResult], keys: Sequence[str]) -> list[str]:
    there = {key for run in runs for row in run.history for key in row}
    return [key for key in keys if key in there]


def _curve_charts(comparison: Comparison, runs: Sequence[RunResult]) -> tuple[Block, ...]:
    scores = _logged(runs, [f"val/{task}/{metrics[0].name}" for task, metrics in comparison.metrics.items()])
    losses = _logged(runs, [f"train/{task}/loss" for task in comparison.metrics])
    words = "one line per method: mean over the seeds, with a band from the lowest to the highest seed."
    charts = []
    if scores:
        alt = "Line plots of each task's validation metric over the training steps."
        charts.append(Chart(plot_curves(runs, scores), alt, f"Each task's metric on the validation set, {words}"))
    if losses:
        alt = "Line plots of each task's training loss over the training steps."
        charts.append(
            Chart(plot_curves(runs, losses), alt, f"Each task's own training loss before any weight, {words}")
        )
    return tuple(charts)


def _weight_charts(results: Sequence[RunResult], tasks: Sequence[str]) -> tuple[Block, ...]:
    if not _logged(results, [f"train/{task}/weight" for task in tasks]):
        return ()
    caption = (
        "The factor on each task's gradient at every step, one panel per method. Only the proportions within a "
        "method can be read: a common factor acts like a learning rate."
    )
    return (Chart(plot_weights(results, tasks), "Line plots of the task weights over the training steps.", caption),)


def _conflict_blocks(results: Sequence[RunResult], tasks: Sequence[str], reference: str | None) -> tuple[Block, ...]:
    keys = [f"conflict/{first}/{second}" for first in tasks for second in tasks if first != second]
    methods = [m for m in dict.fromkeys(run.method for run in results) if _logged(_of(results, m), keys)]
    if not methods:
        return ()
    method = reference if reference in methods else methods[0]
    chart = Chart(
        plot_conflict(_of(results, method), tasks),
        f"Matrix of the mean cosine between the gradients of every two tasks under {method}, and the same over time.",
        f"Cosine between the gradients of two tasks, under {method}: +1 pulls the same way, 0 is unrelated, "
        "−1 pulls against each other.",
    )
    return CONFLICT_WARNING, chart


def _of(results: Sequence[RunResult], method: str | None) -> list[RunResult]:
    return [run for run in results if run.method == method]
