"""What the columns of rows are like, as profiles that are kept with a run and compared with those of new rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from lepton.data import (
    AudioEncoder,
    Encoder,
    InputEncoder,
    LabelRule,
    SequenceEncoder,
    as_numbers,
    as_words,
    decode_image,
    is_list,
)
from lepton.insight import Profile, WordFilter, profile_of_numbers, profile_of_words

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RowProfiles", "profile_rows"]

Values = npt.NDArray[np.float64] | list[str | None]

TEXTS = 20_000
"""Texts that are looked at word by word, and beside them..."""

PICTURES = 300
"""... pictures that are decoded."""

CHANNELS = ("red", "green", "blue")


@dataclass
class RowProfiles:
    """What some rows are like.

    Attributes:
        inputs: what is measured of an input -> its profile: the column itself, or for a text the words that others
            do not hold and their number, for a picture mean and standard deviation of its channels.
        targets: task -> profile of its labels.
        words: column of texts -> the words that they hold.
    """

    inputs: dict[str, Profile] = field(default_factory=dict)
    targets: dict[str, Profile] = field(default_factory=dict)
    words: dict[str, WordFilter] = field(default_factory=dict)

    def like(self, encoder: Encoder, rules: Sequence[LabelRule], table: pa.Table) -> RowProfiles:
        """Return the profiles of other rows in the same bins, of all that is measured there, too.

        Args:
            encoder: rules of the inputs.
            rules: of the tasks whose columns the rows have.
            table: the rows.
        """
        inputs = dict(_inputs(encoder, table, self.words))
        targets = dict(_targets(rules, table))
        return RowProfiles(
            {name: self.inputs[name].count(column) for name, column in inputs.items() if name in self.inputs},
            {name: self.targets[name].count(column) for name, column in targets.items() if name in self.targets},
            self.words,
        )

    def merged(self, other: RowProfiles) -> RowProfiles:
        """Return the profiles of these rows and others, which were counted in the same bins, together."""
        pairs = ((self.inputs, other.inputs), (self.targets, other.targets))
        inputs, targets = (
            {name: profile.merged(new[name]) if name in new else profile for name, profile in old.items()}
            for old, new in pairs
        )
        return RowProfiles(inputs, targets, self.words)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "inputs": {name: profile.to_dict() for name, profile in self.inputs.items()},
            "targets": {name: profile.to_dict() for name, profile in self.targets.items()},
            "words": {name: found.to_hex() for name, found in self.words.items()},
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Return what `to_dict` described."""
        inputs, targets = (
            {name: Profile.from_dict(profile) for name, profile in found[key].items()} for key in ("inputs", "targets")
        )
        return cls(inputs, targets, {name: WordFilter.from_hex(bits) for name, bits in found["words"].items()})


def profile_rows(encoder: Encoder, rules: Sequence[LabelRule], table: pa.Table) -> RowProfiles:
    """Return the profiles of the rows that a run trains on.

    Args:
        encoder: rules of the inputs.
        rules: of the labels; tasks whose columns are not there are passed over, and so are masks and texts.
        table: the training rows.
    """
    words: dict[str, WordFilter] = {}
    inputs = {name: _profile(column) for name, column in _inputs(encoder, table, words, fit=True)}
    targets = {name: _profile(column, rules, name) for name, column in _targets(rules, table)}
    return RowProfiles(inputs, targets, words)


def _profile(column: Values, rules: Sequence[LabelRule] = (), task: str = "") -> Profile:
    if isinstance(column, np.ndarray):
        return profile_of_numbers(column)
    classes = next((rule.classes for rule in rules if rule.task == task), None)
    return profile_of_words(column, classes)


def _inputs(
    encoder: Encoder, table: pa.Table, words: dict[str, WordFilter], *, fit: bool = False
) -> Iterator[tuple[str, Values]]:
    """Yield what is measured of the inputs; with `fit`, `words` is filled."""
    if isinstance(encoder, AudioEncoder):
        yield f"{encoder.source}: seconds", encoder.samples(table).double().numpy() / encoder.sample_rate
    elif isinstance(encoder, SequenceEncoder):
        yield from _text(encoder.source, _texts(table.column(encoder.source)), words, fit)
    else:
        assert isinstance(encoder, InputEncoder)
        for about in encoder.columns:
            yield from _input(about, table.column(about.name), words, fit)


def _input(
    about: Any, column: pa.ChunkedArray, words: dict[str, WordFilter], fit: bool
) -> Iterator[tuple[str, Values]]:
    if about.kind == "number":
        yield about.name, as_numbers(column)
    elif about.kind == "date":
        yield about.name, about.encode(column)[:, 0]
    elif about.kind == "image":
        yield from _picture(about.name, as_words(column).to_pylist())
    elif about.kind in ("text", "tokens"):
        yield from _text(about.name, as_words(column).to_pylist(), words, fit)
    else:
        yield about.name, as_words(column).to_pylist()


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Return texts, of lists of words their words with spaces between."""
    if is_list(column):
        return [None if value is None else " ".join(word or "" for word in value) for value in column.to_pylist()]
    return as_words(column).to_pylist()  # type: ignore[no-any-return]


def _text(name: str, texts: list[str | None], words: dict[str, WordFilter], fit: bool) -> Iterator[tuple[str, Values]]:
    texts = _spread(texts, TEXTS)
    if fit:
        halves = texts[::2], texts[1::2]
        filters = WordFilter(), WordFilter()
        for held, half in zip(filters, halves, strict=True):
            held.add(half)
        # What a half holds of the other's words: a text knows all of its own.
        yield f"{name}: unknown words", np.concatenate([filters[1 - i].unknown_shares(halves[i]) for i in (0, 1)])
        words[name] = WordFilter()
        words[name].add(texts)
    else:
        yield f"{name}: unknown words", words[name].unknown_shares(texts)
    yield (
        f"{name}: words",
        np.array([np.nan if text is None else len(text.split()) for text in texts], dtype=np.float64),
    )


def _picture(name: str, paths: list[str | None]) -> Iterator[tuple[str, Values]]:
    pictures = [decode_image(path).double() / 255 for path in _spread(paths, PICTURES) if path is not None]
    for place, channel in enumerate(CHANNELS):
        values = [(float(picture[place].mean()), float(picture[place].std())) for picture in pictures]
        means, stds = np.array(values, dtype=np.float64).reshape(-1, 2).T
        yield f"{name}: {channel} mean", means
        yield f"{name}: {channel} spread", stds


def _spread(values: list[str | None], limit: int) -> list[str | None]:
    """Return at most so many values, spread over all."""
    return values if len(values) <= limit else [values[int(i)] for i in np.linspace(0, len(values) - 1, limit)]


def _targets(rules: Sequence[LabelRule], table: pa.Table) -> Iterator[tuple[str, Values]]:
    for rule in rules:
        if not rule.columns or not set(rule.columns) <= set(table.column_names):
            continue
        columns = [table.column(name) for name in rule.columns]
        if rule.kind == "regression" and len(columns) == 1:
            yield rule.task, as_numbers(columns[0])
        elif rule.kind == "classification":
            yield rule.task, as_words(columns[0]).to_pylist()
        elif rule.kind in ("multi_label", "token_classification") and is_list(columns[0]) and not rule.from_masks:
            lists = columns[0].to_pylist()
            yield rule.task, [str(word) for value in lists for word in value or () if word is not None]
        elif rule.kind == "multi_label" and not rule.from_masks:
            known = [(name, as_numbers(column)) for name, column in zip(rule.columns, columns, strict=True)]
            yield rule.task, [name for name, numbers in known for _ in range(int((numbers > 0.5).sum()))]
