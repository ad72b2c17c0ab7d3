"""How the columns of text in a table are read: as hashed words, or as tokens by the Transformer, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lepton.config import Config
from lepton.data import Column, InputEncoder
from lepton.errors import ConfigurationError
from lepton.run._rows import Rows, token_lengths

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TEXT_TRUNK", "cut_texts", "with_text_kinds"]

TEXT_TRUNK = {"width": 128, "depth": 2}
"""Options of the Transformer where none are given: larger ones from scratch gained nothing on some thousand rows."""

AS_TOKENS = "read as tokens by a Transformer"
AS_WORDS = "read as hashed words and pairs of words"


def with_text_kinds(config: Config, columns: Sequence[Column], train: pa.Table, notes: list[str]) -> list[Column]:
    """Return the columns that are read, those of text of the kind `text` or `tokens`, with the reason; it is noted.

    Columns of the kind `tokens` were told to be. Otherwise, if the trunk has a part that reads tokens, all texts are.

    Args:
        config: the configuration.
        columns: the columns that are read.
        train: the training rows.
        notes: sentences, to be completed.

    Raises:
        ConfigurationError: the trunk has a part for tokens, but there is no text.
    """
    texts = [column for column in columns if column.kind in ("text", "tokens")]
    asked = _told_text_trunk(config) is not None
    if asked and not texts:
        raise ConfigurationError(
            f"trunk.text reads texts, but there are none among the inputs {[column.name for column in columns][:12]}: "
            "leave it out, or say which column holds texts, kinds: {COLUMN: tokens}."
        )
    told = any(column.kind == "tokens" for column in texts)
    found = []
    for column in columns:
        if column in texts:
            kind, why = _decided(column, asked=asked, told=told)
            notes.append(f"column {column.name!r} is {AS_TOKENS if kind == 'tokens' else AS_WORDS}: {why}.")
            column = dataclasses.replace(column, kind=kind, why=f"{column.why}; {why}")
        found.append(column)
    return found


def _decided(column: Column, *, asked: bool, told: bool) -> tuple[Any, str]:
    if column.kind == "tokens":
        return "tokens", "as told"
    if told:
        return "text", "other columns were told to be tokens"
    if asked:
        return "tokens", "the trunk has a part for them, trunk.text"
    return "text", "nobody asked for tokens"


def _told_text_trunk(config: Config) -> Any:
    """Return the section of a trunk's Transformer over tokens; None where the trunk has none or does not say so."""
    return getattr(config.trunk, "text", None)


def cut_texts(encoder: InputEncoder, rows: Rows, part: str) -> Iterator[str]:
    """Yield a sentence for each column of tokens of which texts are as long as a text may be, or were longer."""
    if encoder.token_rules is None:
        return
    assert isinstance(rows.inputs, Mapping)
    longest = encoder.token_rules.max_length
    full = (token_lengths(rows.inputs)["tokens"] == longest).sum(0).tolist()
    for name, number in zip(encoder.tokens, full, strict=True):
        if number:
            yield (
                f"column {name!r}: {number} of {len(rows)} {part} texts fill data.max_length = {longest} tokens; what "
                "is longer is cut."
            )
