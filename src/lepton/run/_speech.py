"""Runs that read recordings: which column, which labels, what is predicted for each, and how a text is spoken."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lepton.audio import LogMel
from lepton.config import Config, trunks
from lepton.data import (
    SEQUENCE_KINDS,
    SPEECH_KINDS,
    UNSEEN,
    AudioEncoder,
    AudioRows,
    Column,
    Encoder,
    LabelRule,
    decoded,
)
from lepton.errors import ConfigurationError, DataError, nearest
from lepton.evaluate import to_device
from lepton.nn import LeptonModel, SpeechHead
from lepton.run._rows import what_is_unknown
from lepton.tasks import SpeechSynthesis

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.data import Loader

__all__ = [
    "audio_rules",
    "encode_recordings",
    "example_recordings",
    "fit_recordings",
    "fit_spectra",
    "mean_voices",
    "predict_recordings",
    "reads_recordings",
    "recording_rows",
    "speech_heads",
    "with_characters",
]

AUDIO_CACHE_BYTES = 2 << 30
"""Memory for decoded recordings: those that fit are decoded once."""

SPECTRA = 256
"""Training recordings whose spectra give the mean and the spread of each band."""

EXAMPLE_SECONDS, EXAMPLE_TEXT = 1.0, 8
"""The recording whose operations are counted, and the characters of its text."""

UNHEARD = ("segmentation", *SEQUENCE_KINDS)
"""Kinds of tasks that learn nothing from recordings."""

BEYOND = -100
"""The label beyond a text's end."""

VOICE_OF_ALL = "all"
"""The voice of a synthesiser whose recordings nobody told apart."""


# -- before training ----------------------------------------------------------------------------------------------
def reads_recordings(trunk: str) -> bool:
    """Return whether a trunk, by its name in YAML, reads recordings."""
    kind = trunks().get(trunk)
    return kind is not None and "sample_rate" in inspect.signature(kind).parameters


def audio_rules(
    config: Config, columns: Sequence[Column], rules: Sequence[LabelRule], notes: list[str]
) -> tuple[Column, list[LabelRule]] | None:
    """Return the column of recordings that is read, and the rules in the order that the model needs.

    Returns:
        None for a configuration that reads no recording.

    Raises:
        ConfigurationError: it is not clear which column is read, or a task or trunk does not go with it.
    """
    taken = {name for rule in rules for name in rule.columns}
    told = config.data.inputs
    kinds = {column.name: column.kind for column in columns} | {n: s.kind for n, s in (told or {}).items()}
    left_out = {*taken, *config.data.ignore, config.data.split.column}
    open_to = [c for c in columns if c.name not in left_out and (told is None or c.name in told)]
    recordings = [column for column in open_to if kinds[column.name] == "audio"]
    special = [rule for rule in rules if rule.kind in SPEECH_KINDS]
    if not recordings and not special and not reads_recordings(config.trunk.type):
        return None
    _check_recordings(config, recordings, special)
    for rule in rules:
        _check_task(config, rule, columns)
    source = dataclasses.replace(recordings[0], kind="audio")
    _check_alone(source, open_to, told is not None, notes)
    # A synthesiser reads the alignment of a recogniser, which must stand before it.
    return source, sorted(rules, key=lambda rule: rule.kind == "speech_synthesis")


def _check_recordings(config: Config, recordings: Sequence[Column], special: Sequence[LabelRule]) -> None:
    if config.trunk.type not in ("auto", "custom") and not reads_recordings(config.trunk.type):
        what = f"task {special[0].task!r} needs" if special else f"the input {recordings[0].name!r} holds"
        raise ConfigurationError(
            f"{what} recordings, which the trunk {config.trunk.type!r} does not read: choose trunk: auto or acoustic."
        )
    if len(recordings) != 1:
        names = [column.name for column in recordings]
        way = "name one, data: {inputs: {COLUMN: audio}}" if names else "a column of paths that end in .wav or .flac"
        raise ConfigurationError(f"a run reads one column of recordings, but there are {names}: {way}.")
    if sum(rule.kind == "speech_synthesis" for rule in special) > 1:
        raise ConfigurationError(
            f"a run has one speech_synthesis, not {[rule.task for rule in special if rule.kind == 'speech_synthesis']}."
        )


