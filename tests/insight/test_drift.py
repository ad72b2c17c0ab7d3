"""Drift: distances against definitions and scipy, and alarms counted where nothing drifts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import ks_2samp

from lepton.insight import Profile, WordFilter, column_drift, plot_drift, profile_of_numbers, profile_of_words
from lepton.insight.measure import distance, sorted_drift, stability_index


def numbers(n: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, n)


def test_few_values_give_exactly_the_statistic_of_kolmogorov_and_smirnov() -> None:
    rng = np.random.default_rng(1)
    old, new = rng.integers(0, 20, 400).astype(float), rng.integers(3, 26, 300).astype(float)
    profile = profile_of_numbers(old)
    found = column_drift("x", profile, profile.count(new))
    # Beyond the largest old value the old distribution is 1, so that nothing is lost by one bin for all of that.
    assert found.distance == pytest.approx(ks_2samp(old, new).statistic, abs=1e-12)


def test_many_values_give_it_up_to_the_width_of_a_bin() -> None:
    old, new = numbers(5000), numbers(3000, 0.4, seed=1)
    profile = profile_of_numbers(old)
    assert len(profile.edges) <= 66
    found = column_drift("x", profile, profile.count(new))
    assert found.distance == pytest.approx(ks_2samp(old, new).statistic, abs=1 / 64)
    assert found.shift == pytest.approx((new.mean() - old.mean()) / old.std())
    assert found.moved and found.p_value < 0.01


def test_words_give_the_total_variation_with_new_ones_in_a_bin_of_their_own() -> None:
    profile = profile_of_words(["a"] * 60 + ["b"] * 40)
    found = column_drift("x", profile, profile.count(["a"] * 30 + ["b"] * 50 + ["c"] * 20))
    assert found.distance == pytest.approx(0.5 * (0.3 + 0.1 + 0.2))
    assert found.unseen == pytest.approx(0.2) and math.isnan(found.shift)
    assert found.words == "'a' 60% to 30%"


def test_missing_values_are_a_part_of_the_distribution() -> None:
    profile = profile_of_numbers(numbers(1000))
    found = column_drift("x", profile, profile.count(np.where(np.arange(1000) % 2, np.nan, numbers(1000))))
    assert found.distance == pytest.approx(0.5, abs=0.02) and found.missing == (0.0, 0.5)
    assert found.words == "missing 0% to 50%"


def test_where_nothing_drifts_an_alarm_is_as_rare_as_it_says() -> None:
    """The noise is simulated from bins: it must hold for numbers, rare words and values that are mostly zero."""
    rng = np.random.default_rng(0)
    alarms, p_values = 0, []
    for seed in range(150):
        kind = seed % 3
        both = rng.normal(size=700) * (rng.random(700) < (0.1 if kind == 1 else 1.0))
        words = [f"w{int(value * 3)}" for value in both]
        old = profile_of_words(words[:400]) if kind == 2 else profile_of_numbers(both[:400])
        new = old.count(words[400:] if kind == 2 else both[400:])
        found = column_drift("x", old, new, seed=seed)
        alarms += found.moved
        p_values.append(found.p_value)
    assert alarms <= 6  # 1.5 expected; more than 6 has a probability below 0.001
    assert 0.4 < np.mean(p_values) < 0.65
    assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.15)


def test_the_stability_index_is_that_of_its_definition() -> None:
    old, new = np.array([100, 300, 600]), np.array([200, 300, 500])
    p, q = (np.array(counts) + 0.5 for counts in (old, new))
    p, q = p / p.sum(), q / q.sum()
    wanted = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert stability_index(old, new, ordered=False) == pytest.approx(wanted)
    assert stability_index(old, old, ordered=True) == 0
    many = np.random.default_rng(0).integers(1, 9, 500)
    assert stability_index(many, many[::-1].copy(), ordered=True) < 0.1


def test_a_distance_is_one_where_nothing_is_shared() -> None:
    assert distance(np.array([4, 0]), np.array([0, 9]), ordered=False) == 1
    assert distance(np.array([4, 0]), np.array([0, 9]), ordered=True) == 1
    assert distance(np.array([4, 2]), np.array([8, 4]), ordered=True) == 0


def test_profiles_survive_json_and_add_up() -> None:
    column = np.append(numbers(500), [np.nan] * 7)
    profile = profile_of_numbers(column)
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile
    words = profile_of_words(["a", None, "b"])
    assert str(Profile.from_dict(json.loads(json.dumps(words.to_dict())))) == str(words)  # NaN is not itself
    new = numbers(300, 1.0, seed=2)
    both = profile.merged(profile.count(new))
    every = np.append(column, new)
    assert both.rows == len(every) and both.missing == 7
    assert both.mean == pytest.approx(np.nanmean(every)) and both.std == pytest.approx(np.nanstd(every))
    assert both.counts == profile.count(every).counts


def test_no_value_at_all() -> None:
    profile = profile_of_numbers(np.full(5, np.nan))
    found = column_drift("x", profile, profile.count(np.array([1.0, np.nan])))
    assert found.distance == pytest.approx(0.5) and math.isnan(found.shift)


def test_a_filter_knows_its_words_and_nearly_no_others() -> None:
    held = WordFilter()
    held.add([f"word{place} Word{place}." for place in range(5000)] + [None])
    shares = held.unknown_shares([f"word{place}" for place in range(5000)])
    assert (shares == 0).all()
    others = held.unknown_shares([f"other{place}" for place in range(5000)])
    assert others.mean() > 0.94  # 1 - exp(-5000 / 2**17) = 0.037 of them seem to be held
    again = WordFilter.from_hex(held.to_hex())
    assert (again.unknown_shares(["word7 other1 other2"]) == held.unknown_shares(["word7 other1 other2"])).all()
    assert np.isnan(held.unknown_shares([None, "!"])).all()


def test_the_picture_has_a_bar_for_each_column_and_marks_those_that_moved() -> None:
    pytest.importorskip("matplotlib")
    old = profile_of_numbers(numbers(1000))
    columns = [
        column_drift("still", old, old.count(numbers(500, seed=5))),
        column_drift("moved", old, old.count(numbers(500, 1.0, seed=5)), role="target"),
    ]
    assert [found.name for found in sorted_drift(columns)] == ["moved", "still"]
    (axes,) = plot_drift(columns, title="rows").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["moved", "still"]
    widths = {bar.get_width() for bar in axes.patches}
    assert {found.distance for found in columns} <= widths and {found.noise for found in columns} <= widths
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] != colours[2]
