"""How the columns of text in a table are read: as hashed words, or as tokens by the Transformer, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lepton.config import Config
from lepton.data import Column, InputEncoder, Rows, text_sizes, token_lengths
from lepton.errors import ConfigurationError, MissingExtraError, import_extra
from lepton.run._rows import in_memory

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TEXT_LEARNING_RATE", "TEXT_TRUNK", "cut_texts", "with_text_kinds"]

TEXT_TRUNK = {"width": 128, "depth": 2}
"""Options of the Transformer where none are given: those that were measured."""

TEXT_LEARNING_RATE = 1e-3
"""Peak learning rate beside it, as it was measured."""

STRING_WORDS, STRING_LETTERS, STRING_ROWS = 2.0, 16.0, 1000
"""Texts of fewer words than that and at least so many letters, on so many training rows, are read as tokens."""

LONG_WORDS, LONG_ROWS = 12.0, 12_000
"""So are texts of at least so many words, on so many training rows.

Both are what was measured with benchmarks/texts.py, whose table is in docs/benchmarks.md, and no more: strings without
words, such as molecules, share few hashed words, and the Transformer from scratch was better on 1000 of them; on
sentences it was worse with 4000 rows, and better with 12 000. It costs four to twelve times as much.
"""

_READ = {"tokens": "tokens by a Transformer", "text": "hashed words and pairs of words"}


def with_text_kinds(config: Config, columns: Sequence[Column], train: pa.Table, notes: list[str]) -> list[Column]:
    """Return the columns that are read, those of text as `text` or `tokens` with the reason, which is noted too.

    Columns that were told to be `tokens` are. If there are none, but the trunk has a part for texts, all are. If the
    trunk is open, those that earn it are.

    Args:
        config: the configuration.
        columns: the columns that are read.
        train: the training rows.
        notes: sentences, to be completed.

    Raises:
        ConfigurationError: the trunk has a part for texts, but there are none.
    """
    texts = [column for column in columns if column.kind in _READ]
    asked = getattr(config.trunk, "text", None) is not None
    if asked and not texts:
        raise ConfigurationError(
            f"trunk.text reads texts, but there are none among the inputs {[column.name for column in columns][:12]}: "
            "leave it out, or say which column holds texts, kinds: {COLUMN: tokens}."
        )
    decided = {}
    for column in texts:
        if column.kind == "tokens":
            kind, why = "tokens", "as told"
        elif any(other.kind == "tokens" for other in texts):
            kind, why = "text", "it is not among those that were told to be tokens"
        elif asked:
            kind, why = "tokens", "the trunk has a part for texts, trunk.text"
        else:
            kind, why = _earned(column.name, train, is_open=config.trunk.type == "auto")
        notes.append(f"column {column.name!r} is read as {_READ[kind]}: {why}.")
        reason = f"{column.why}; {_READ[kind]}" + ("" if why == column.why else f": {why}")
        decided[column.name] = dataclasses.replace(column, kind=kind, why=reason)  # type: ignore[arg-type]
    return [decided.get(column.name, column) for column in columns]


def _earned(name: str, train: pa.Table, *, is_open: bool) -> tuple[str, str]:
    """Return how a column of texts is read that nobody said anything about, and why."""
    column = train.column(name)
    words, letters = text_sizes(name, column)
    there = len(column) - column.null_count
    strings = words < STRING_WORDS and letters >= STRING_LETTERS
    seen = f"strings of {letters:.0f} letters without words" if strings else f"{words:.0f} word(s) in the median"
    ask = f"kinds: {{{name}: tokens}} asks for tokens"
    if not strings and words < LONG_WORDS:
        return "text", f"{seen}, where it takes {LONG_WORDS:.0f} to earn a Transformer; {ask}"
    needed = STRING_ROWS if strings else LONG_ROWS
    if there < needed:
        return "text", f"{seen}, but {there} training rows, where it takes {needed} to earn a Transformer; {ask}"
    seen = f"{seen} and {there} training rows"
    if not is_open:
        return "text", f"{seen}, which earn a Transformer, but the trunk was chosen; {ask}"
    try:
        import_extra("tokenizers", "text", "a Transformer, which they would earn,")
    except MissingExtraError as error:
        return "text", f"{seen}, but {str(error).rstrip('.')}"
    return "tokens", f"{seen}, where it was better than hashed words"


def cut_texts(encoder: InputEncoder, rows: Rows, part: str) -> Iterator[str]:
    """Yield a sentence for each column of tokens of which texts are as long as a text may be, or were longer."""
    if encoder.token_rules is None:
        return
    inputs: Any = in_memory(rows).inputs
    longest = encoder.token_rules.max_length
    full = (token_lengths(inputs)["tokens"] == longest).sum(0).tolist()
    for name, number in zip(encoder.tokens, full, strict=True):
        if number:
            yield (
                f"column {name!r}: {number} of {len(rows)} {part} texts fill data.max_length = {longest} tokens; what "
                "is longer is cut."
            )
