"""Tables with texts: read as hashed words or as tokens, what is said about it, and what predictions may hold."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton
from lepton.config import check_config, read_config
from lepton.errors import CheckpointError, ConfigurationError, DataError, MissingExtraError
from lepton.run import Run, _text_inputs, check, prepare, resume_run
from lepton.run._text_inputs import TEXT_LEARNING_RATE, TEXT_TRUNK
from lepton.run.report._cost import example_batch

pd = pytest.importorskip("pandas")
pytest.importorskip("tokenizers")

N = 90
SMALL = {"type": "mixed", "width": 16, "depth": 1, "text": {"width": 16, "depth": 1, "heads": 2}}
TEXTS: Any = {"title": "tokens", "body": "tokens"}


def rows(n: int = N) -> dict[str, list[Any]]:
    rng = np.random.default_rng(0)
    good = rng.random(n) < 0.5
    return {
        "title": [f"a {'good' if yes else 'bad'} flat near the lake, number {i}" for i, yes in enumerate(good)],
        "body": [
            None if i % 9 == 0 else "" if i % 9 == 1 else f"it has {i % 6 + 1} rooms and a view" for i in range(n)
        ],
        "size": [float(20 + i % 6) for i in range(n)],
        "liked": good.tolist(),
        "price": [float(100 * (i % 6) + 50 * yes) + 0.5 for i, yes in enumerate(good)],
    }


def fit(folder: Path, source: Any = None, **options: Any) -> Run:
    told = {"trunk": SMALL, "training": {"max_epochs": 2}, "quiet": True, **options}
    return lepton.fit(rows() if source is None else source, ["liked", "price"], folder=folder, **told)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(tmp_path_factory.mktemp("runs") / "run", kinds=TEXTS)


def prepared(**options: Any) -> Any:
    data = {"kinds": options.pop("kinds", {})}
    return prepare(check_config({"data": data, "tasks": ["liked", "price"], **options}), rows())


def kinds_of(encoder: Any) -> dict[str, str]:
    return {column.name: column.kind for column in encoder.columns}


# -- end to end ---------------------------------------------------------------------------------------------------
def test_two_columns_of_texts_and_numbers(run: Run) -> None:
    assert kinds_of(run.encoder) == {"title": "tokens", "body": "tokens", "size": "number"}
    assert run.config.trunk.type == "mixed" and run.config.trunk.text.width == 16
    assert run.model.trunk.texts == 2 and run.model.trunk.text.vocabulary == run.encoder.vocabulary
    assert all(np.isfinite(result.loss) for result in run.results["test"].values())


def test_a_loaded_run_predicts_the_same_bit_for_bit(run: Run) -> None:
    pd.testing.assert_frame_equal(lepton.load(run.folder).predict(rows()), run.predict(rows()), check_exact=True)


def test_predictions_do_not_depend_on_batches_and_their_padding(run: Run) -> None:
    expected = run.predict(rows())
    for size in (1, 7):
        pd.testing.assert_frame_equal(run.predict(rows(), batch_size=size), expected, rtol=1e-4, atol=1e-4)


def test_unseen_empty_and_missing_texts_are_predicted(run: Run) -> None:
    titles = ["", None, "  ", "żółć 🐕", "word " * 2000, "<end> <pad>"]
    odd = {"title": titles, "body": titles[::-1], "size": [None, 1e300, 0.0, -1.0, 2.0, 3.0]}
    found = run.predict(odd)
    assert len(found) == 6 and np.isfinite(found["price"]).all()
    same = run.predict({"title": ["", None, " "], "body": ["a"] * 3, "size": [1.0] * 3})
    assert same["price"].nunique() == 1
    nothing = run.predict({"title": [None], "body": [None], "size": [None]})
    assert np.isfinite(nothing["price"]).all()


def test_a_missing_column_is_named(run: Run) -> None:
    with pytest.raises(DataError, match="no column 'body'"):
        run.predict({"title": ["a"], "size": [1.0]})


def test_what_is_cut_is_noted(tmp_path: Path) -> None:
    config = {"data": {"kinds": {"title": "tokens"}, "max_length": 8}, "tasks": ["liked"], "trunk": SMALL}
    notes = prepare(check_config(config), rows()).notes
    assert any("'title'" in note and "data.max_length = 8" in note for note in notes)


def test_texts_with_pictures(tmp_path: Path) -> None:
    from PIL import Image

    paths = [str(tmp_path / f"{i % 4}.png") for i in range(24)]
    for i in range(4):
        Image.fromarray(np.full((8, 8, 3), 60 * i, np.uint8)).save(paths[i])
    source = {name: values[:24] for name, values in rows(24).items()} | {"picture": paths}
    found = fit(tmp_path / "run", source, kinds=TEXTS, training={"max_epochs": 1, "num_workers": 0})
    assert kinds_of(found.encoder)["picture"] == "image"
    assert np.isfinite(lepton.load(found.folder).predict(source)["price"]).all()


def test_only_a_text(tmp_path: Path) -> None:
    found = fit(tmp_path / "run", inputs={"title": "tokens"})
    assert found.model.trunk.table is None
    assert found.predict({"title": ["a good flat"]})["liked"][0] in ("true", "false")


# -- what is decided, and said ------------------------------------------------------------------------------------
def test_a_part_of_the_trunk_for_texts_asks_for_tokens() -> None:
    found = prepared(trunk=SMALL)
    assert kinds_of(found.encoder)["title"] == "tokens"
    assert any("'title' is read as tokens" in note and "trunk.text" in note for note in found.notes)


def test_columns_that_are_told_are_the_only_ones() -> None:
    found = prepared(kinds={"body": "tokens", "title": "text"})
    assert kinds_of(found.encoder) == {"title": "text", "body": "tokens", "size": "number"}
    assert found.config.trunk.type == "mixed" and found.config.trunk.text is not None
    about = {column.name: column.why for column in found.columns}
    assert about["body"] == "as told; tokens by a Transformer"
    assert "hashed words" in about["title"]


def test_the_resolved_configuration_decides_the_same() -> None:
    for options in ({"kinds": {"body": "tokens", "title": "text"}}, {"trunk": SMALL}, {}):
        first = prepared(**options)
        again = prepare(first.config, rows())
        assert again.config == first.config and again.encoder.to_dict() == first.encoder.to_dict()


def test_texts_of_words_are_hashed_and_it_is_said() -> None:
    found = prepared()
    assert kinds_of(found.encoder)["title"] == "text" and found.config.trunk.type == "tabular"
    (note,) = [note for note in found.notes if "'title'" in note]
    assert "hashed words" in note and "8 word(s)" in note and "kinds: {title: tokens}" in note


def strings(n: int, letters: int = 30) -> dict[str, list[Any]]:
    """Return rows with strings of letters without spaces, and whether their first half holds an x."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(list("abcdefghijx"), (n, letters))
    return {"code": ["".join(row) for row in drawn], "liked": [bool((row[:15] == "x").any()) for row in drawn]}