def _check_task(config: Config, rule: LabelRule, columns: Sequence[Column]) -> None:
    """Refuse a task that learns nothing from recordings, and a voice that nobody told."""
    if rule.kind in UNHEARD:
        raise ConfigurationError(
            f"task {rule.task!r}: a {rule.kind} does not go with recordings: choose another kind, or leave the column "
            "of recordings out, data: {ignore: [COLUMN]}."
        )
    if rule.kind == "speech_synthesis" and config.trunk.type == "custom":
        raise ConfigurationError(
            f"task {rule.task!r}: a speech_synthesis needs the log-mel of trunk: acoustic, not a trunk of one's own."
        )
    voice = config.tasks[rule.task].voice if rule.kind == "speech_synthesis" else None
    if voice is None:
        return
    known = {column.name: column for column in columns}
    if voice not in known:
        raise ConfigurationError(
            f"task {rule.task!r}: voice names the column {voice!r}, which is not there.{nearest(voice, known)}"
        )
    if known[voice].missing == 1:
        raise DataError(f"task {rule.task!r}: the column {voice!r} tells of no row whose voice it is.")


def _check_alone(source: Column, open_to: Sequence[Column], told: bool, notes: list[str]) -> None:
    """Refuse further inputs that were asked for, and note those that were not."""
    others = [column.name for column in open_to if column.name != source.name and column.kind != "ignore"]
    if others and told:
        raise ConfigurationError(
            f"recordings are read alone: data.inputs names {source.name!r}, so leave out {others[:8]}."
        )
    notes += [f"column {name!r} is not used: recordings are read alone." for name in others]


def fit_recordings(
    config: Config, train: pa.Table, source: str, rules: Sequence[LabelRule]
) -> tuple[AudioEncoder, list[LabelRule]]:
    """Return the encoder of the recordings, fitted on the training rows, and the rules with their characters."""
    texts = list(dict.fromkeys(name for rule in rules if rule.kind in SPEECH_KINDS for name in rule.columns))
    encoder = AudioEncoder.fit(
        train,
        source,
        texts=texts,
        sample_rate=config.data.sample_rate,
        max_seconds=config.data.max_seconds,
        trim=config.data.trim,
    )
    return encoder, with_characters(encoder, rules)


def with_characters(encoder: Encoder, rules: Sequence[LabelRule]) -> list[LabelRule]:
    """Return the rules, those of texts of recordings with the characters that an encoder knows."""
    if not isinstance(encoder, AudioEncoder):
        return list(rules)
    known = tuple(encoder.characters)
    return [dataclasses.replace(rule, classes=known) if rule.kind in SPEECH_KINDS else rule for rule in rules]


def recording_rows(
    config: Config,
    encoder: AudioEncoder,
    rules: Sequence[LabelRule],
    table: pa.Table,
    *,
    strict: bool = False,
    cache_bytes: int = AUDIO_CACHE_BYTES,
) -> tuple[AudioRows, dict[str, int]]:
    """Return the recordings and labels of a table, and for each task how many labels training has not.

    Args:
        config: resolved: says how finely spectra are made.
        encoder: fitted rules of the recordings.
        rules: rules of the labels.
        table: the rows.
        strict: refuse values that are no class.
        cache_bytes: memory for decoded recordings.
    """
    inputs: dict[str, Tensor] = {}
    targets: dict[str, Tensor] = {}
    spectra: dict[str, LogMel] = {}
    silent: dict[str, Tensor] = {}
    unknown: dict[str, int] = {}
    for rule in rules:
        if rule.kind == "speech_recognition":
            targets[rule.task], unknown[rule.task] = encoder.text_labels(table, rule.columns[0])
        elif rule.kind == "speech_synthesis":
            inputs["text"], unknown[rule.task] = _texts_to_speak(encoder, rule, table)
            silent[rule.task] = (inputs["text"] == 0).all(1)
            spectra[rule.task] = LogMel(encoder.sample_rate, mels=config.trunk.mels)
        else:
            targets[rule.task], unknown[rule.task] = rule.encode(table, strict=strict)
    rows = AudioRows(
        encoder.paths(table),
        sample_rate=encoder.sample_rate,
        max_seconds=encoder.max_seconds,
        trim=encoder.trim,
        inputs=inputs,
        targets=targets,
        front_ends=spectra,
        absent=silent,
        lengths=encoder.samples(table),
        cache_bytes=cache_bytes,
    )
    return rows, unknown


def encode_recordings(
    config: Config, encoder: AudioEncoder, rules: Sequence[LabelRule], table: pa.Table, notes: list[str], part: str
) -> AudioRows:
    """Return the recordings and labels of a table; what was cut or not seen in training is noted."""
    rows, unknown = recording_rows(config, encoder, rules, table, strict=part == "train")
    for rule in rules:
        if number := unknown.get(rule.task, 0):
            notes.append(f"{rule.task!r}: {number} of {table.num_rows} {part} rows hold {what_is_unknown(rule)}.")
    for rule in rules:
        if rule.kind == "speech_recognition" and (short := _too_short(encoder, rows.targets[rule.task], rows.lengths)):
            notes.append(
                f"{rule.task!r}: {short} of {table.num_rows} {part} rows have a text with more characters than the "
                "recording has room for: nothing is learned from them."
            )
    if long := encoder.truncated(table).get(encoder.source, 0):
        notes.append(
            f"column {encoder.source!r}: {long} of {table.num_rows} {part} recordings are cut at data.max_seconds = "
            f"{encoder.max_seconds:g}."
        )
    return rows


