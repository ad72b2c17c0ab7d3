"""Table and sentences say what the comparison found, and no more."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from lepton.errors import ConfigurationError
from lepton.insight import Comparison, MetricInfo, comparison_table, summary_sentences
from tests.insight.conftest import METRICS, SHIFT, make_baselines, make_results


def printed(comparison: Comparison, width: int = 100, **options: str) -> str:
    console = Console(width=width, file=io.StringIO(), legacy_windows=False)
    console.print(comparison_table(comparison, **options))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal_and_no_cell_is_cut(comparison: Comparison, width: int) -> None:
    text = printed(comparison, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for cell in comparison.cells:
        assert cell.score.text(comparison.digits(cell.task, cell.metric.name)) in text


def test_four_methods_fit_side_by_side_in_100_columns(comparison: Comparison) -> None:
    header = printed(comparison).split("───")[0]
    assert all(word in header for method in SHIFT for word in method.split())


def test_the_baseline_comes_first(comparison: Comparison) -> None:
    table = comparison_table(comparison)
    assert table.columns == ("each alone", *SHIFT)
    assert all(len(row.cells) == len(table.columns) for row in table.rows)


def test_time_per_step_counts_in_steps_of_the_reference(comparison: Comparison) -> None:
    table = comparison_table(comparison, reference="log-sum")
    row = next(row for row in table.rows if row.name.value == "time per step")
    assert row.cells[table.columns.index("log-sum")].value == "1.00 ×"
    with pytest.raises(ConfigurationError, match="Did you mean 'log-sum'"):
        comparison_table(comparison, reference="logsum")


def test_every_method_and_lost_task_is_in_the_words(comparison: Comparison) -> None:
    sentences = summary_sentences(comparison)
    for method in comparison.methods:
        (sentence,) = (s for s in sentences if s.lower().startswith(f"{method.method.lower()}:"))
        for cell in (c for c in comparison.cells if c.method == method.method):
            assert f"{cell.task} {cell.metric.name}" in sentence
    assert "8 worse" in sentences[0]
    assert "no evidence" in sentences[-1]
    assert any(s.startswith("3 seeds") for s in sentences)


def test_one_seed_is_said_and_nothing_is_judged() -> None:
    single = Comparison.of(make_results(1), make_baselines(1), METRICS)
    sentences = summary_sentences(single)
    assert "none can be judged" in sentences[0]
    assert sentences[-1].startswith("One seed")
    assert not any("gained" in s or "lost on" in s for s in sentences)
    text = printed(single)
    assert "one seed" in text and "±" not in text.split("\n", 1)[1]


def test_chance_is_said_in_words_and_marked(results, baselines) -> None:
    metrics = {**METRICS, "left": [MetricInfo("accuracy", True, 0.97)], "right": [MetricInfo("accuracy", True, 0.9)]}
    comparison = Comparison.of(results, baselines, metrics)
    words = " ".join(summary_sentences(comparison))
    assert "Left: not better than a predictor that ignores the input" in words
    assert "UPGrad brought right down to chance level" in words
    assert "*" in printed(comparison) and "above chance" in printed(comparison)


def test_a_diverged_run_is_shown_as_not_measured(results, baselines) -> None:
    broken = results[0].tasks["left"]
    scores = {**results[0].tasks, "left": dataclasses.replace(broken, metrics={"accuracy": float("nan")})}
    comparison = Comparison.of([dataclasses.replace(results[0], tasks=scores), *results[1:]], baselines, METRICS)
    assert "not measured" in printed(comparison)
    assert "cannot be judged on left accuracy (not measured)" in " ".join(summary_sentences(comparison))
