"""Texts of a table as tokens: there and back, what is cut, empty or unseen, and rules of earlier runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from lepton.data import InputEncoder, LengthLoader, SequenceData, describe_columns, read_table
from lepton.errors import CheckpointError, ConfigurationError, DataError

pa = pytest.importorskip("pyarrow")
pytest.importorskip("tokenizers")

KINDS: Any = {"title": "tokens", "body": "tokens", "note": "text"}


def table(n: int = 60) -> Any:
    return read_table(
        {
            "title": [f"the red dog {i % 7}" for i in range(n)],
            "body": [f"a dog runs after {i % 5} cats and sleeps then" for i in range(n)],
            "note": [f"short note {i}" for i in range(n)],
            "size": [float(i) for i in range(n)],
        }
    )


def fitted(**options: Any) -> InputEncoder:
    return InputEncoder.fit(table(), describe_columns(table(), KINDS), **{"vocabulary": 300, **options})


def rows(*texts: str | None) -> Any:
    """Return rows with these titles."""
    n = len(texts)
    return pa.table({"title": pa.array(texts, pa.string()), "body": ["dog"] * n, "note": ["a"] * n, "size": [0.5] * n})


def text_of(encoder: InputEncoder, ids: torch.Tensor) -> str:
    assert encoder.token_rules is not None
    return encoder.token_rules.tokenizer.decode(ids)


def test_texts_are_framed_and_come_back_from_their_tokens() -> None:
    encoder = fitted()
    texts = ["the red dog 3", "  two  spaces ", "never seen: żółć 🐕", "<end> is a word"]
    tokens = encoder.encode(rows(*texts))["tokens"]
    assert encoder.tokens == ["title", "body"] and tokens.shape[:2] == (4, 2)
    assert [text_of(encoder, row) for row in tokens[:, 0]] == texts
    for row in tokens.flatten(0, 1):
        inside = row[row != 0]
        assert inside[0] == 2 and inside[-1] == 3 and not row[len(inside) :].any()
    assert int(tokens.min()) >= 0 and int(tokens.max()) < encoder.vocabulary


def test_one_vocabulary_serves_all_columns() -> None:
    tokens = fitted().encode(rows("dog"))["tokens"]
    assert torch.equal(tokens[0, 0], tokens[0, 1])


@pytest.mark.parametrize("text", ["", None, "   ", "\n\t"])
def test_what_holds_no_text_is_all_padding(text: str | None) -> None:
    tokens = fitted().encode(rows("the red dog", text))["tokens"]
    assert tokens[0, 0].any() and not tokens[1, 0].any()


def test_a_long_text_loses_its_end_but_not_its_mark() -> None:
    encoder = fitted(max_length=6)
    tokens = encoder.encode(rows("the red dog " * 50, "dog"))["tokens"]
    assert tokens.shape[2] == 6 and int(tokens[0, 0, -1]) == 3
    assert ("the red dog " * 50).startswith(text_of(encoder, tokens[0, 0]))


def test_the_tensor_is_as_wide_as_the_longest_text() -> None:
    encoder = fitted()
    short, long = (encoder.encode(rows(text))["tokens"] for text in ("dog", "the red dog " * 4))
    assert short.shape[2] < long.shape[2] < 256
    assert encoder.encode(rows())["tokens"].shape[0] == 0


def test_hashed_texts_and_numbers_stand_beside_them() -> None:
    encoder = fitted()
    inputs = encoder.encode(table())
    assert set(inputs) == {"numbers", "missing", "text", "tokens"}
    assert encoder.texts == 1 and inputs["text"].shape[1] == 1


def test_the_rules_survive_json() -> None:
    encoder = fitted(max_length=9)
    again = InputEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    strange = rows("the red dog żółć 🐕 and more of it", None)
    assert torch.equal(again.encode(strange)["tokens"], encoder.encode(strange)["tokens"])
    assert again.names == encoder.names and again.vocabulary == encoder.vocabulary
    assert again.to_dict() == encoder.to_dict()


def test_rules_of_a_run_without_tokens_are_as_they_were() -> None:
    stored = [{"kind": "text", "name": "note"}, {"kind": "category", "name": "title", "values": ["a"]}]
    encoder = InputEncoder.from_dict(stored)
    assert encoder.to_dict() == stored
    assert encoder.tokens == [] and encoder.vocabulary == 0
    assert set(encoder.encode(rows("a"))) == {"categories", "text"}


def test_damaged_rules_are_refused() -> None:
    described = fitted().to_dict()
    described[-1]["rules"]["rules"] = {"model": "none"}
    with pytest.raises(CheckpointError, match="vocabulary is damaged"):
        InputEncoder.from_dict(described)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_length"):
        fitted(max_length=2)
    with pytest.raises(DataError, match="no column 'body'"):
        fitted().encode(rows("a").drop_columns(["body"]))
    lists = read_table({"words": [["a", "b"], ["c"]]})
    with pytest.raises(DataError, match="lists of words"):
        InputEncoder.fit(lists, describe_columns(lists, {"words": "tokens"}))


# -- batches ------------------------------------------------------------------------------------------------------
def sequences(lengths: torch.Tensor, width: int = 12) -> SequenceData:
    tokens = (torch.arange(width) < lengths[..., None]).to(torch.int16)
    return SequenceData({"tokens": tokens, "row": torch.arange(len(lengths))}, {}, {"tokens": lengths})


def test_batches_are_as_wide_as_the_longest_text_of_any_column() -> None:
    data = sequences(torch.tensor([[3, 5], [0, 2], [0, 0]]))
    for index, width in (([0, 1], 5), ([1, 2], 2), ([2], 1)):
        inputs, _ = data.batch(torch.tensor(index))
        assert inputs["tokens"].shape == (len(index), 2, width) and inputs["tokens"].dtype == torch.int64


def test_rows_of_like_length_share_a_batch() -> None:
    lengths = torch.randint(0, 13, (400, 2), generator=torch.Generator().manual_seed(0))
    loader = LengthLoader(sequences(lengths), 10, shuffle=True)
    read = [inputs for inputs, _ in loader]
    assert sorted(int(row) for inputs in read for row in inputs["row"]) == list(range(400))
    longest = lengths.amax(1)
    ragged = sum(int(inputs["tokens"].shape[2] - longest[inputs["row"]].min()) for inputs in read)
    assert ragged <= 0.3 * len(read) * 12


def test_rows_whose_order_does_not_matter_come_by_length() -> None:
    lengths = torch.randint(0, 13, (50, 2), generator=torch.Generator().manual_seed(0))
    data = sequences(lengths)
    read = [inputs for inputs, _ in LengthLoader(data, 10, by_length=True)]
    assert sorted(torch.cat([inputs["row"] for inputs in read]).tolist()) == list(range(50))
    longest = lengths.amax(1)
    assert [inputs["tokens"].shape[2] for inputs in read] == longest.sort().values[9::10].tolist()
    kept = torch.cat([inputs["row"] for inputs, _ in LengthLoader(data, 10)])
    assert kept.tolist() == list(range(50))


def test_lengths_of_the_wrong_shape_are_refused() -> None:
    tokens = torch.ones(4, 2, 3)
    for lengths, words in ((torch.ones(4, 3), r"\[4, 3\]"), (torch.full((4, 2), 4), "between 0 and 3")):
        with pytest.raises(DataError, match=words):
            SequenceData({"tokens": tokens}, {}, {"tokens": lengths})
