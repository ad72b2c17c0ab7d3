"""Pieces of texts: every text comes back as it was, and the same rules come back from JSON and from a folder."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.data import SequenceEncoder, Tokenizer, read_table
from lepton.errors import CheckpointError, ConfigurationError, DataError, MissingExtraError, install_line

pytest.importorskip("tokenizers")

TEXTS = ["a dog runs", "a dog sleeps", "two dogs run and two cats sleep", "ein Hund läuft", "zwei Hunde laufen"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, vocabulary=300)


@settings(max_examples=300)
@given(text=st.text(max_size=80))
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    [ids] = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([tokenizer.start, *ids, tokenizer.end, tokenizer.pad, tokenizer.target]) == text
    assert all(5 <= number < tokenizer.size for number in ids)


@pytest.mark.parametrize("text", ["<pad><end>", "a <target> b", "<start>", "  two  spaces ", "\n\t\r\n", "", "\0"])
def test_words_of_special_tokens_and_spaces_are_text(tokenizer: Tokenizer, text: str) -> None:
    [ids] = tokenizer.encode([text])
    assert not {tokenizer.pad, tokenizer.start, tokenizer.end, tokenizer.target} & set(ids)
    assert tokenizer.decode(ids) == text


def test_the_conventions_of_numbers(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad, tokenizer.start, tokenizer.end, tokenizer.target) == (0, 2, 3, 4)
    assert tokenizer.size <= 300


def test_the_same_texts_give_the_same_tokens_and_others_do_not(tokenizer: Tokenizer) -> None:
    assert Tokenizer.train(iter(TEXTS), vocabulary=300).to_json() == tokenizer.to_json()
    other = Tokenizer.train(TEXTS[1:], vocabulary=300)
    smaller = Tokenizer.train(TEXTS, vocabulary=280)
    assert len({tokenizer.fingerprint, other.fingerprint, smaller.fingerprint}) == 3


def test_json_keeps_everything(tokenizer: Tokenizer) -> None:
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again.fingerprint == tokenizer.fingerprint
    texts = [*TEXTS, "unseen 語 🐕", "<end>", "x" * 3000]
    assert again.encode(texts) == tokenizer.encode(texts)
    assert len(again.encode(["x" * 3000])[0]) > 1000  # nothing is cut here


@pytest.mark.parametrize("text", ["", "{}", '{"roles": {}, "rules": {"model": 3}}', "[1]"])
def test_damaged_json(text: str) -> None:
    with pytest.raises(CheckpointError, match="stored vocabulary is damaged"):
        Tokenizer.from_json(text)


@pytest.mark.parametrize("value", [260, 0, "8000", None, True, 300.0])
def test_a_vocabulary_without_room_for_the_bytes(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"vocabulary must be a whole number of at least 261"):
        Tokenizer.train(TEXTS, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["\ud83d", None, 3])
def test_what_is_no_text(tokenizer: Tokenizer, wrong: object) -> None:
    with pytest.raises(DataError, match=r"text 1 is .* no valid Unicode text"):
        tokenizer.encode(["a dog", wrong])  # type: ignore[list-item]


def test_without_the_package_the_extra_is_named_and_words_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Tokenizer.train(TEXTS, 270).to_json()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for attempt in (
        lambda: Tokenizer.train(TEXTS),
        lambda: Tokenizer.from_json(stored),
        lambda: Tokenizer.from_folder("x"),
    ):
        with pytest.raises(MissingExtraError, match=re.escape(install_line("text"))):
            attempt()
    table = read_table({"words": [["a", "a"]]})
    assert SequenceEncoder.fit(table, "words").encode(table).inputs["tokens"].tolist() == [[2, 5, 5, 3]]


def test_captions_come_back(data_folder: Path) -> None:
    table = read_table(data_folder / "multi30k" / "val")
    texts = [text for name in ("en", "de") for text in table.column(name).to_pylist()]
    tokenizer = Tokenizer.train(texts[:500], vocabulary=1000)
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(texts)] == texts


# -- folders of Hugging Face ------------------------------------------------------------------------------------------
def save(folder: Path, names: dict[str, str]) -> None:
    """Write what `save_pretrained` writes: pieces of words of a small vocabulary, lower case."""
    import tokenizers as library

    special = sorted(set(names.values()))
    rules = library.Tokenizer(library.models.WordPiece({}, unk_token=names["unk_token"]))
    rules.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    rules.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    rules.decoder = library.decoders.WordPiece()
    rules.train_from_iterator(TEXTS, library.trainers.WordPieceTrainer(special_tokens=special, show_progress=False))
    transformers = pytest.importorskip("transformers")
    transformers.PreTrainedTokenizerFast(tokenizer_object=rules, **names).save_pretrained(folder)


BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
T5 = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
GPT2 = {"unk_token": "<|end|>", "bos_token": "<|end|>", "eos_token": "<|end|>"}


@pytest.mark.parametrize(
    ("names", "start", "end", "pad"),
    [(BERT, "[CLS]", "[SEP]", "[PAD]"), (T5, "<pad>", "</s>", "<pad>"), (GPT2, "<|end|>", "<|end|>", "<|end|>")],
    ids=["bert", "t5", "gpt2"],
)
def test_a_folder_keeps_its_own_tokens(names: dict[str, str], start: str, end: str, pad: str, tmp_path: Path) -> None:
    save(tmp_path, names)
    found = Tokenizer.from_folder(tmp_path)
    numbers = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert (found.start, found.end, found.pad) == (numbers[start], numbers[end], numbers[pad])
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["A dog runs", "zwei Hunde schlafen"]
    assert found.encode(texts) == theirs(texts, add_special_tokens=False)["input_ids"]
    assert found.size == len(theirs)
    assert Tokenizer.from_json(found.to_json()).fingerprint == found.fingerprint


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json' cannot be read.*saved with a fast tokenizer"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="describes no tokenizer"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(Tokenizer.train(TEXTS, 270).to_json())["rules"]))
    with pytest.raises(DataError, match=r"has no token for 'pad'.*names \[\]"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json' is no JSON"):
        Tokenizer.from_folder(tmp_path)
