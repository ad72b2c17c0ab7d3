"""From rows to a run and back: what is refused, what is learned, and what predictions may not depend on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lepton
from lepton.balance import CAGrad
from lepton.config import check_config, read_config
from lepton.errors import CheckpointError, ConfigurationError, DataError, LeptonError
from lepton.run import Run, prepare
from lepton.run._resolve import planned_training
from lepton.run._summary import balance_words

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

N = 120


def rows(n: int = N) -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    return {
        "x": [None if i % 11 == 0 else float(v) for i, v in enumerate(x)],
        "city": [["Ulm", "Bonn", "Köln", None][i % 4] for i in range(n)],
        "note": [f"house {i} with {'a garden' if v > 0 else 'no view'} here" for i, v in enumerate(x)],
        "day": [f"19{50 + i % 50}-0{i % 9 + 1}-01" for i in range(n)],
        "price": [None if i % 7 == 0 else float(2 * v + 1) for i, v in enumerate(x)],
        "sold": [None if i % 5 == 0 else bool(v > 0) for i, v in enumerate(x)],
        "tags": [["big"] if v > 0.5 else ["small", "cheap"] if v < -0.5 else [] for v in x],
        "a": [int(v > 0) for v in x],
        "b": [None if i % 3 == 0 else float(v < 0) for i, v in enumerate(x)],
    }


TARGETS: dict[str, Any] = {
    "price": {"type": "regression", "loss": "huber"},
    "sold": "auto",
    "tags": "auto",
    "flags": {"columns": ["a", "b"]},
    "pair": {"type": "regression", "columns": ["x2", "x3"], "auxiliary": True},
}


def table(n: int = N) -> dict[str, list[Any]]:
    found = rows(n)
    filled = [0.0 if value is None else value for value in found["x"]]
    return found | {"x2": [value**2 for value in filled], "x3": [value**3 for value in filled]}


def fit(source: Any, targets: Any, folder: Path, **options: Any) -> Run:
    training = {"max_epochs": 1, **options.pop("training", {})}
    return lepton.fit(source, targets, training=training, folder=folder, quiet=True, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    pd.DataFrame(table()).to_parquet(folder / "t.parquet")
    return fit(
        str(folder / "t.parquet"),
        TARGETS,
        folder / "run",
        kinds={"note": "text"},
        training={"max_epochs": 3, "patience": 5},
    )


def test_kinds_of_tasks_and_inputs(run: Run) -> None:
    assert {rule.task: rule.kind for rule in run.rules} == {
        "price": "regression",
        "sold": "classification",
        "tags": "multi_label",
        "flags": "multi_label",
        "pair": "regression",
    }
    assert {column.name: column.kind for column in run.encoder.columns} == {
        "x": "number", "city": "category", "note": "text", "day": "date",
    }  # fmt: skip


def test_predictions_have_a_row_for_each_row_and_a_column_for_each_probability(run: Run) -> None:
    frame = pd.DataFrame(table(), index=range(500, 500 + N))
    found = run.predict(frame)
    assert list(found.index) == list(frame.index)
    assert list(found.columns) == [
        "price", "sold", "sold_probability_false", "sold_probability_true", "tags", "tags_probability_big",
        "tags_probability_cheap", "tags_probability_small", "flags", "flags_probability_a", "flags_probability_b",
    ]  # fmt: skip
    assert set(found["sold"]) <= {"true", "false"}
    assert found[["sold_probability_false", "sold_probability_true"]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert list(run.predict(frame, tasks=["pair"]).columns) == ["pair_x2", "pair_x3"]
    with pytest.raises(ConfigurationError, match="Did you mean 'price'"):
        run.predict(frame, tasks=["prise"])


def test_a_loaded_run_predicts_the_same_bit_for_bit(run: Run) -> None:
    loaded = lepton.load(run.folder)
    pd.testing.assert_frame_equal(loaded.predict(table()), run.predict(table()), check_exact=True)
    assert loaded.config == run.config
    assert loaded.tasks == run.tasks
    assert loaded.results.keys() == run.results.keys()


def test_predictions_do_not_depend_on_batches_order_targets_or_further_columns(run: Run) -> None:
    expected = run.predict(table())
    for size in (1, 7, 1000):
        pd.testing.assert_frame_equal(run.predict(table(), batch_size=size), expected, rtol=1e-4, atol=1e-5)
    order = np.random.default_rng(1).permutation(N)
    turned = pd.DataFrame(table()).iloc[order]
    pd.testing.assert_frame_equal(run.predict(turned).sort_index(), expected, rtol=1e-4, atol=1e-5)
    inputs = {name: rows()[name] for name in ("day", "note", "city", "x")} | {"more": [{}] * N}
    pd.testing.assert_frame_equal(run.predict(inputs), expected, rtol=1e-4, atol=1e-5)
    from_arrow = run.predict(pa.table(inputs)).to_pandas()
    assert from_arrow["price"].to_numpy() == pytest.approx(expected["price"].to_numpy(), rel=1e-4, abs=1e-5)


def test_rows_of_nothing_but_what_was_never_seen_are_predicted(run: Run) -> None:
    odd = {
        "x": [None, float("inf"), 1e300, -1e-300],
        "city": ["Rom", None, "", "😀"],
        "note": ["", None, "😀 🎉", "word " * 5000],
        "day": [None, "0001-01-01", "9999-12-31", "soon"],
    }
    found = run.predict(odd)
    assert np.isfinite(found.select_dtypes("number").to_numpy()).all()
    assert len(run.predict({name: values[:1] for name, values in odd.items()})) == 1
    nothing = run.predict({name: [None] for name in odd})
    assert np.isfinite(nothing.select_dtypes("number").to_numpy()).all()


def test_a_missing_column_is_named(run: Run) -> None:
    with pytest.raises(DataError, match="no column 'city'"):
        run.predict({name: rows()[name] for name in ("x", "note", "day")})


def test_evaluation_repeats_what_training_found(run: Run) -> None:
    loaded = lepton.load(run.folder)
    for part in ("val", "test"):
        again = loaded.evaluate(part=part)  # type: ignore[arg-type]
        for task, result in run.results[part].items():
            assert again[task].metrics == pytest.approx(result.metrics, nan_ok=True)
            assert again[task].n_labels == result.n_labels
    whole = loaded.evaluate(table())
    assert whole["price"].n_labels == sum(value is not None for value in rows()["price"])


def test_evaluation_on_the_rows_of_the_training_says_so(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    frame, words = pd.DataFrame(table()), "is the table that the run was trained on"
    run.evaluate()
    run.evaluate(frame.iloc[::-1])
    run.evaluate(frame.head(N - 1))
    assert words not in caplog.text
    run.evaluate(frame)
    trained = len(run.split.parts["train"])
    assert f"{words}: {trained} of its {N} rows" in caplog.text and "part='test'" in caplog.text
    with pytest.raises(ConfigurationError, match="not both"):
        run.evaluate(frame, part="test")


def test_a_changed_source_has_no_parts_any_more(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    pd.DataFrame(table(N - 1)).to_parquet(tmp_path / "t.parquet")
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace(str(run.config.data.source), str(tmp_path / "t.parquet")))
    with pytest.raises(DataError, match="is not the table that this run was trained on"):
        lepton.load(copy).evaluate()


def test_the_folder_says_everything(run: Run) -> None:
    assert read_config(run.folder / "config.yaml") == run.config
    about = json.loads((run.folder / "run.json").read_text())
    assert about["lepton"] == lepton.__version__
    assert len(run.history) == 3
    assert [row["epoch"] for row in run.history] == sorted(row["epoch"] for row in run.history)
    prepared = prepare(run.config)
    assert all(torch.equal(prepared.split.parts[part], rows) for part, rows in run.split.parts.items())
    assert prepared.config == run.config


def test_no_run_is_overwritten(tmp_path: Path) -> None:
    source = {"x": list(range(20)), "y": [float(i) + 0.5 for i in range(20)]}
    folders = [fit(source, ["y"], tmp_path / "r").folder.name for _ in range(3)]
    assert folders == ["r", "r-2", "r-3"]


# -- broken folders -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("run.json", None, "is no run: it holds no run.json"),
        ("run.json", b"{", "run.json is damaged"),
        ("run.json", b'{"format": 99, "lepton": "9.0"}', r"has the layout 99, written by lepton 9\.0"),
        ("run.json", b'{"format": 0, "lepton": "0.0"}', "has the layout 0"),
        ("run.json", b"[]", "run.json is damaged"),
        ("run.json", b"\xff", "run.json is damaged"),
        ("config.yaml", None, "config.yaml"),
        ("config.yaml", b"trunkk: 1", "config.yaml"),
        ("rules.json", None, "rules.json"),
        ("rules.json", b"{", "rules.json"),
        ("rules.json", b"{}", "rules.json"),
        ("rules.json", b'{"inputs": [{"kind": "nope"}], "labels": []}', "rules.json"),
        ("split.safetensors", None, "split.safetensors"),
        ("split.safetensors", b"damaged", "split.safetensors"),
        ("checkpoints/best/model.safetensors", None, "checkpoint"),
        ("checkpoints/best/model.safetensors", b"damaged", "checkpoint"),
    ],
)
def test_a_damaged_run_says_what_is_damaged(
    run: Run, file: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(LeptonError, match=words):
        lepton.load(folder)


def test_a_run_that_is_not_there(run: Run) -> None:
    with pytest.raises(CheckpointError, match=f"Did you mean '{run.folder.name}'"):
        lepton.load(run.folder.with_name(run.folder.name + "s"))


# -- what is refused ----------------------------------------------------------------------------------------------
SMALL = {
    "x": [float(i) for i in range(60)],
    "c": ["a", "b", "c"] * 20,
    "y": [i + 0.5 for i in range(60)],
    "k": ["p", "q"] * 30,
}


@pytest.mark.parametrize(
    ("change", "targets", "options", "words"),
    [
        ({}, ["yy"], {}, "no column 'yy'.*Did you mean 'y'"),
        ({}, "y", {}, r"must be a list of columns, \['y'\]"),
        ({}, [], {}, "names no column"),
        ({}, ["y", "y"], {}, "more than once"),
        ({}, ["x", "c", "y", "k"], {}, "no column to predict from"),
        ({"y": [7] * 60}, ["y"], {}, "one value only"),
        ({"y": [7] * 60}, {"y": "regression"}, {}, "one value only"),
        ({"y": ["a"] * 60}, {"y": "classification"}, {}, "one value only"),
        ({"y": [None] * 60}, {"y": "regression"}, {}, "every value is missing"),
        ({"y": [None] * 58 + [1.0, 2.0]}, ["y"], {}, "a label among the 9 validation rows"),
        ({"y": [i * 1e40 for i in range(60)]}, ["y"], {}, "scale it"),
        ({"y": [0, 2] * 30}, {"t": {"type": "multi_label", "columns": ["y", "x"]}}, {}, "0 and 1"),
        ({}, {"c": "regression"}, {}, "holds words such as"),
        ({}, {"c": "multi_label"}, {}, "holds words such as"),
        ({}, {"y": "segmentation"}, {}, "masks, a column of pictures"),
        ({}, {"v": {"type": "classification", "columns": ["c", "k"]}}, {}, "reads one column"),
        ({}, {"c": {"type": "classification", "classes": ["a", "b"]}}, {}, "'c' is no class"),
        ({}, {"c": {"type": "classification", "classes": 2}}, {}, "has 3 classes"),
        ({}, {"c": {"type": "classification", "classes": 4}}, {}, "has 3 classes"),
        ({}, {"a.b": {"column": "y"}}, {}, "cannot be named 'a.b'"),
        ({}, {"y": "regresion"}, {}, "Did you mean 'regression'"),
        ({}, {"y": {"typ": "regression"}}, {}, "tasks.y.typ.*Did you mean 'type'"),
        ({}, ["y"], {"ignore": ["xx"]}, "no column 'xx'.*Did you mean 'x'"),
        ({}, ["y"], {"kinds": {"xx": "number"}}, "no column 'xx'"),
        ({}, ["y"], {"inputs": {"xx": "number"}}, "no column 'xx'"),
        ({}, ["y"], {"inputs": {"y": "number"}}, "is an input and a target"),
        ({}, ["y"], {"inputs": {}}, "no column to predict from"),
        ({}, ["y"], {"trunk": "conv"}, "reads one column of pictures and nothing else"),
        ({}, ["y"], {"trunk": {"class": "os:system"}}, "trust"),
        ({}, ["y"], {"split": {"method": "group", "column": "cc"}}, "no column 'cc'"),
        ({}, ["y"], {"training": {"batch_size": 0}}, "training.batch_size"),
        ({}, ["y"], {"seed": -1}, "seed: "),
        ({"k_probability_p": SMALL["y"]}, ["k", "k_probability_p"], {}, "would be named 'k_probability_p'"),
        ({"i": [f"no/{n}.png" for n in range(60)]}, ["y"], {}, "no/.*png: there is no such image file"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_says_why_and_leaves_nothing(
    change: Any, targets: Any, options: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(LeptonError, match=words):
        fit(SMALL | change, targets, tmp_path / "r", **options)


@pytest.mark.parametrize("n", [5, 8])
def test_a_handful_of_rows_trains(n: int, tmp_path: Path) -> None:
    run = fit({name: values[:n] for name, values in SMALL.items()}, ["y", "k"], tmp_path / "r")
    assert len(run.predict({name: values[:n] for name, values in SMALL.items()})) == n


@pytest.mark.parametrize(
    "name", ["a: b", "#x", " spaces ", "yes", "1", "ü", "a/b", "keys", "train", "a\nb", "__class__", "null"]
)
def test_columns_may_have_any_name(name: str, tmp_path: Path) -> None:
    source = {"x.y": SMALL["x"], name: SMALL["y"], f"{name}2": SMALL["c"], "k": SMALL["k"]}
    run = fit(source, [name, "k"], tmp_path / "r")
    pd.testing.assert_frame_equal(lepton.load(run.folder).predict(source), run.predict(source), check_exact=True)


def test_without_validation_rows_the_last_weights_are_kept(tmp_path: Path) -> None:
    run = fit(SMALL, ["y"], tmp_path / "r", split={"val": 0, "test": 0})
    assert run.split.parts.keys() == {"train"}
    pd.testing.assert_frame_equal(lepton.load(run.folder).predict(SMALL), run.predict(SMALL), check_exact=True)


def test_other_tables_for_validation_and_test(tmp_path: Path) -> None:
    for name, part in (("val", slice(0, 20)), ("test", slice(20, 50))):
        pd.DataFrame(SMALL)[part].to_csv(tmp_path / f"{name}.csv", index=False)
    val, test = str(tmp_path / "val.csv"), str(tmp_path / "test.csv")
    run = fit(SMALL, ["y", "k"], tmp_path / "r", val=val, test=test)
    assert len(run.split.parts["train"]) == 60
    assert run.results["val"]["y"].n_labels == 20
    assert run.results["test"]["k"].n_labels == 30
    (tmp_path / "val.csv").write_text("x,c,y\n1,a,2\n")
    with pytest.raises(DataError, match="no column 'k'"):
        fit(SMALL, ["y", "k"], tmp_path / "r", val=val)


def test_targets_may_be_any_sequence(tmp_path: Path) -> None:
    for targets in (("y", "k"), np.array(["y", "k"]), pd.Index(["y", "k"])):
        assert fit(SMALL, targets, tmp_path / "r").tasks == ["y", "k"]


def test_what_is_null_stays_null(tmp_path: Path) -> None:
    config = check_config({"data": {}, "tasks": ["y"], "training": {"max_grad_norm": None}})
    assert prepare(config, SMALL).config.training.max_grad_norm is None


def test_names_may_be_numbers_and_one_ignored_column_a_word(tmp_path: Path) -> None:
    frame = pd.DataFrame({0: SMALL["x"], 1: SMALL["c"], 2: SMALL["y"], "price": SMALL["k"]})
    run = fit(frame, [2], tmp_path / "r", ignore="price", kinds={0: "number"})
    assert run.encoder.names == ["0", "1"]


def test_dates_are_read_as_in_training_and_their_format_is_asked_for(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=90)
    frame = pd.DataFrame({"a": days.strftime("%d.%m.%Y"), "b": days.map(lambda day: f"{day.month:02}/01/2024")})
    frame["y"] = np.arange(90.0)
    run = fit(frame, ["y"], tmp_path / "r")
    (note,) = [note for note in run.notes if "may hold dates" in note]
    assert "'b'" in note and 'date_formats={"b": "%d/%m/%Y"}' in note
    told = fit(frame, ["y"], tmp_path / "r", date_formats={"b": "%m/%d/%Y"})
    assert not any("may hold dates" in note for note in told.notes)
    assert told.config.data.date_formats == {"a": "%d.%m.%Y", "b": "%m/%d/%Y"}
    loaded, new = lepton.load(told.folder), pd.DataFrame({"a": ["03.04.2024"], "b": ["03/01/2024"]})
    dates = pd.DataFrame({"a": [pd.Timestamp("2024-04-03")], "b": [pd.Timestamp("2024-03-01")]})
    assert loaded.predict(new)["y"][0] == loaded.predict(dates)["y"][0]


def test_batches_grow_with_the_rows_and_leave_several_to_an_epoch() -> None:
    for pictures, low, high in ((False, 32, 256), (True, 8, 32)):
        rows = [*range(1, 3000), 10_000, 1_000_000]
        sizes = [planned_training(n, pictures=pictures)["batch_size"] for n in rows]
        assert sizes == sorted(sizes) and (sizes[0], sizes[-1]) == (low, high)
        assert all(n / size > 5 for n, size in zip(rows, sizes, strict=True) if size > low)
    assert planned_training(300, 7)["batch_size"] == 7
    assert planned_training(1_000_000)["max_epochs"] < planned_training(1_000_000, 4096)["max_epochs"]


def test_ten_thousand_categories_are_learned_and_predicted(tmp_path: Path) -> None:
    words = [f"w{i % 10_000}" for i in range(12_000)]
    source = {"c": words, "y": [float(i % 10_000) for i in range(12_000)]}
    run = fit(source, {"y": "regression"}, tmp_path / "r", training={"batch_size": 2048})
    found = run.predict({"c": [*words[:50], "never seen"]})
    assert np.isfinite(found["y"]).all()


def test_many_rows_take_seconds() -> None:
    import time

    n = 200_000
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {f"n{i}": rng.normal(size=n) for i in range(14)}
    columns |= {f"c{i}": rng.choice(["a", "b", "c", "d"], n) for i in range(4)}
    columns |= {"y": rng.normal(size=n), "k": rng.choice(["p", "q"], n)}
    config = check_config({"data": {}, "tasks": ["y", "k"]})
    start = time.process_time()
    prepared = prepare(config, columns)
    assert sum(len(rows) for rows in prepared.data.values()) == n
    assert time.process_time() - start < 30


def test_a_balancer_object_is_refused_with_what_to_write() -> None:
    with pytest.raises(ConfigurationError, match='balance="cagrad"'):
        lepton.fit({"a": [1, 2], "b": [1, 2]}, ["b"], balance=CAGrad())  # type: ignore[arg-type]


def test_the_plan_names_what_is_wrapped_around_a_method() -> None:
    section = check_config(
        {"data": {}, "tasks": ["a"], "balance": {"method": "cagrad", "log": True, "every": 4}}
    ).balance
    assert balance_words(section) == "every(log(cagrad))"