def of_strings(n: int = 1500, letters: int = 30, **options: Any) -> Any:
    data = {"kinds": {"code": "text"}}
    return prepare(check_config({"data": data, "tasks": ["liked"], **options}), strings(n, letters))


def test_many_long_strings_without_words_earn_the_transformer_and_it_is_said() -> None:
    found = of_strings()
    assert kinds_of(found.encoder) == {"code": "tokens"} and found.config.trunk.type == "mixed"
    assert found.config.trunk.text.width == TEXT_TRUNK["width"]
    assert found.config.training.learning_rate == TEXT_LEARNING_RATE
    assert any("'code' is read as tokens" in note and "30 letters without words" in note for note in found.notes)
    assert prepare(found.config, strings(1500)).config == found.config
    (row,) = [column for column in found.columns if column.name == "code"]
    assert "tokens by a Transformer" in row.why


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 200}, "140 training rows, where it takes 1000"),
        ({"letters": 5}, "1 word(s) in the median"),
        ({"trunk": "tabular"}, "the trunk was chosen"),
    ],
)
def test_strings_that_do_not_earn_it(options: dict[str, Any], words: str) -> None:
    found = of_strings(**options)
    assert kinds_of(found.encoder) == {"code": "text"} and found.config.trunk.type == "tabular"
    assert any("hashed words" in note and words in note for note in found.notes)


def test_long_texts_earn_it_where_there_are_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    long = rows() | {"title": [f"{title} and {' '.join('word' for _ in range(9))}" for title in rows()["title"]]}
    config = check_config({"data": {}, "tasks": ["liked", "price"]})
    few = prepare(config, long)
    assert kinds_of(few.encoder)["title"] == "text" and any("it takes 12000" in note for note in few.notes)
    monkeypatch.setattr(_text_inputs, "LONG_ROWS", 50)
    found = prepare(config, long)
    assert kinds_of(found.encoder)["title"] == "tokens" and found.config.trunk.type == "mixed"
    assert any("18 word(s)" in note and "better than hashed words" in note for note in found.notes)


