from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from lepton.insight._estimate import Estimate, digits_for
from lepton.insight.comparison._comparison import Comparison, MethodSummary, ScoreCell, Verdict
from lepton.insight.page import listed, plural

__all__ = ["summary_sentences"]

_VERDICTS: dict[Verdict, str] = {
    "better": "gained on",
    "worse": "lost on",
    "no difference seen": "no difference seen on",
    "not known": "cannot be judged on",
}


def summary_sentences(comparison: Comparison) -> list[str]:
    """Say in words what a comparison found, what it cannot say, and which of its tasks mean nothing.

    Args:
        comparison: what was found.

    Returns:
        Sentences of plain text, the most important first: one with the counts, one per method, then the limits.

    Example:
        >>> from lepton.insight import Comparison, MetricInfo, RunResult, TaskScore
        >>> def run(method, accuracy):
        ...     score = {"digit": TaskScore({"accuracy": accuracy}, n_labels=100)}
        ...     return RunResult(method, 0, score, [], 0.01, 5.0, {"shared": 9, "private": 1, "total": 10})
        >>> found = Comparison.of([run("equal", 0.8)], [run("alone", 0.9)], {"digit": [MetricInfo("accuracy", True)]})
        >>> print(summary_sentences(found)[-1])
        One seed: there are no intervals, and no difference here can be told from luck.
    """
    return [
        *_count_sentence(comparison),
        *(_method_sentence(comparison, method) for method in comparison.methods),
        "Numbers in brackets: alone → shared. delta_m: mean relative improvement, positive is better than alone.",
        *_chance_sentences(comparison),
        *_omissions(comparison),
        *_evidence_sentences(comparison),
    ]


def _count_sentence(comparison: Comparison) -> Iterator[str]:
    if not comparison.cells:
        return
    counts = Counter(cell.verdict for cell in comparison.cells)
    what = f"{plural(len(comparison.cells), 'comparison')} of a shared network with the same task trained alone"
    if counts["not known"] == len(comparison.cells):
        yield f"Of {what}, none can be judged."
        return
    unknown = f"; {counts['not known']} cannot be judged" if counts["not known"] else ""
    yield (
        f"Of {what}, {counts['better']} came out better, {counts['worse']} worse, "
        f"and {counts['no difference seen']} showed no difference{unknown}."
    )


def _method_sentence(comparison: Comparison, method: MethodSummary) -> str:
    cells = [cell for cell in comparison.cells if cell.method == method.method]
    parts = [_verdict_part(words, verdict, cells, comparison) for verdict, words in _VERDICTS.items()]
    found = "; ".join(part for part in parts if part)
    return f"{_capital(method.method)}: {found}. {_delta_sentence(method)}"


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:] if name[1:2].islower() else name


def _verdict_part(words: str, verdict: Verdict, cells: Sequence[ScoreCell], comparison: Comparison) -> str:
    those = [cell for cell in cells if cell.verdict == verdict]
    if not those:
        return ""
    with_numbers = verdict != "no difference seen"
    return f"{words} " + ", ".join(_cell_words(cell, comparison) if with_numbers else _name(cell) for cell in those)


def _name(cell: ScoreCell) -> str:
    return f"{cell.task} {cell.metric.name}"


def _cell_words(cell: ScoreCell, comparison: Comparison) -> str:
    if math.isnan(cell.score.mean) or math.isnan(cell.baseline.mean):
        return f"{_name(cell)} (not measured)"
    digits = comparison.digits(cell.task, cell.metric.name)
    return f"{_name(cell)} ({cell.baseline.mean:.{digits}f} → {cell.score.mean:.{digits}f})"


def _delta_sentence(method: MethodSummary) -> str:
    if method.delta_m is None:
        return ""
    per_task, flat = method.delta_m.per_task, method.delta_m.flat
    words = f"delta_m is {_percent(per_task)} per task, {_percent(flat)} flat."
    if method.delta_m_above_chance is None:
        return words
    return f"{words} Without the tasks at chance level it is {_percent(method.delta_m_above_chance.per_task)} per task."


def _percent(delta: Estimate) -> str:
    return delta.text(min(max(digits_for([delta]), 1), 2), signed=True) + (" %" if delta.mean == delta.mean else "")


def _chance_sentences(comparison: Comparison) -> Iterator[str]:
    if comparison.chance_tasks:
        yield (
            f"{_capital(listed(comparison.chance_tasks))}: not better than a predictor that ignores the input, even "
            "trained alone. What sharing does to such a task says nothing, and delta_m over it can mislead."
        )
    for method in comparison.methods:
        cells = [cell for cell in comparison.cells if cell.method == method.method]
        lost = dict.fromkeys(c.task for c in cells if c.method_at_chance and c.task not in comparison.chance_tasks)
        if lost:
            yield (
                f"{_capital(method.method)} brought {listed(list(lost))} down to chance level. A score cannot fall "
                "much further, so delta_m understates the loss."
            )


def _omissions(comparison: Comparison) -> Iterator[str]:
    if comparison.left_out:
        yield (
            f"Left out of delta_m: {listed(comparison.left_out)}. A baseline is zero there, and a relative "
            "improvement over zero has no meaning."
        )
    for method in comparison.methods:
        if method.unpaired:
            yield (
                f"{_capital(method.method)}: {plural(len(method.unpaired), 'seed')} without a baseline of the same "
                f"seed left out ({', '.join(map(str, method.unpaired))})."
            )


def _evidence_sentences(comparison: Comparison) -> Iterator[str]:
    counts = sorted({len(method.seeds) for method in comparison.methods})
    if not counts:
        return
    if counts[-1] == 1:
        yield "One seed: there are no intervals, and no difference here can be told from luck."
        return
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    yield (
        f"{seeds} seeds per method, each compared with the baseline of the same seed; 95 % t-intervals over the seeds. "
        "They cover what changes with the seed, and nothing else."
    )
    cells = len(comparison.cells)
    yield (
        "A difference within its interval is no evidence that a method is better or worse, nor that both are equal. "
        f"Where nothing differs, about one comparison in 20 comes out better or worse by luck; there are {cells} here."
    )
