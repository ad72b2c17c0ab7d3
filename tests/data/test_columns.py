"""What columns hold, and how they become inputs: rules that are fitted once, kept as JSON, and forgiving later."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pytest
import torch

from lepton.data import Column, InputEncoder, describe_columns, infer_task, read_table
from lepton.errors import ConfigurationError, DataError

pa = pytest.importorskip("pyarrow")

N = 60


def describe(values: Any, name: str = "c", **kinds: Any) -> Column:
    return describe_columns(read_table({name: values}), kinds)[0]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.5, 2.5, None] * 20, "number"),
        (["+5", "-3", ".5", "1e3"] * 15, "number"),
        (["1,234", "5,678.5", "12"] * 20, "number"),
        (["1"] * 58 + ["x", "y"], "number"),
        ([2**70 + i for i in range(N)], "number"),
        ([dt.timedelta(days=i) for i in range(N)], "number"),
        ([True, None, False] * 20, "boolean"),
        (["a", "b", None] * 20, "category"),
        (pa.array([3, 4, None] * 20).dictionary_encode(), "category"),
        (pa.array([True, False] * 30).dictionary_encode(), "category"),
        ([dt.date(1900 + i, 1, 5) for i in range(N)], "date"),
        ([f"19{i + 10}-02-03T10:00:00+05:00" for i in range(N)], "date"),
        ([f"2020-02-{i % 9 + 22}" for i in range(N)], "category"),  # every second day there is none
        ([f"the quick brown fox number {i}" for i in range(N)], "text"),
        ([f"pictures/{i}.PNG" for i in range(N)], "image"),
        ([["a", "b"], ["b"], None] * 20, "labels"),
        ([None] * N, "ignore"),
        (["a"] * N, "ignore"),
        ([{"x": 1}] * N, "ignore"),
        ([[1.0, 2.0]] * N, "ignore"),
        ([b"\xff", b"a"] * 30, "ignore"),
        ([f"user-{i}" for i in range(200)], "ignore"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_kinds_follow_from_types_and_values(values: Any, kind: str) -> None:
    assert describe(values).kind == kind


@pytest.mark.parametrize(
    ("name", "kind"), [("row_id", "ignore"), ("", "ignore"), ("age", "number"), ("wide", "number")]
)
def test_numbers_that_name_the_rows_are_ignored(name: str, kind: str) -> None:
    assert describe(list(range(N)), name).kind == kind


def test_what_is_told_wins_and_must_exist() -> None:
    assert describe([1, 2] * 30, c="category").kind == "category"
    table = read_table({"city": ["a", "b"]})
    with pytest.raises(DataError, match="Did you mean 'city'"):
        describe_columns(table, {"citty": "category"})
    with pytest.raises(ConfigurationError, match="Did you mean 'category'"):
        describe_columns(table, {"city": "categori"})  # type: ignore[dict-item]


# -- dates in words -----------------------------------------------------------------------------------------------
DAYS = [dt.datetime(2025, 11, 20, 15, 5) + dt.timedelta(days=i) for i in range(N)]


@pytest.mark.parametrize(
    "form",
    [
        *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d %b %Y", "%d %B %Y"),
        *("%d-%b-%Y", "%b %d, %Y", "%B %d %Y", "%d.%m.%Y %H:%M", "%m/%d/%Y %I:%M %p", "%Y/%m/%d %H:%M:%S"),
    ],
)
def test_words_of_one_format_are_the_dates_that_they_say(form: str) -> None:
    table = read_table({"c": [day.strftime(form) for day in DAYS], "iso": [day.isoformat() for day in DAYS]})
    words, iso = describe_columns(table)
    assert words.kind == "date" and words.date_format.replace("%b", "%B") == form.replace("%b", "%B")
    assert words.date_format in words.why and iso.date_format == ""
    days = pa.table({"c": [day if "%H" in form or "%I" in form else day.date() for day in DAYS]})
    expected = InputEncoder.fit(days, describe_columns(days)).encode(days)["numbers"]
    torch.testing.assert_close(InputEncoder.fit(table, [words]).encode(table)["numbers"], expected)


@pytest.mark.parametrize("dash", "/-")
def test_day_and_month_that_cannot_be_told_apart_are_not_guessed(dash: str) -> None:
    first, second = f"%d{dash}%m{dash}%Y", f"%m{dash}%d{dash}%Y"
    words = [day.strftime(first) for day in DAYS if day.day <= 12] * 3
    column = describe(words)
    assert column.kind == "category" and column.date_format == ""
    assert f"or dates, {first} or {second}: nothing tells which" in column.why
    told = describe_columns(read_table({"c": words}), date_formats={"c": second})[0]
    assert (told.kind, told.date_format) == ("date", second)
    # One day beyond the twelfth tells for all, also where nearly all rows could be read both ways.
    assert describe([*words * 2, f"13{dash}01{dash}2026"]).date_format == first
    assert describe([*words * 2, f"13{dash}01{dash}2026", f"01{dash}13{dash}2026"]).kind == "category"


def test_what_is_no_date_of_the_format_is_missing() -> None:
    words = [day.strftime("%d.%m.%Y") for day in DAYS]
    strange = ["31.02.2026", "24.11.26", "soon", " 1.2.2026 ", None]
    table = read_table({"c": words + strange})
    column = describe_columns(table)[0]
    assert column.why == "95.3% are dates of the format %d.%m.%Y; the rest counts as missing"
    missing = InputEncoder.fit(table, [column]).encode(table)["missing"][len(words) :, 0]
    assert missing.tolist() == [1, 1, 1, 0, 1]


def test_years_of_two_digits_and_mixtures_stay_words() -> None:
    assert describe([day.strftime("%d.%m.%y") for day in DAYS]).kind == "category"
    mixed = [day.strftime("%d.%m.%Y" if i % 2 else "%Y/%m/%d") for i, day in enumerate(DAYS)]
    assert describe(mixed).kind == "category"
    table = read_table({"c": [day.strftime("%d.%m.%y") for day in DAYS]})
    told = describe_columns(table, date_formats={"c": "%d.%m.%y"})
    assert InputEncoder.fit(table, told).encode(table)["missing"].sum() == 0


def test_the_format_of_dates_is_kept_with_the_rules() -> None:
    table = read_table({"c": [day.strftime("%d/%m/%Y") for day in DAYS]})
    fitted = InputEncoder.fit(table, describe_columns(table))
    again = InputEncoder.from_dict(json.loads(json.dumps(fitted.to_dict())))
    new = read_table({"c": ["03/04/2026"]})  # which alone could be either
    torch.testing.assert_close(again.encode(new)["numbers"], fitted.encode(new)["numbers"])
    assert again.encode(new)["missing"].sum() == 0
    old = [{key: value for key, value in item.items() if key != "date_format"} for item in fitted.to_dict()]
    iso = read_table({"c": ["2026-04-03"]})
    assert InputEncoder.from_dict(old).encode(iso)["missing"].sum() == 0


def test_dates_that_nobody_can_read_ask_for_their_format() -> None:
    table = read_table({"c": ["03/04/2026", "05/06/2026"] * 30})
    with pytest.raises(DataError, match=r"'03/04/2026'.*date_formats=\{\"c\""):
        InputEncoder.fit(table, describe_columns(table, {"c": "date"}))
    with pytest.raises(DataError, match="no column 'd'"):
        describe_columns(table, date_formats={"d": "%d/%m/%Y"})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, 2] * 20, "classification"),
        (["a", "b"] * 30, "classification"),
        ([True, False] * 30, "classification"),
        (list(range(N)), "regression"),
        ([0.5, 1.5] * 30, "regression"),
        ([100, 250, 300, 180, 220, 950, 400, 120, 330, 275, 640, 510], "regression"),
        ([100, 250, 300, 100, 250, 180, 220, 300, 400, 120, 330, 275], "regression"),  # a price may occur twice
        ([100, 250, 300, 180, None] * 2, "regression"),
        ([1, 2, 3, 4, 5, 6] * 3, "classification"),  # grades
        ([0, 1, 1], "classification"),
        ([7, None, 3], "classification"),
        ([1.0, 2.0, 3.0, None] * 3, "classification"),
        (list(range(20)) * 3, "classification"),
        (list(range(21)) * 3, "regression"),
        (["1", "2", "3"] * 2, "regression"),
        (["p", "q", "r"] * 2, "classification"),
        (["a", "b", "c"], "classification"),
        ([["a"], []] * 30, "multi_label"),
    ],
)
def test_tasks_follow_from_kinds(values: Any, kind: str) -> None:
    assert infer_task(read_table({"c": values}), describe(values)) == kind


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([None] * N, "every value is missing"),
        ([7] * N, "one value only, '7'"),
        ([dt.date(2000 + i, 1, 1) for i in range(N)], "is a date: predict a number"),
        ([f"user {i}" for i in range(N)], "too many for classes.*targets="),
        ([{"x": 1}] * N, "struct.*cannot be learned"),
        ([b"\xff", b"a"] * 30, "binary.*cannot be learned"),
    ],
)
def test_what_nothing_can_be_learned_from(values: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        infer_task(read_table({"c": values}), describe(values))


# -- inputs -------------------------------------------------------------------------------------------------------
TABLE = {
    "number": [1.0, 2.0, None, float("inf")] * 20,
    "huge": [1e308, -1e308, 0.0, 5e307] * 20,
    "tiny": [1e-20, 2e-20, 3e-20, 4e-20] * 20,
    "flag": [True, None, False, True] * 20,
    "city": ["Ulm", "Bonn", None, "Ulm"] * 20,
    "day": [dt.datetime(1930 + i, 3, 1, 6) for i in range(80)],
    "note": [f"some words about house {i}" for i in range(79)] + ["😀 🎉"],
}


def encoder() -> InputEncoder:
    table = read_table(TABLE)
    return InputEncoder.fit(table, describe_columns(table, {"note": "text"}))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_rules_survive_json_bit_for_bit() -> None:
    fitted = encoder()
    again = InputEncoder.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert same(again.encode(read_table(TABLE)), fitted.encode(read_table(TABLE)))
    assert (again.knots, again.categories, again.texts) == (fitted.knots, fitted.categories, fitted.texts)


def test_everything_that_is_encoded_is_finite_and_in_range() -> None:
    fitted = encoder()
    inputs = fitted.encode(read_table(TABLE))
    assert inputs["numbers"].isfinite().all()
    assert inputs["numbers"].abs().max() <= 10
    assert inputs["numbers"].shape[1] == len(fitted.number_names) == len(fitted.knots)
    assert (inputs["numbers"][inputs["missing"] == 1] == 0).all()
    assert (inputs["categories"] < torch.tensor(fitted.categories)).all()
    number = fitted.number_names.index("number")
    assert inputs["missing"][:4, number].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["huge", "tiny"])
def test_numbers_are_standardised_at_every_scale(name: str) -> None:
    place = encoder().number_names.index(name)
    column = encoder().encode(read_table(TABLE))["numbers"][:, place]
    assert float(column.mean()) == pytest.approx(0, abs=1e-6)
    assert float(column.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_one_absurd_number_does_not_make_all_others_equal() -> None:
    values = np.linspace(0, 1, N).tolist()
    table = read_table({"c": [*values, 1e30]})
    numbers = InputEncoder.fit(table, describe_columns(table)).encode(table)["numbers"][:, 0]
    assert numbers[:N].diff().min() > 1e-3
    assert numbers[N] > numbers[:N].max() + 1


def test_order_and_number_of_columns_and_rows_do_not_matter() -> None:
    fitted = encoder()
    every = fitted.encode(read_table(TABLE))
    turned = {"more": [0] * 80} | dict(reversed(TABLE.items()))
    assert same(fitted.encode(read_table(turned)), every)
    one = fitted.encode(read_table({name: values[5:6] for name, values in TABLE.items()}))
    assert same(one, {key: value[5:6] for key, value in every.items()})


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match=r"no column 'city'.*Did you mean 'citi'"):
        encoder().encode(read_table({"citi" if name == "city" else name: values for name, values in TABLE.items()}))


def test_words_that_were_never_seen_are_the_unknown_one() -> None:
    fitted = encoder()
    table = read_table({**TABLE, "city": ["Rom", None, "Ulm", "Bonn"] * 20})
    codes = fitted.encode(table)["categories"][:4, fitted.names.index("city") - fitted.names.index("flag")]
    assert codes.tolist() == [0, 0, 1, 2]
    assert fitted.unseen(table) == {"city": 20}


def test_numbers_are_the_same_category_whatever_type_a_missing_value_made_them() -> None:
    table = read_table({"c": [3, 4, 2**40] * 20})
    fitted = InputEncoder.fit(table, describe_columns(table, {"c": "category"}))
    whole = fitted.encode(table)["categories"]
    assert torch.equal(fitted.encode(read_table({"c": [3.0, 4.0, 2.0**40] * 20}))["categories"], whole)
    assert torch.equal(fitted.encode(read_table({"c": ["3", "4 ", str(2**40)] * 20}))["categories"], whole)


def test_large_floats_are_different_words() -> None:
    table = read_table({"c": [1e20, 2e20, 3e20] * 20})
    assert InputEncoder.fit(table, describe_columns(table, {"c": "category"})).categories == [4]


def test_a_moment_is_the_same_in_every_time_zone_and_type() -> None:
    moments = [dt.datetime(1950 + i, 5, 17, 8, tzinfo=dt.UTC) for i in range(N)]
    zone = dt.timezone(dt.timedelta(hours=-7))
    table = read_table({"c": moments})
    fitted = InputEncoder.fit(table, describe_columns(table))
    expected = fitted.encode(table)
    for other in (
        [moment.astimezone(zone) for moment in moments],
        [moment.replace(tzinfo=None) for moment in moments],
        [moment.astimezone(zone).isoformat() for moment in moments],
        [f"{moment:%Y-%m-%d %H:%M}" for moment in moments],
    ):
        assert same(fitted.encode(read_table({"c": other})), expected)


def test_dates_that_do_not_exist_are_missing() -> None:
    table = read_table({"c": ["0001-01-01T00:00+05:00", "2020-02-30", *[f"19{i}-02-03" for i in range(10, 70)]]})
    missing = InputEncoder.fit(table, describe_columns(table)).encode(table)["missing"]
    assert missing[:, 0].tolist() == [1, 1, *[0] * 60]


def test_texts_are_hashed_words_and_pairs_and_may_hold_none() -> None:
    texts = encoder().encode(read_table(TABLE))["text"]
    assert texts.shape == (80, 1, 64)
    assert (texts[0, 0] > 0).sum() == 5 + 4
    assert (texts[-1] == 0).all()
    upper = read_table({**TABLE, "note": [text.upper() + "!" for text in TABLE["note"]]})
    assert torch.equal(encoder().encode(upper)["text"], texts)


@pytest.mark.parametrize("kind", ["number", "date", "category", "text", "boolean", "image"])
@pytest.mark.parametrize(
    "values", [[["a"], ["b"]] * 30, [{"x": 1}] * N, [b"\xff", b"\xfe"] * 30], ids=["list", "struct", "binary"]
)
def test_a_kind_that_a_type_cannot_be_read_as(values: Any, kind: Any) -> None:
    table = read_table({"c": values})
    with pytest.raises(DataError, match=f"column 'c' cannot be read as the kind '{kind}|no column to predict from"):
        InputEncoder.fit(table, describe_columns(table, {"c": kind}))


def test_a_column_that_changed_its_type_is_named() -> None:
    with pytest.raises(DataError, match="column 'number' cannot be read as the kind 'number'"):
        encoder().encode(read_table({**TABLE, "number": TABLE["day"]}))


def test_ten_thousand_categories() -> None:
    words = [f"w{i % 10_000}" for i in range(20_000)]
    table = read_table({"c": words})
    column = describe_columns(table)[0]
    assert (column.kind, column.distinct) == ("category", 10_000)
    codes = InputEncoder.fit(table, [column]).encode(table)["categories"]
    assert len(codes.unique()) == 10_000
    assert torch.equal(codes[:10_000], codes[10_000:])


def test_nothing_to_predict_from() -> None:
    table = read_table({"c": [None, None]})
    with pytest.raises(DataError, match=r"no column to predict from"):
        InputEncoder.fit(table, describe_columns(table))


def test_knots_rise() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=500), rng.integers(0, 2, 500), np.full(500, 3.0), rng.normal(size=500) * 1e-30):
        table = read_table({"c": values})
        (knots,) = InputEncoder.fit(table, describe_columns(table, {"c": "number"})).knots
        assert all(np.diff(knots) > 0)
        assert len(knots) >= 2
