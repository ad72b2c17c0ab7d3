"""Texts and tagged words as padded sequences: START and END, labels, lengths, truncation, what is missing or unseen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lepton.data import UNSEEN, SequenceEncoder, Tokenizer, class_names, read_table
from lepton.errors import CheckpointError, ConfigurationError, DataError

pa = pytest.importorskip("pyarrow")
pytest.importorskip("tokenizers")

PAIRS = {
    "en": ["a dog runs", "two dogs sleep", "", None, "a cat"],
    "de": ["ein Hund läuft", "zwei Hunde schlafen", "", "eine Katze", None],
}
WORDS = [["the", "dog", "runs"], ["the", "cat"], [], None, ["the", "dog"]]
TAGS = [["D", "N", "V"], ["D", "X"], [], None, ["D", None]]


@pytest.fixture(scope="module")
def pairs() -> Any:
    return read_table(PAIRS)


@pytest.fixture(scope="module")
def encoder(pairs: Any) -> SequenceEncoder:
    return SequenceEncoder.fit(pairs, "en", target="de", vocabulary=300)


def filled(tensor: Tensor, lengths: Tensor) -> list[list[int]]:
    """Return the rows without what is beyond their lengths."""
    return [row[:length] for row, length in zip(tensor.tolist(), lengths.tolist(), strict=True)]


def beyond(tensor: Tensor, lengths: Tensor) -> Tensor:
    """Return what is beyond the lengths, in one vector."""
    return tensor[torch.arange(tensor.shape[1]) >= lengths[:, None]]


# -- texts ------------------------------------------------------------------------------------------------------------
def test_sequences_are_the_tokens_between_start_and_end(pairs: Any, encoder: SequenceEncoder) -> None:
    found = encoder.encode(pairs)
    pieces = {name: encoder.rules.encode([text or "" for text in texts]) for name, texts in PAIRS.items()}  # type: ignore[arg-type]
    assert filled(found.inputs["tokens"], found.lengths["tokens"]) == [[2, *row, 3] for row in pieces["en"]]
    assert filled(found.inputs["target"], found.lengths["target"]) == [[4, *row] for row in pieces["de"]]
    for name, tensor in found.inputs.items():
        assert not beyond(tensor, found.lengths[name]).any()
        assert tensor.shape[1] == found.lengths[name].max()
    assert [encoder.decode(row) for row in found.inputs["tokens"].tolist()] == [text or "" for text in PAIRS["en"]]
    assert [encoder.decode(row) for row in found.inputs["target"].tolist()] == [text or "" for text in PAIRS["de"]]


def test_labels_are_the_tokens_that_follow_and_none_where_a_text_is_missing(
    pairs: Any, encoder: SequenceEncoder
) -> None:
    found = encoder.encode(pairs)
    for name, labels, missing in (
        ("tokens", encoder.language_labels(pairs), 3),
        ("target", encoder.target_labels(pairs), 4),
    ):
        rows, lengths = found.inputs[name], found.lengths[name]
        assert labels.shape == rows.shape
        for row, (label, length) in enumerate(zip(labels.tolist(), lengths.tolist(), strict=True)):
            following = rows[row, 1:length].tolist() + ([-100] if name == "tokens" else [3])
            assert label[:length] == ([-100] * length if row == missing else following)
        assert (beyond(labels, lengths) == -100).all()


def test_an_empty_text_is_start_and_end_and_an_empty_translation_ends_at_once(
    pairs: Any, encoder: SequenceEncoder
) -> None:
    found = encoder.encode(pairs)
    assert found.inputs["tokens"][2, :3].tolist() == [2, 3, 0]
    assert found.inputs["target"][2, :2].tolist() == [4, 0]
    assert encoder.language_labels(pairs)[2, :2].tolist() == [3, -100]
    assert encoder.target_labels(pairs)[2, :2].tolist() == [3, -100]
    alone = read_table({"en": ["", None]})
    assert encoder.encode(alone).inputs["tokens"].tolist() == [[2, 3], [2, 3]]


def test_a_text_of_5000_words_loses_its_end_but_not_END_and_is_counted(encoder: SequenceEncoder) -> None:
    long = " ".join(["dog"] * 5000)
    table = read_table({"en": [long, "a dog"], "de": [long, long]})
    found = encoder.encode(table)
    assert found.inputs["tokens"].shape == found.inputs["target"].shape == (2, 128)
    assert found.inputs["tokens"][0, [0, -1]].tolist() == [2, 3]
    assert encoder.language_labels(table)[0, -2:].tolist() == [3, -100]
    assert encoder.target_labels(table)[0, -1] == 3
    assert encoder.truncated(table) == {"en": 1, "de": 2}
    [whole] = encoder.rules.encode([long])  # type: ignore[arg-type]
    assert found.inputs["tokens"][0, 1:-1].tolist() == whole[:126]
    assert found.inputs["target"][0, 1:].tolist() == whole[:127]


def test_a_text_that_just_fits_is_not_truncated(encoder: SequenceEncoder) -> None:
    [ids] = encoder.rules.encode(["zq" * 5])  # type: ignore[arg-type]
    table = read_table({"en": ["zq" * 5]})
    fits = SequenceEncoder("en", None, len(ids) + 2, encoder.rules)
    assert fits.truncated(table) == {}
    assert SequenceEncoder("en", None, len(ids) + 1, encoder.rules).truncated(table) == {"en": 1}
    assert fits.encode(table).inputs["tokens"].tolist() == [[2, *ids, 3]]


def test_rows_to_predict_need_no_translation(encoder: SequenceEncoder) -> None:
    alone = read_table({"en": ["a dog"]})
    assert set(encoder.encode(alone).inputs) == {"tokens"}
    with pytest.raises(DataError, match="no column 'de'"):
        encoder.target_labels(alone)
    with pytest.raises(DataError, match=r"no column 'en'.*Did you mean 'eng'"):
        encoder.encode(read_table({"eng": ["a dog"]}))


def test_unknown_characters_are_written_in_bytes(encoder: SequenceEncoder) -> None:
    table = read_table({"en": ["語 🐕 \u0301"]})
    assert encoder.decode(encoder.encode(table).inputs["tokens"][0].tolist()) == "語 🐕 \u0301"
    assert encoder.unseen(table) == {}


def test_the_vocabulary_is_that_of_both_training_columns_and_of_nothing_else(pairs: Any) -> None:
    both = Tokenizer.train([text for texts in PAIRS.values() for text in texts if text], 300)
    assert SequenceEncoder.fit(pairs, "en", target="de", vocabulary=300).fingerprint == both.fingerprint
    given = SequenceEncoder.fit(read_table({"en": ["other"]}), "en", tokenizer=both)
    assert given.fingerprint == both.fingerprint


def test_numbers_and_categories_are_texts_too() -> None:
    table = pa.table({"a": pa.array(["x y", "x y", None]).dictionary_encode(), "b": [1.0, 2.5, None]})
    encoder = SequenceEncoder.fit(table, "a", target="b", vocabulary=300)
    found = encoder.encode(table)
    assert [encoder.decode(row) for row in found.inputs["tokens"].tolist()] == ["x y", "x y", ""]
    assert [encoder.decode(row) for row in found.inputs["target"].tolist()] == ["1", "2.5", ""]


def test_answers_do_not_depend_on_the_table_that_was_asked_for_before(encoder: SequenceEncoder, pairs: Any) -> None:
    first = encoder.encode(pairs).inputs["tokens"]
    encoder.encode(read_table({"en": ["something else"] * 5}))
    assert torch.equal(encoder.encode(pairs).inputs["tokens"], first)
    assert torch.equal(
        encoder.encode(pairs.slice(1, 2)).inputs["tokens"], first[1:3, : int((first[1:3] != 0).sum(1).max())]
    )


# -- words ------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def tagged() -> Any:
    return read_table({"words": WORDS, "tags": TAGS})


@pytest.fixture(scope="module")
def reader(tagged: Any) -> SequenceEncoder:
    return SequenceEncoder.fit(tagged, "words")


def test_words_that_training_has_twice_have_numbers(tagged: Any, reader: SequenceEncoder) -> None:
    found = reader.encode(tagged)
    assert reader.words and reader.vocabulary == 7
    assert found.inputs["tokens"].tolist() == [
        [2, 5, 6, 1, 3],
        [2, 5, 1, 3, 0],
        [2, 3, 0, 0, 0],
        [2, 3, 0, 0, 0],
        [2, 5, 6, 3, 0],
    ]
    assert found.lengths["tokens"].tolist() == [5, 4, 2, 2, 4]
    assert reader.decode([2, 5, 6, 1, 3, 0]) == "the dog <unknown>"


def test_characters_spell_the_words_and_nothing_else(tagged: Any, reader: SequenceEncoder) -> None:
    found = reader.encode(tagged)
    letters = sorted(set("thedogrunscat"))
    assert reader.characters == 2 + len(letters)
    spelled = found.inputs["characters"]
    assert spelled.shape == (5, 5, 4)
    for row, words in enumerate(WORDS):
        for place in range(5):
            word = words[place - 1] if words and 0 < place <= len(words) else ""
            numbers = [2 + letters.index(letter) for letter in word]
            assert spelled[row, place].tolist() == numbers + [0] * (4 - len(word)), (row, place)


def test_the_middle_of_a_very_long_word_is_not_spelled(reader: SequenceEncoder) -> None:
    long = "th" * 6 + "z" * 50 + "do" * 6
    table = read_table({"words": [[long], ["th" * 6 + "do" * 6]]})
    characters = reader.encode(table).inputs["characters"]
    assert torch.equal(characters[0], characters[1])
    assert reader.unseen(table) == {}  # what is not read is not unseen


def test_tags_stand_where_their_words_do(tagged: Any, reader: SequenceEncoder) -> None:
    labels, unseen = reader.tag_labels(tagged, "tags", ["D", "N", "V"])
    assert labels.tolist() == [
        [-100, 0, 1, 2, -100],
        [-100, 0, UNSEEN, -100, -100],
        [-100] * 5,
        [-100] * 5,
        [-100, 0, -100, -100, -100],
    ]
    assert unseen == 1


def test_rows_whose_words_and_tags_differ_in_number(reader: SequenceEncoder) -> None:
    table = read_table({"words": [["the"], ["the", "dog"]], "tags": [["D"], ["D", "N", "V"]]})
    with pytest.raises(DataError, match="row 1, counted from 0, has 2 words in 'words', but 3 tags in 'tags'"):
        reader.tag_labels(table, "tags", ["D"])
    with pytest.raises(DataError, match="column 'tags' must hold lists of words"):
        reader.tag_labels(read_table({"words": [["the"]], "tags": ["D"]}), "tags", ["D"])


def test_tags_are_cut_with_their_words(tagged: Any) -> None:
    short = SequenceEncoder.fit(tagged, "words", max_length=4)
    labels, _ = short.tag_labels(tagged, "tags", ["D", "N", "V"])
    found = short.encode(tagged)
    assert found.inputs["tokens"][0].tolist() == [2, 5, 6, 3]
    assert labels[0].tolist() == [-100, 0, 1, -100]
    assert found.inputs["characters"].shape[:2] == labels.shape == found.inputs["tokens"].shape
    assert short.truncated(tagged) == {"words": 1}


def test_a_text_is_cut_at_its_spaces_where_words_are_read(reader: SequenceEncoder) -> None:
    texts = reader.encode(read_table({"words": ["the  dog runs ", "", None]}))
    words = reader.encode(read_table({"words": [["the", "dog", "runs"], [], None]}))
    assert all(torch.equal(texts.inputs[name], words.inputs[name]) for name in ("tokens", "characters"))


def test_rows_without_any_word_and_columns_of_several_chunks(reader: SequenceEncoder, tagged: Any) -> None:
    assert reader.encode(read_table({"words": [[], None]})).inputs["tokens"].tolist() == [[2, 3], [2, 3]]
    assert reader.encode(tagged.slice(0, 0)).inputs["tokens"].shape == (0, 2)
    chunks = pa.concat_tables([tagged.slice(3), tagged.slice(1, 1), tagged.slice(0, 1)])
    assert chunks.column("words").num_chunks == 3
    whole, found = reader.encode(tagged), reader.encode(chunks)
    order = torch.tensor([3, 4, 1, 0])
    for name in ("tokens", "characters"):
        assert torch.equal(found.inputs[name], whole.inputs[name][order])
    labels, _ = reader.tag_labels(chunks, "tags", ["D", "N"])
    assert torch.equal(labels, reader.tag_labels(tagged, "tags", ["D", "N"])[0][order])


def test_rows_with_unseen_characters_are_counted(reader: SequenceEncoder) -> None:
    table = read_table({"words": [["dog", "zoo"], ["dogs"], ["zzz", "z"], None]})
    assert reader.unseen(table) == {"words": 2}


def test_the_vocabulary_is_bounded_and_its_order_fixed() -> None:
    table = read_table({"words": [["b", "a", "c", "c"], ["a", "b", "c"]]})
    assert SequenceEncoder.fit(table, "words", vocabulary=7).rules.words == ["c", "a"]  # type: ignore[union-attr]


# -- rules ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["encoder", "reader"])
def test_json_keeps_everything(kind: str, request: pytest.FixtureRequest, pairs: Any, tagged: Any) -> None:
    rules = request.getfixturevalue(kind)
    again = SequenceEncoder.from_dict(json.loads(json.dumps(rules.to_dict())))
    table = pairs if kind == "encoder" else tagged
    ours, theirs = rules.encode(table), again.encode(table)
    assert ours.inputs.keys() == theirs.inputs.keys()
    assert all(torch.equal(ours.inputs[name], theirs.inputs[name]) for name in ours.inputs)
    assert (again.vocabulary, again.characters, again.fingerprint) == (
        rules.vocabulary,
        rules.characters,
        rules.fingerprint,
    )
    assert again.to_dict() == rules.to_dict()


def test_a_vocabulary_of_another_run(encoder: SequenceEncoder, reader: SequenceEncoder) -> None:
    encoder.check_fingerprint(encoder.fingerprint, "the checkpoint 'a'")
    with pytest.raises(CheckpointError, match=r"the checkpoint 'a' was trained with the vocabulary .*other tokens"):
        encoder.check_fingerprint(reader.fingerprint, "the checkpoint 'a'")
    stored = reader.to_dict()
    stored["rules"]["words"] = ["dog", "the"]
    with pytest.raises(CheckpointError, match="other tokens"):
        SequenceEncoder.from_dict(stored)


@pytest.mark.parametrize("lost", ["kind", "source", "rules", "fingerprint"])
def test_damaged_rules(lost: str, reader: SequenceEncoder) -> None:
    stored = reader.to_dict()
    del stored[lost]
    with pytest.raises(CheckpointError, match=f"damaged.*{lost}"):
        SequenceEncoder.from_dict(stored)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 2}, "max_length must be a whole number of at least 3"),
        ({"max_length": "9"}, "max_length must be"),
        ({"target": "en"}, "target must be another column than source"),
        ({"vocabulary": 10}, "vocabulary must be a whole number of at least 261"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str, pairs: Any) -> None:
    with pytest.raises(ConfigurationError, match=words):
        SequenceEncoder.fit(pairs, "en", **options)


def test_columns_that_cannot_be_learned_from(pairs: Any, tagged: Any, encoder: SequenceEncoder) -> None:
    with pytest.raises(DataError, match=r"no column 'fr'.*ends in '\.fr' or '\.fr\.gz' missing"):
        SequenceEncoder.fit(pairs, "en", target="fr")
    with pytest.raises(DataError, match="column 'en' holds no text"):
        SequenceEncoder.fit(read_table({"en": ["", None]}), "en")
    with pytest.raises(DataError, match="column 'words' holds no word"):
        SequenceEncoder.fit(
            read_table({"words": [[], None, []]}).cast(pa.schema({"words": pa.list_(pa.string())})), "words"
        )
    with pytest.raises(ConfigurationError, match="lists of words, which go without target"):
        SequenceEncoder.fit(tagged, "words", target="tags")
    with pytest.raises(ConfigurationError, match="vocabulary must be"):
        SequenceEncoder.fit(tagged, "words", vocabulary=5)
    with pytest.raises(DataError, match="'en' holds lists of words where texts are expected"):
        encoder.encode(read_table({"en": [["a", "dog"]]}))
    with pytest.raises(ConfigurationError, match="source must be a column of lists of words"):
        encoder.tag_labels(pairs, "de", ["x"])
    with pytest.raises(ConfigurationError, match="target must be a column"):
        SequenceEncoder("en", None, 9, encoder.rules).target_labels(pairs)


# -- real rows --------------------------------------------------------------------------------------------------------
def test_a_treebank(data_folder: Path) -> None:
    table = read_table(data_folder / "ud_ewt" / "en_ewt-ud-dev.conllu.gz")
    train, val = table.slice(0, 1500), table.slice(1500)
    reader = SequenceEncoder.fit(train, "words")
    for column in ("upos", "xpos", "feats"):
        classes = class_names(train, column)
        labels, unseen = reader.tag_labels(train, column, classes)
        assert unseen == 0 and labels.shape == reader.encode(train).inputs["tokens"].shape
        assert int((labels >= 0).sum()) == sum(map(len, train.column("words").to_pylist()))
        labels, unseen = reader.tag_labels(val, column, classes)
        strange = sum(tag not in classes for row in val.column(column).to_pylist() for tag in row)
        assert unseen == strange == int((labels == UNSEEN).sum())


def test_captions(data_folder: Path) -> None:
    table = read_table(data_folder / "multi30k" / "val")
    encoder = SequenceEncoder.fit(table.slice(0, 800), "en", target="de", vocabulary=1000)
    found = encoder.encode(table)
    for name, column in (("tokens", "en"), ("target", "de")):
        assert [encoder.decode(row) for row in found.inputs[name].tolist()] == table.column(column).to_pylist()
    assert all(tensor.dtype == torch.int16 for tensor in found.inputs.values())