def _too_short(encoder: AudioEncoder, labels: Tensor, samples: Tensor) -> int:
    """Return how many texts CTC cannot place: one frame of the trunk's for each character, and between equal ones."""
    there = labels != BEYOND
    twice = (labels[:, 1:] == labels[:, :-1]) & there[:, 1:]
    needed = there.sum(1) + twice.sum(1)
    frames = (torch.as_tensor(LogMel(encoder.sample_rate).frames(samples)) + 1) // 2
    return int((needed > frames).sum())


def _texts_to_speak(encoder: AudioEncoder, rule: LabelRule, table: pa.Table) -> tuple[Tensor, int]:
    """Return the characters [N, U] of texts, none of one that cannot be spoken, and how many have unknown ones."""
    labels, unknown = encoder.text_labels(table, rule.columns[0])
    return labels.masked_fill((labels == UNSEEN).any(1, keepdim=True), 0).clamp(min=0), unknown


# -- the model ----------------------------------------------------------------------------------------------------
def speech_heads(rules: Sequence[LabelRule], trunk: Any) -> dict[str, SpeechHead]:
    """Return the heads of the synthesisers among the tasks of a model: task -> head.

    Args:
        rules: the model's tasks, in their order.
        trunk: an acoustic trunk.
    """
    speakers = [rule for rule in rules if rule.kind == "speech_synthesis"]
    if not speakers:
        return {}
    recognisers = [rule.task for rule in rules if rule.kind == "speech_recognition"]
    transcript = recognisers[0] if recognisers else None
    front = trunk.front
    return {
        rule.task: SpeechHead(trunk.out_features, len(rule.classes), front.mels, front.hop, transcript=transcript)
        for rule in speakers
    }


def fit_spectra(model: LeptonModel, rows: AudioRows) -> None:
    """Give the synthesisers of a model the mean and the spread of each band, from the first training recordings."""
    for name in model.task_names:
        task = model.task(name)
        if isinstance(task, SpeechSynthesis):
            step = max(1, len(rows) // SPECTRA)
            frames = torch.cat([rows[row][1][name] for row in range(0, len(rows), step)])
            task.fit_statistics(frames[None])


@torch.no_grad()
def mean_voices(model: LeptonModel, task: str, names: Sequence[str | None], loader: Loader) -> dict[str, Tensor]:
    """Return for each voice the mean [D] of what the synthesiser reads of its recordings.

    Args:
        model: the model, in eval mode.
        task: the synthesiser.
        names: whose recording each row of the loader is, in its order.
        loader: gives the training rows in order.
    """
    parts = []
    for inputs, _ in loader:
        features = model.features(to_device(inputs, model.device))
        parts.append((features[task] if isinstance(features, Mapping) else features).cpu())
    states = torch.cat(parts)
    found = {}
    for name in sorted({name for name in names if name is not None}):
        found[name] = states[torch.tensor([other == name for other in names])].mean(0)
    return found


def example_recordings(encoder: AudioEncoder, rows: int) -> dict[str, Tensor]:
    """Return inputs of rows of a second of noise, for what depends on shapes only."""
    samples = round(EXAMPLE_SECONDS * encoder.sample_rate)
    found = {"waveform": torch.full((rows, samples), 0.01), "samples": torch.full((rows,), samples)}
    if encoder.texts:
        found["text"] = torch.ones(rows, EXAMPLE_TEXT, dtype=torch.int64)
    return found


# -- predictions --------------------------------------------------------------------------------------------------
@torch.no_grad()
def predict_recordings(model: LeptonModel, rules: Sequence[LabelRule], loader: Loader) -> dict[str, Any]:
    """Return the predictions of all tasks that predict something of a recording, column by column.

    Args:
        model: the model, in eval mode.
        rules: the tasks to predict.
        loader: gives the rows in order, without labels.
    """
    wanted = [rule for rule in rules if rule.kind != "speech_synthesis"]
    said: dict[str, list[dict[str, Tensor]]] = {rule.task: [] for rule in wanted}
    for inputs, _ in loader:
        outputs = model.outputs_of(to_device(inputs, model.device), [rule.task for rule in wanted])
        for rule in wanted:
            found = model.task(rule.task).predict(outputs[rule.task])
            said[rule.task].append({key: value.cpu() for key, value in found.items()})
    return decoded(wanted, said)
