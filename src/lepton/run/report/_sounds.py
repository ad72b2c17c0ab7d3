"""What a report plays and shows of recordings: what was found in them, and the same texts spoken by the model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lepton.data import SPEECH_KINDS, AudioEncoder, AudioRows, LabelRule
from lepton.errors import LeptonError
from lepton.evaluate import to_device
from lepton.insight import SpeechExample, TextPredictions
from lepton.run._rows import make_loader
from lepton.run._speech import encode_recordings, predict_recordings
from lepton.tasks import ctc_alignment, mel_distortion

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.run._run import Run

__all__ = ["recordings_of", "speech_of", "speech_predictions"]

HEARD = 6
"""Recordings of each section that are played."""


def speech_predictions(run: Run, table: pa.Table) -> dict[str, TextPredictions]:
    """Return what the tasks between recordings and texts found: task -> texts, or how far its speech is off."""
    encoder = run.encoder
    if not isinstance(encoder, AudioEncoder):
        return {}
    rules = [r for r in run.rules if r.kind in SPEECH_KINDS and set(r.columns) <= set(table.column_names)]
    if not rules:
        return {}
    rows = encode_recordings(run.config, encoder, run.rules, table, [], "held-out")
    names = [Path(path).name for path in rows.paths]
    said = predict_recordings(run.model.eval(), rules, make_loader(rows, run.config))
    found = {}
    for rule in rules:
        truth = _texts(encoder, table, rule.columns[0])
        if rule.kind == "speech_recognition":
            found[rule.task] = TextPredictions(names, truth, said[rule.task])
        else:
            spoken = [text or "" for text in truth]
            found[rule.task] = TextPredictions(spoken, truth, _distortions(run, rule.task, rows))
    return found


def _texts(encoder: AudioEncoder, table: pa.Table, column: str) -> list[str | None]:
    values = table.column(column).to_pylist()
    return [None if value is None else encoder.normalise(str(value)) for value in values]


@torch.no_grad()
def _distortions(run: Run, task: str, rows: AudioRows) -> list[float]:
    """Return the mean mel-cepstral distortion of each recording, in dB."""
    found: list[float] = []
    for inputs, targets in make_loader(rows, run.config):
        output = run.model.outputs_of(to_device(inputs, run.model.device), [task])[task].cpu()
        target = targets[task]
        frames = min(output.shape[1], target.shape[1])
        target = target[:, :frames]
        there = torch.isfinite(target).all(-1)
        errors = mel_distortion(output[:, :frames, : target.shape[2]], target.nan_to_num()).where(there, 0.0)
        found += (errors.sum(1) / there.sum(1)).tolist()
    return found


# -- to listen to -------------------------------------------------------------------------------------------------
def recordings_of(run: Run, table: pa.Table) -> tuple[SpeechExample, ...]:
    """Return the first recordings of a table, with what was found in them."""
    if not isinstance(run.encoder, AudioEncoder):
        return ()
    table = table.slice(0, HEARD)
    rows = encode_recordings(run.config, run.encoder, run.rules, table, [], "held-out")
    found = predict_recordings(run.model.eval(), run.rules, make_loader(rows, run.config))
    readers = [rule for rule in run.rules if rule.kind == "speech_recognition"]
    return tuple(_example(run, run.encoder, table, rows, found, readers, place) for place in range(table.num_rows))


def _example(
    run: Run,
    encoder: AudioEncoder,
    table: pa.Table,
    rows: AudioRows,
    found: dict[str, Any],
    readers: Sequence[LabelRule],
    place: int,
) -> SpeechExample:
    waveform = rows.waveform(place)
    front: Any = run.model.trunk.front
    said, truth = "", ""
    characters: tuple[tuple[str, float, float], ...] = ()
    if readers:
        rule = readers[0]
        said = found[rule.task][place]
        truth = encoder.normalise(str(table.column(rule.columns[0])[place].as_py() or ""))
        characters = _aligned(run, encoder, rule.task, waveform, said)
    facts = {}
    for rule in run.rules:
        if rule.kind == "classification":
            true = table.column(rule.columns[0])[place].as_py()
            facts[rule.task] = f"{found[rule.task][place]}" + ("" if true is None else f", true {true}")
    return SpeechExample(
        Path(rows.paths[place]).name,
        waveform.numpy(),
        encoder.sample_rate,
        front(waveform[None])[0].cpu().numpy(),
        said,
        truth,
        characters,
        facts,
        hop=front.hop,
        frequencies=tuple(front.centres.tolist()),
    )


@torch.no_grad()
def _aligned(
    run: Run, encoder: AudioEncoder, task: str, waveform: Tensor, text: str
) -> tuple[tuple[str, float, float], ...]:
    """Return where each character of a text is spoken, as the recogniser says: character, from, to in seconds."""
    import pyarrow as pa

    if not text:
        return ()
    samples = torch.tensor([len(waveform)])
    inputs = to_device({"waveform": waveform[None], "samples": samples}, run.model.device)
    trunk: Any = run.model.trunk
    logits = run.model.outputs_of(inputs, [task])[task]
    ids = encoder.text_ids(pa.table({"text": [text]}), "text").long().to(logits.device)
    shares = ctc_alignment(logits, trunk.frames(inputs["samples"]), ids)[0]
    step = 2 * trunk.front.hop / trunk.front.sample_rate
    seconds = len(waveform) / encoder.sample_rate
    ends = [0.0, *(min(seconds, end * step) for end in itertools.accumulate(shares.tolist()))]
    return tuple(zip(text, ends[:-1], ends[1:], strict=True))


def speech_of(run: Run, table: pa.Table) -> tuple[tuple[SpeechExample, SpeechExample], ...]:
    """Return the first recordings of a table, each beside the same text spoken by the model in the same voice."""
    rule = next((rule for rule in run.rules if rule.kind == "speech_synthesis"), None)
    if rule is None or not isinstance(run.encoder, AudioEncoder):
        return ()
    column = run.config.tasks[rule.task].voice
    found = []
    for place, real in enumerate(recordings_of(run, table)):
        voice = None if column is None else str(table.column(column)[place].as_py())
        text = table.column(rule.columns[0])[place].as_py()
        if text is None:
            continue
        try:
            spoken = run.say(str(text), voice)
        except LeptonError:  # a voice or a character that training has not: there is nothing to set beside it
            continue
        found.append((real, spoken.example(f"{spoken.text}, spoken by the model")))
    return tuple(found)
