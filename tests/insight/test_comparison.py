"""Signs, pairs, intervals, zero baselines and chance: what a verdict may rest on."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.errors import ConfigurationError, DataError
from lepton.insight import Comparison, Estimate, MetricInfo, RunResult, TaskScore, delta_m
from lepton.insight._estimate import digits_for, t_quantile
from tests.insight.conftest import METRICS, make_baselines, make_results

UP, DOWN = MetricInfo("m", True), MetricInfo("m", False)
positive = st.floats(0.01, 100)
samples = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40)
SIZE = {"shared": 8, "private": 2, "total": 10}


def run(method: str, seed: int, **values: float) -> RunResult:
    return RunResult(method, seed, {t: TaskScore({"m": v}, 9) for t, v in values.items()}, [], 0.01, 1.0, SIZE)


def compare(method: list[float], alone: list[float], metric: MetricInfo = UP) -> Comparison:
    shared = [run("shared", seed, a=value) for seed, value in enumerate(method)]
    return Comparison.of(shared, [run("alone", seed, a=value) for seed, value in enumerate(alone)], {"a": [metric]})


# -- delta_m -------------------------------------------------------------------------------------------------------
@given(positive, positive)
def test_delta_m_changes_sign_with_the_direction_of_the_metric(score: float, alone: float) -> None:
    up, down = (delta_m({"a": {"m": score}}, {"a": {"m": alone}}, {"a": [metric]}).per_task for metric in (UP, DOWN))
    assert up == -down == pytest.approx(100 * (score - alone) / alone)


@given(positive, positive, positive)
def test_delta_m_does_not_change_with_the_unit_of_a_metric(score: float, alone: float, unit: float) -> None:
    one = delta_m({"a": {"m": score}}, {"a": {"m": alone}}, {"a": [UP]}).per_task
    other = delta_m({"a": {"m": score * unit}}, {"a": {"m": alone * unit}}, {"a": [UP]}).per_task
    assert one == pytest.approx(other, abs=1e-6)


def test_a_better_score_is_positive_even_over_a_negative_baseline() -> None:
    assert delta_m({"a": {"m": -0.1}}, {"a": {"m": -0.2}}, {"a": [UP]}).per_task == pytest.approx(50)


def test_per_task_counts_tasks_and_flat_counts_metrics() -> None:
    info = {"a": [UP, MetricInfo("n", True), MetricInfo("o", True)], "b": [UP]}
    alone = {"a": {"m": 1.0, "n": 1.0, "o": 1.0}, "b": {"m": 1.0}}
    result = delta_m({"a": {"m": 1.3, "n": 1.3, "o": 1.3}, "b": {"m": 0.9}}, alone, info)
    assert result.per_task == pytest.approx((30 - 10) / 2)
    assert result.flat == pytest.approx((3 * 30 - 10) / 4)
    assert result.tasks == pytest.approx({"a": 30, "b": -10})


@pytest.mark.parametrize("alone", [0.0, 1e-9, -1e-9])
def test_a_zero_baseline_is_left_out_and_named(alone: float) -> None:
    result = delta_m({"a": {"m": 0.5}, "b": {"m": 1.1}}, {"a": {"m": alone}, "b": {"m": 1.0}}, {"a": [UP], "b": [UP]})
    assert result.left_out == ("a/m",)
    assert result.per_task == result.flat == pytest.approx(10)
    assert math.isnan(result.tasks["a"])


def test_zero_against_zero_is_no_change() -> None:
    result = delta_m({"a": {"m": 0.0}}, {"a": {"m": 0.0}}, {"a": [DOWN]})
    assert (result.per_task, result.left_out) == (0.0, ())


def test_a_baseline_that_is_zero_for_one_seed_is_left_out_of_all() -> None:
    runs = [run("x", 0, a=0.1, b=1.2), run("x", 1, a=0.1, b=1.2)]
    alone = [run("alone", 0, a=0.0, b=1.0), run("alone", 1, a=0.1, b=1.0)]
    comparison = Comparison.of(runs, alone, {"a": [DOWN], "b": [UP]})
    assert comparison.left_out == ("a/m",)
    assert comparison.methods[0].delta_m.per_task.mean == pytest.approx(20)


def test_a_missing_metric_is_named_with_the_nearest_spelling() -> None:
    with pytest.raises(DataError, match=r"'accurac'.*Did you mean 'accuracy'"):
        delta_m({"a": {"accuracy": 1.0}}, {"a": {"accuracy": 1.0}}, {"a": [MetricInfo("accurac", True)]})


# -- intervals -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("df", [*range(1, 61), 100, 1000])
def test_t_quantiles_are_those_of_scipy(df: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), abs=6e-5)


@given(samples)
def test_intervals_are_those_of_scipy(values: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    estimate = Estimate.of(values)
    scale = stats.sem(values)
    if scale > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=estimate.mean, scale=scale)
        assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-4, abs=1e-4 * (high - low))


def test_one_value_has_no_interval_and_no_sign() -> None:
    estimate = Estimate.of([3.0])
    assert (estimate.mean, estimate.sign, estimate.has_interval) == (3.0, 0, False)


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.nan], [1.0, math.inf]])
def test_what_was_not_measured_is_nan(values: list[float]) -> None:
    assert str(Estimate.of(values)) == "not measured"


@given(samples)
def test_the_text_of_an_estimate_shows_its_half_width(values: list[float]) -> None:
    estimate = Estimate.of(values)
    if estimate.half_width > 1e-3:
        shown = float(str(estimate).split(" ± ")[1])
        assert shown == pytest.approx(estimate.half_width, rel=0.17)


def test_digits_follow_the_typical_half_width() -> None:
    assert [digits_for([Estimate(0.5, half, 3)]) for half in (0.0041, 0.014, 0.5, 2.5, 40)] == [3, 3, 1, 1, 0]


# -- verdicts ------------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=6))
def test_the_verdict_follows_the_paired_interval_and_turns_with_the_direction(pairs: list[tuple[float, float]]) -> None:
    shared, alone = map(list, zip(*pairs, strict=True))
    up, down = (compare(shared, alone, metric).cells[0].verdict for metric in (UP, DOWN))
    difference = Estimate.of(s - a for s, a in pairs)
    expected = {1: ("better", "worse"), -1: ("worse", "better"), 0: ("no difference seen",) * 2}
    assert (up, down) == expected[difference.sign]


def test_pairing_sees_a_difference_that_the_spread_of_the_seeds_hides() -> None:
    cell = compare([0.51, 0.711, 0.909], [0.50, 0.70, 0.90]).cells[0]
    assert cell.score.low < cell.baseline.high
    assert cell.verdict == "better"


@given(st.permutations(range(4)))
def test_the_order_of_the_runs_does_not_matter(order: list[int]) -> None:
    shared = [run("x", s, a=0.5 + s / 10) for s in range(4)]
    alone = [run("alone", s, a=0.4 + s / 9) for s in range(4)]
    one = Comparison.of(shared, alone, {"a": [UP]}).cells[0].difference
    other = Comparison.of([shared[i] for i in order], alone, {"a": [UP]}).cells[0].difference
    assert one.mean == pytest.approx(other.mean) and one.half_width == pytest.approx(other.half_width)


def test_a_single_seed_is_not_judged() -> None:
    assert compare([0.9], [0.1]).cells[0].verdict == "not known"


def test_seeds_without_a_baseline_are_left_out_and_named() -> None:
    runs = [run("x", seed, a=0.5) for seed in (0, 1, 7)]
    comparison = Comparison.of(runs, [run("alone", seed, a=0.4) for seed in (0, 1)], {"a": [UP]})
    assert comparison.methods[0].seeds == (0, 1)
    assert comparison.methods[0].unpaired == (7,)


def test_baselines_may_come_one_by_one_or_all_in_one() -> None:
    separate = Comparison.of(make_results(), make_baselines(), METRICS)
    merged = [
        RunResult("each alone", s, {t: v for b in those for t, v in b.tasks.items()}, [], 0.034, 10.2,
                  {"shared": 0, "private": 252_000, "total": 252_000})
        for s in range(3) if (those := [b for b in make_baselines() if b.seed == s])
    ]  # fmt: skip
    assert Comparison.of(make_results(), merged, METRICS).cells == separate.cells
    assert separate.baseline.parameters["total"] == 252_000
    assert separate.baseline.seconds_per_step.mean == pytest.approx(0.034)


@pytest.mark.parametrize(
    ("results", "baselines", "message"),
    [
        ([run("x", 0, a=1)], [], "no baselines"),
        ([run("x", 0, a=1)], [run("alone", 1, a=1)], "none in common"),
        ([run("x", 0, a=1), run("x", 0, a=1)], [run("alone", 0, a=1)], "two runs with seed 0"),
        ([run("x", 0, a=1)], [run("alone", 0, a=1), run("alone", 0, a=1)], "two baselines of task 'a'"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(results, baselines, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Comparison.of(results, baselines, {"a": [UP]})


def test_a_task_without_a_score_is_refused_with_its_run() -> None:
    with pytest.raises(DataError, match="'b' is not in method 'x', seed 0"):
        Comparison.of([run("x", 0, a=1)], [run("alone", 0, a=1, b=1)], {"a": [UP], "b": [UP]})


def test_an_unknown_cell_is_refused(comparison: Comparison) -> None:
    with pytest.raises(ConfigurationError, match="no cell of method 'nope'"):
        comparison.cell("nope", "left")


# -- chance --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shared", "alone", "flags"),
    [
        ([0.50, 0.52, 0.51], [0.90, 0.91, 0.92], (False, True)),
        ([0.90, 0.91, 0.92], [0.50, 0.52, 0.51], (True, False)),
        ([0.40, 0.42, 0.41], [0.45, 0.49, 0.47], (True, True)),
        ([0.80, 0.81, 0.82], [0.90, 0.91, 0.92], (False, False)),
    ],
)
@pytest.mark.parametrize("higher", [True, False])
def test_scores_within_their_interval_of_chance_are_flagged(shared, alone, flags, higher) -> None:
    sign = 1 if higher else -1
    metric = MetricInfo("m", higher, chance=sign * 0.5)
    cell = compare([sign * v for v in shared], [sign * v for v in alone], metric).cells[0]
    assert (cell.baseline_at_chance, cell.method_at_chance) == flags
    assert cell.at_chance == any(flags)


def test_without_a_known_chance_nothing_is_flagged() -> None:
    assert not compare([0.0, 0.0], [0.0, 0.0]).cells[0].at_chance


def test_a_chance_task_cannot_make_harmful_sharing_look_good() -> None:
    chance = {"a": [dataclasses.replace(UP, chance=0.5)], "b": [dataclasses.replace(UP, chance=0.1)]}
    runs = [run("x", s, a=0.62 + s / 100, b=0.85 + s / 100) for s in range(3)]
    alone = [run("alone", s, a=0.505 + s / 100, b=0.95 + s / 100) for s in range(3)]
    comparison = Comparison.of(runs, alone, chance)
    assert comparison.chance_tasks == ("a",)
    assert comparison.methods[0].delta_m.per_task.mean > 0
    assert comparison.methods[0].delta_m_above_chance.per_task.mean < 0


def test_a_task_that_only_the_method_ruined_stays_in_delta_m() -> None:
    comparison = compare([0.5, 0.5, 0.5], [0.9, 0.91, 0.92], MetricInfo("m", True, chance=0.5))
    assert comparison.cells[0].method_at_chance
    assert comparison.chance_tasks == ()
    assert comparison.methods[0].delta_m_above_chance is None