def test_without_the_extra_they_are_hashed_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    found = of_strings()
    assert kinds_of(found.encoder) == {"code": "text"} and found.config.trunk.type == "tabular"
    assert any("'code' is read as hashed words" in note and "not installed" in note for note in found.notes)


def test_a_trunk_that_reads_no_tokens_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'tabular' reads no texts as tokens"):
        prepared(kinds={"title": "tokens"}, trunk="tabular")
    with pytest.raises(ConfigurationError, match=r"trunk\.text reads texts, but there are none"):
        prepare(check_config({"tasks": ["liked"], "data": {"inputs": {"size": "number"}}, "trunk": SMALL}), rows())


def test_without_the_extra_it_fails_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"lepton-mtl\[text\]|\.\[text\]"):
        prepared(kinds={"title": "tokens"})


def test_the_form_in_a_file(tmp_path: Path) -> None:
    pd.DataFrame(rows()).to_parquet(tmp_path / "flats.parquet")
    lines = ["data: {source: flats.parquet, kinds: {title: tokens}}", "tasks: [liked]"]
    (tmp_path / "run.yaml").write_text("\n".join([*lines, "trunk: {type: mixed, text: {width: 128, depth: 2}}"]))
    config = read_config(tmp_path / "run.yaml")
    assert (config.trunk.text.width, config.trunk.text.depth, config.trunk.text.heads) == (128, 2, 4)
    assert check_config({"data": {}, "tasks": ["liked"], "trunk": "mixed"}).trunk.text is None
    with pytest.raises(ConfigurationError, match="Did you mean 'width'"):
        check_config({"data": {}, "tasks": ["liked"], "trunk": {"type": "mixed", "text": {"widht": 8}}})


# -- the vocabulary -----------------------------------------------------------------------------------------------
def test_a_vocabulary_that_was_changed_is_refused(run: Run, tmp_path: Path) -> None:
    """Two tokens have changed places: the weights fit, but mean other texts."""
    folder = shutil.copytree(run.folder, tmp_path / "run")
    rules = json.loads((folder / "rules.json").read_text())
    (tokens,) = (item for item in rules["inputs"] if "rules" in item)
    vocabulary = tokens["rules"]["rules"]["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "rules.json").write_text(json.dumps(rules))
    with pytest.raises(CheckpointError, match=f"the vocabulary {run.encoder.fingerprint}, but this one is "):
        lepton.load(folder)


def test_a_training_does_not_go_on_with_another_vocabulary(run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    assert about["vocabulary"] == run.encoder.fingerprint
    (folder / "run.json").write_text(json.dumps(about | {"vocabulary": "0123456789abcdef"}))
    with pytest.raises(CheckpointError, match="was trained with the vocabulary 0123456789abcdef"):
        resume_run(folder, source=rows(), quiet=True)


def test_a_run_of_before_its_vocabulary_was_written_down_loads(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    del about["vocabulary"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    pd.testing.assert_frame_equal(lepton.load(tmp_path / "run").predict(rows()), run.predict(rows()))


# -- earlier runs -------------------------------------------------------------------------------------------------
def test_a_run_of_before_there_were_tokens_loads_and_predicts(tmp_path: Path) -> None:
    found = fit(tmp_path / "run", trunk="tabular", kinds={"title": "text", "body": "text"})
    rules = json.loads((found.folder / "rules.json").read_text())
    assert {"kind": "text", "name": "title"} in rules["inputs"]
    assert [item["kind"] for item in rules["inputs"]] == ["text", "text", "number"]
    pd.testing.assert_frame_equal(lepton.load(found.folder).predict(rows()), found.predict(rows()), check_exact=True)


# -- what else looks at a run -------------------------------------------------------------------------------------
def test_a_report_counts_what_it_costs(run: Run) -> None:
    inputs = example_batch(run.config, run.encoder)
    assert inputs["tokens"].shape[:2] == (2, 2) and inputs["tokens"].any()
    assert run.report().exists()


def test_copies_are_found_whatever_the_padding_of_their_part() -> None:
    """The longest text, and so the width of the tensor, differs from part to part."""
    doubled = {name: values[:45] + values[:45] for name, values in rows().items()}
    doubled["body"][0] = "a longer text than any other one here, which makes its part wider " * 2
    config = check_config({"data": {"kinds": TEXTS}, "tasks": ["liked", "price"], "trunk": SMALL})
    found = [finding for finding in check(config, doubled).findings if finding.kind == "duplicates"]
    assert {finding.about[0] for finding in found} == {"val", "test"}
    assert all(finding.numbers["share"] > 0.5 for finding in found)
