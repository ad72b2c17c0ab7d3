"""Rows of a table, by the rules of a run: with notes of what is odd, or as a stream asks for some at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

from lepton.config import Config
from lepton.data import (
    AudioEncoder,
    Encode,
    Encoder,
    InputEncoder,
    LabelRule,
    Rows,
    RowsEncode,
    SequenceEncoder,
    TableEncode,
)
from lepton.run._rows import labels_of, picture_augment, rows_of, sound_augment, what_is_unknown
from lepton.run._sequences import encode_sequences, sequence_rows
from lepton.run._speech import encode_recordings, recording_rows
from lepton.run._text_inputs import cut_texts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["encode_rows", "pads_of", "stream_encode"]

PICTURES, RECORDINGS, TEXTS = 64, 256, 4096
"""Streamed rows that are made at a time: some megabytes of them, and enough to put those of like length together."""


def pads_of(encoder: Encoder) -> dict[str, float]:
    """Return what fills the places beyond the end of texts that are read as sequences: input -> number."""
    return dict.fromkeys(("tokens", "target"), encoder.pad) if isinstance(encoder, SequenceEncoder) else {}


def encode_rows(
    config: Config,
    encoder: Encoder,
    rules: Sequence[LabelRule],
    table: pa.Table,
    notes: list[str],
    part: str,
) -> Rows:
    """Return the inputs and labels of a table; what was not seen in training is noted."""
    if isinstance(encoder, SequenceEncoder):
        return encode_sequences(encoder, rules, table, notes, part)
    if isinstance(encoder, AudioEncoder):
        return encode_recordings(config, encoder, rules, table, notes, part)
    targets = {}
    for rule in rules:
        if rule.kind == "segmentation":
            continue
        targets[rule.task], unknown = labels_of(rule, table, strict=part == "train")
        if unknown:
            notes.append(f"{rule.task!r}: {unknown} of {table.num_rows} {part} rows hold {what_is_unknown(rule)}.")
    for name, number in encoder.unseen(table).items():
        if number > 0.05 * table.num_rows:
            notes.append(
                f"column {name!r}: {number} of {table.num_rows} {part} rows hold a value that training has not."
            )
    found = rows_of(config, encoder, rules, table, targets)
    notes += cut_texts(encoder, found, part)
    return found


def stream_encode(config: Config, encoder: Encoder, rules: Sequence[LabelRule]) -> Encode:
    """Return how rows of a stream become inputs and labels.

    Args:
        config: resolved.
        encoder: fitted rules of the inputs.
        rules: rules of the labels.
    """
    masks = any(rule.kind == "segmentation" or rule.from_masks for rule in rules)
    if isinstance(encoder, InputEncoder) and not encoder.images and not encoder.tokens and not masks:
        return TableEncode(encoder, rules)
    return RunEncode(config, encoder, rules)


@final
class RunEncode(RowsEncode):
    """Texts, recordings and pictures of a stream, by the rules of a run.

    Args:
        config: resolved.
        encoder: fitted rules of the inputs.
        rules: rules of the labels.
    """

    def __init__(self, config: Config, encoder: Encoder, rules: Sequence[LabelRule]) -> None:
        self.config = config
        self.encoder = encoder
        self.rules = list(rules)
        labels = [name for rule in rules for name in rule.columns]
        columns = list(dict.fromkeys([*encoder.names, *labels]))
        super().__init__(columns, encoder.names, **self._options())

    def _options(self) -> dict[str, Any]:
        if isinstance(self.encoder, SequenceEncoder):
            return {"at_once": TEXTS, "pads": pads_of(self.encoder)}
        if isinstance(self.encoder, AudioEncoder):
            return {"at_once": RECORDINGS, "augment": sound_augment(self.config)}
        if not self.encoder.images:
            return {"at_once": TEXTS if self.encoder.tokens else PICTURES}
        missing = next((rule.missing for rule in self.rules if rule.kind == "segmentation"), 255)
        return {"at_once": PICTURES, "augment": picture_augment(self.config, missing)}

    def rows(self, table: pa.Table) -> Any:
        """Return the rows of a table."""
        if isinstance(self.encoder, SequenceEncoder):
            return sequence_rows(self.encoder, self.rules, table)[0]
        if isinstance(self.encoder, AudioEncoder):
            return recording_rows(self.config, self.encoder, self.rules, table, cache_bytes=0)[0]
        labelled = [rule for rule in self.rules if rule.kind != "segmentation"]
        targets = {rule.task: labels_of(rule, table, strict=False)[0] for rule in labelled}
        return rows_of(self.config, self.encoder, self.rules, table, targets, cache_bytes=0)
