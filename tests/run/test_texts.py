"""Runs that read texts: translation beside a language model, tags, a class of a text; and what does not go together."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import lepton
from lepton.data import UNSEEN, SequenceEncoder
from lepton.errors import CheckpointError, ConfigurationError, DataError
from lepton.insight import text_scores
from lepton.nn import greedy_search
from lepton.run import Run, check, make_config, prepare, run_baselines, score_notes

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")

TRUNK = {"type": "transformer", "width": 32, "depth": 1, "heads": 2, "dropout": 0.0}
GERMAN = {"a": "ein", "the": "der", "dog": "Hund", "man": "Mann", "runs": "rennt", "sleeps": "schläft"}


def sentences(rows: int = 240) -> dict[str, list[Any]]:
    """A language of eight sentences, in two tongues."""
    draw = random.Random(0)
    english = [
        f"{draw.choice(['a', 'the'])} {draw.choice(['dog', 'man'])} {draw.choice(['runs', 'sleeps'])}"
        for _ in range(rows)
    ]
    german = [" ".join(GERMAN[word] for word in text.split()) + "." for text in english]
    return {"en": english, "de": german, "animal": ["dog" in text for text in english]}


def tagged(rows: int = 200) -> dict[str, list[Any]]:
    tags = {"a": "D", "the": "D", "dog": "N", "man": "N", "runs": "V", "sleeps": "V"}
    words = [text.split() for text in sentences(rows)["en"]]
    return {"words": words, "tags": [[tags[word] for word in row] for row in words]}


TASKS = {"english": {"type": "language_modeling", "column": "en"}, "german": {"type": "translation", "column": "de"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return lepton.fit(
        sentences(),
        TASKS,
        ignore=["animal"],
        trunk=TRUNK,
        balance="upgrad",
        training={"max_epochs": 12, "batch_size": 16, "learning_rate": 1e-2},
        folder=tmp_path_factory.mktemp("runs") / "texts",
        quiet=True,
    )


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return lepton.fit(
        tagged(),
        {"tags": "token_classification", "next": "language_modeling"},
        trunk={**TRUNK, "word_dropout": 0.1},
        training={"max_epochs": 8, "batch_size": 16, "learning_rate": 1e-2},
        folder=tmp_path_factory.mktemp("runs") / "tags",
        quiet=True,
    )


def test_it_learns_to_translate(run: Run) -> None:
    """Eight sentences are learned by heart: anything else is a fault in labels, masks or search."""
    assert run.predict(["the dog sleeps", "a man runs"], tasks=["german"])["german"].tolist() == [
        "der Hund schläft.",
        "ein Mann rennt.",
    ]
    test = run.results["test"]
    assert test["german"].metrics["bleu"] > 99 and test["german"].metrics["chrf"] > 99
    # Three choices of two each: no model can do better than 8 sentences of equal probability.
    assert test["english"].metrics["perplexity"] ** 4 == pytest.approx(8, rel=0.2)


def test_scores_come_with_their_signatures_wherever_they_are_shown(run: Run) -> None:
    scores = text_scores(["a"], ["a"])
    expected = {"bleu": scores.bleu_signature, "chrf": scores.chrf_signature}
    stored = json.loads((run.folder / "results.json").read_text())
    for part in ("val", "test"):
        assert stored[part]["german"]["signatures"] == run.results[part]["german"].signatures == expected
        assert stored[part]["english"]["signatures"] == {}
    assert run.evaluate()["german"].signatures == expected
    notes = [f"german {name}: sacrebleu {signature}" for name, signature in expected.items()]
    assert score_notes(run.results) == notes
    card = (run.folder / "README.md").read_text(encoding="utf-8")
    for shown in (run._repr_html_(), run.report().read_text(encoding="utf-8"), card.replace("`", "")):
        assert all(note in shown for note in notes)


def test_results_without_signatures_are_read(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    path = tmp_path / "run" / "results.json"
    stored = json.loads(path.read_text())
    for part in stored.values():
        for result in part.values():
            del result["signatures"]
    path.write_text(json.dumps(stored))
    old = lepton.load(tmp_path / "run")
    assert old.results["test"]["german"].metrics == run.results["test"]["german"].metrics
    assert old.results["test"]["german"].signatures == {} and not score_notes(old.results)
    old.report()


def test_a_language_model_says_how_likely_a_text_is(run: Run) -> None:
    found = run.predict(["the dog sleeps", "sleeps the dog"])["english_perplexity"]
    assert found[0] < 2.5 < 10 < found[1]


def test_a_loaded_run_predicts_the_same(run: Run) -> None:
    again = lepton.load(run.folder)
    texts = ["the dog sleeps", "", "völlig unbekannt 汉字"]
    assert again.predict(texts).equals(run.predict(texts))
    assert json.loads((run.folder / "rules.json").read_text())["sequence"]


def test_what_can_be_predicted_from(run: Run) -> None:
    """Texts, tables with further columns in any order, and without the column of the translation."""
    rows = pa.table({"de": ["x", "y"], "other": [1, 2], "en": ["a dog runs", None]})
    found = run.predict(rows)
    assert found.column_names == ["english_perplexity", "german"] and found["german"][0].as_py() == "ein Hund rennt."
    assert run.predict(rows.select(["en"]))["german"].equals(found["german"])
    with pytest.raises(DataError, match="there is no column 'en'"):
        run.predict({"text": ["a dog runs"]})
    with pytest.raises(DataError, match="must be strings"):
        run.predict(["a dog", 3])


def test_the_curve_of_bleu_is_in_the_history(run: Run) -> None:
    assert [row["val/german/bleu"] for row in run.history][-1] > 90


@pytest.mark.parametrize(("monitor", "average"), [("val/german/bleu", "none"), ("val/german/chrf", "ema")])
def test_a_search_score_can_be_monitored(tmp_path: Path, monitor: str, average: str) -> None:
    """The weights that are kept are those that translated the validation rows best, searched again by hand."""
    run = lepton.fit(
        sentences(),
        TASKS,
        ignore=["animal"],
        trunk=TRUNK,
        training={
            "max_epochs": 5, "batch_size": 16, "learning_rate": 1e-2, "monitor": monitor, "average": average,
            "average_decay": 0.9,
        },
        folder=tmp_path / "run",
        quiet=True,
    )  # fmt: skip
    curve = [row[monitor] for row in run.history]
    kept = json.loads((run.folder / "checkpoints" / "best" / "state.json").read_text())
    assert kept[monitor] == max(curve) > min(curve) and curve[int(kept["epoch"]) - 1] == max(curve)
    val = sentences_of(run, "val")
    model = lepton.load(run.folder).model
    assert isinstance(run.encoder, SequenceEncoder)
    tokens = run.encoder.encode(val).inputs["tokens"].long()
    said = [run.encoder.decode(ids) for ids in greedy_search(model, "german", tokens)]
    assert getattr(text_scores(said, val["de"].to_pylist()), monitor.rpartition("/")[2]) == pytest.approx(max(curve))
    alone = run_baselines(run, source=sentences(), boosting=False, quiet=True).alone
    assert set(alone) == {"english", "german"}


def sentences_of(run: Run, part: str) -> pa.Table:
    return pa.table(sentences()).take(run.split.parts[part].numpy())


def test_a_search_score_that_is_misspelt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'val/german/bleu'"):
        lepton.fit(
            sentences(), TASKS, ignore=["animal"], trunk=TRUNK, training={"monitor": "val/german/blue"},
            folder=tmp_path / "run", quiet=True,
        )  # fmt: skip


def test_evaluation_needs_the_reference(run: Run) -> None:
    found = run.evaluate({"en": ["a dog runs"] * 3, "de": ["ein Hund rennt."] * 3})
    assert found["german"].metrics["bleu"] == pytest.approx(100)
    with pytest.raises(DataError, match="there is no column 'de'"):
        run.evaluate({"en": ["a dog runs"]})


def test_rows_without_a_reference_do_not_count(run: Run) -> None:
    rows = {"en": ["a dog runs"] * 4, "de": ["ein Hund rennt.", None, "ein Hund rennt.", None]}
    assert run.evaluate(rows)["german"].metrics["chrf"] == pytest.approx(100)
    nothing = run.evaluate({"en": ["a dog runs"], "de": pa.array([None], pa.string())})
    assert math.isnan(nothing["german"].metrics["bleu"]) and not nothing["german"].signatures


def test_no_texts_are_refused(run: Run) -> None:
    with pytest.raises(DataError, match="no texts to predict"):
        run.predict([])


def test_the_report_shows_translations(run: Run) -> None:
    page = run.report().read_text(encoding="utf-8")
    for words in ("Furthest from their references", "Most surprising texts", "schläft", "bleu", "Recommendation: "):
        assert words in page


def test_alone_for_as_long(run: Run) -> None:
    found = run_baselines(run, source=sentences(), budget="time", boosting=False, quiet=True)
    assert set(found.alone) == {"english", "german"}
    assert found.alone["german"].mean("test")["bleu"] > 90
    assert found.notes[:2] == score_notes(run.results)
    with pytest.raises(ConfigurationError, match="'steps' or 'time'"):
        run_baselines(run, source=sentences(), budget="money", quiet=True)  # type: ignore[arg-type]


def test_a_vocabulary_of_another_run_is_refused(run: Run, tmp_path: Path) -> None:
    """Also one of the same size, whose numbers mean other tokens."""
    rows = sentences()
    rows["de"] = [text.replace("Hund", "Dunh") for text in rows["de"]]
    options: dict[str, Any] = {"ignore": ["animal"], "trunk": TRUNK, "training": {"max_epochs": 1}, "quiet": True}
    other = lepton.fit(rows, TASKS, folder=tmp_path / "other", **options)
    assert other.encoder.vocabulary == run.encoder.vocabulary  # type: ignore[union-attr]
    (other.folder / "rules.json").write_text((run.folder / "rules.json").read_text())
    with pytest.raises(CheckpointError, match="was trained with the vocabulary"):
        lepton.load(other.folder)


# -- tags ---------------------------------------------------------------------------------------------------------
def test_it_learns_to_tag(tagger: Run) -> None:
    assert tagger.results["test"]["tags"].metrics == {"accuracy": 1.0, "f1_macro": 1.0}
    assert tagger.predict(["the dog runs"], tasks=["tags"])["tags"].tolist() == [["D", "N", "V"]]
    rows = pa.table({"words": [["a", "man"], []]})
    assert tagger.predict(rows)["tags"].to_pylist() == [["D", "N"], []]


def test_unseen_tags_count_as_wrong_and_are_said(tagger: Run) -> None:
    found = tagger.evaluate({"words": [["the", "dog"]], "tags": [["D", "NEW"]]})
    assert found["tags"].metrics["accuracy"] == 0.5
    assert any("1 evaluated labels hold a tag that training has not" in note for note in tagger.notes)


def test_words_beyond_the_longest_sequence_have_no_tag(tagger: Run) -> None:
    most = tagger.config.data.max_length - 2
    (tags,) = tagger.predict(pa.table({"words": [["dog"] * (most + 3)]}))["tags"].to_pylist()
    assert len(tags) == most + 3 and tags[most:] == [None] * 3 and None not in tags[:most]


def test_tags_that_are_all_missing_and_words_without_letters(tagger: Run) -> None:
    found = tagger.evaluate({"words": [["the", "dog"]], "tags": [None]})
    assert found["tags"].n_labels == 0
    assert len(tagger.predict(pa.table({"words": [["", ""]]}))["tags"].to_pylist()[0]) == 2


def test_a_row_with_more_words_than_tags_is_refused(tagger: Run) -> None:
    with pytest.raises(DataError, match=r"2 words.*1 tags"):
        tagger.evaluate({"words": [["the", "dog"]], "tags": [["D"]]})


def test_the_report_names_the_wrong_word_beside_one_with_a_space(tagger: Run) -> None:
    from lepton.run.report._report import _text_predictions

    rows = pa.table({"words": [["New York", "dog"]], "tags": [["N", "V"]]})
    assert _text_predictions(tagger, rows)["tags"].texts[0].split(" ") == ["New\u00a0York", "dog"]


def test_the_report_shows_tags(tagger: Run) -> None:
    page = tagger.report().read_text(encoding="utf-8")
    assert "Scores of each tag" in page and "words with a tag" in page


# -- one value for a text -----------------------------------------------------------------------------------------
def test_a_class_of_a_text_reads_the_whole_text(tmp_path: Path) -> None:
    run = lepton.fit(
        sentences(),
        {"animal": "classification", "english": {"type": "language_modeling", "column": "en"}},
        ignore=["de"],
        trunk=TRUNK,
        training={"max_epochs": 6, "batch_size": 16, "learning_rate": 1e-2},
        folder=tmp_path / "run",
        quiet=True,
    )
    assert run.model.trunk.readers == {"animal": "pooled", "english": "causal"}
    assert run.results["test"]["animal"].metrics["accuracy"] == 1.0
    assert run.predict(["a dog runs"])["animal"].tolist() == ["true"]
    run.report()


# -- what does not go together ------------------------------------------------------------------------------------
def prepared(tasks: Any, rows: Any = None, **data: Any) -> Any:
    rest = {"trunk": data.pop("trunk", TRUNK)}
    return prepare(make_config(source=None, targets=tasks, data=data, rest=rest), rows or sentences())


@pytest.mark.parametrize(
    ("tasks", "rows", "data", "words"),
    [
        (TASKS, None, {"trunk": "tabular"}, "every position of a text"),
        (TASKS, None, {}, None),
        ({"german": {"type": "translation", "column": "de"}}, None, {"inputs": {"de": "text"}}, "read and one that"),
        ({"tags": "token_classification"}, {"text": ["a b"] * 30, "tags": [["x", "y"]] * 30}, {}, "lists of words"),
        ({"tags": "token_classification"}, {"words": [["a"]] * 30, "tags": ["x", "y"] * 15}, {}, "a list of tags"),
        ({"lm": {"type": "language_modeling", "column": "de"}}, None, {"inputs": {"en": "text"}}, "a language model"),
        ({"lm": "language_modeling"}, None, {}, "read one column"),
        (TASKS, None, {"inputs": {"en": "text", "animal": "boolean"}}, "read one column"),
        (TASKS, None, {"ignore": ["anmal"]}, "Did you mean 'animal'"),
        ({"en": "classification"}, None, {"inputs": {"en": "text"}}, "read and one that"),
        (
            {"lm": {"type": "language_modeling", "columns": ["de"]}},
            None,
            {"inputs": {"en": "text"}},
            "a language model",
        ),
        ({"lm": {"type": "language_modeling", "missing": 3}}, None, {}, "missing"),
        ({"lm": {"type": "language_modeling", "column": "x"}}, None, {}, "no column 'x'"),
        (
            {"de": "translation"},
            {"words": [["a", "dog"]] * 30, "de": ["ein Hund"] * 30},
            {},
            "lists of words.*join them",
        ),
        ({"n": "translation"}, {"en": ["a b c"] * 30, "n": list(range(30))}, {}, "needs a column with text"),
    ],
)
def test_what_does_not_go_together(tasks: Any, rows: Any, data: dict[str, Any], words: str | None) -> None:
    if words is None:
        assert prepared(tasks, rows, **data).encoder.source == "en"
        return
    with pytest.raises((ConfigurationError, DataError), match=words):
        prepared(tasks, rows, **data)


def test_different_sentences_of_unknown_words_are_no_duplicates() -> None:
    rows = {"words": [["hello", f"name{row}"] for row in range(200)], "tags": [["A", "B"]] * 200}
    config = make_config(source=None, targets={"tags": "token_classification"}, data={}, rest={"trunk": TRUNK})
    assert not [finding for finding in check(config, rows).findings if finding.kind == "duplicates"]


def test_lists_as_long_as_the_words_are_tags(tmp_path: Path) -> None:
    assert [rule.kind for rule in prepared(["tags"], tagged()).rules] == ["token_classification"]
    fewer = tagged()
    fewer["tags"] = [row[1:] for row in fewer["tags"]]
    (rule,) = prepared(["tags"], {**fewer, "n": list(range(200))}, inputs={"n": "number"}, trunk="tabular").rules
    assert rule.kind == "multi_label"


IN_PARTS = {"method": "column", "column": "part"}


def parted() -> dict[str, list[Any]]:
    return {**tagged(100), "part": ["train"] * 70 + ["val"] * 20 + ["test"] * 10}


def late_tags(**section: Any) -> Any:
    """The last row, of the test, holds a tag that no other row has."""
    rows = parted()
    rows["tags"][-1] = ["LATE"] * 3
    return prepared({"tags": {"type": "token_classification", **section}}, rows, split=IN_PARTS)


def test_the_classes_are_the_tags_of_the_training_rows() -> None:
    found = late_tags()
    (rule,) = found.rules
    assert rule.classes == ("D", "N", "V") and list(found.config.tasks["tags"].classes) == ["D", "N", "V"]
    targets = found.data["test"].targets["tags"]
    assert int((targets == UNSEEN).sum()) == 3 and int((targets[-1] == UNSEEN).sum()) == 3
    assert "'tags': 3 test labels hold a tag that training has not." in found.notes
    assert late_tags(classes=3).rules == found.rules
    with pytest.raises(DataError, match="has 3 classes, but the configuration says 4"):
        late_tags(classes=4)


def test_tags_that_are_told_are_the_classes() -> None:
    found = late_tags(classes=["D", "LATE", "N", "V"])
    assert found.rules[0].classes == ("D", "LATE", "N", "V")
    assert not (found.data["test"].targets["tags"] == UNSEEN).any()


def test_training_rows_without_tags_are_refused() -> None:
    rows = parted()
    rows["tags"][:70] = [[None] * 3 for _ in range(70)]
    with pytest.raises(DataError, match="'tags' has no value in the training rows"):
        prepared({"tags": "token_classification"}, rows, split=IN_PARTS)


def test_long_texts_are_cut_and_counted() -> None:
    rows = sentences(60)
    rows["en"][0] = "dog " * 5000
    found = prepared(TASKS, rows, ignore=["animal"], split={"val": 0.0, "test": 0.0})
    assert found.data["train"].inputs["tokens"].shape[1] <= found.config.data.max_length
    assert any("1 of 60 train texts are cut" in note for note in found.notes)


def test_a_check_of_texts(tmp_path: Path) -> None:
    config = make_config(source=None, targets=TASKS, data={"ignore": ["animal"]}, rest={"trunk": TRUNK})
    found = check(config, sentences())
    assert found.passed and any(finding.kind == "duplicates" for finding in found.findings)


def test_special_numbers_are_the_same_on_both_sides() -> None:
    """The encoder writes them, the trunk and the search read them; neither room may import the other."""
    from lepton.data import _tokenizer
    from lepton.nn import _ids

    for name in ("PAD", "START", "END", "TARGET"):
        assert getattr(_tokenizer, name) == getattr(_ids, name)


def test_a_limit_of_rows() -> None:
    config = make_config(source=None, targets=TASKS, data={"ignore": ["animal"], "limit": 50}, rest={"trunk": TRUNK})
    assert sum(len(rows) for rows in prepare(config, sentences()).data.values()) == 50


def test_the_padding_of_a_batch_changes_no_prediction(run: Run) -> None:
    """A text alone and beside a much longer one: the same perplexity and the same translation."""
    long = " ".join(["the dog sleeps"] * 10)
    alone = [run.predict([text]) for text in ("a man runs", long)]
    together = run.predict(["a man runs", long])
    for place, found in enumerate(alone):
        assert together["german"][place] == found["german"][0]
        assert together["english_perplexity"][place] == pytest.approx(found["english_perplexity"][0], rel=1e-4)


def test_a_gradient_balancer_saw_both_tasks(run: Run) -> None:
    assert run.model.fork.mean_weights is not None and bool((run.model.fork.mean_weights > 0).all())
    assert torch.isfinite(run.model.fork.mean_weights).all()
