"""What a report and a model card of a run are made from, gathered from its folder, its model and, if they are there,
its rows."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lepton.config import config_yaml
from lepton.data import SEQUENCE_KINDS, SPEECH_KINDS, AudioEncoder, InputEncoder, SequenceEncoder, decode_image
from lepton.errors import ConfigurationError, DataError
from lepton.evaluate import to_device
from lepton.insight import (
    Fidelity,
    Interval,
    MetricInfo,
    Predictions,
    RunFacts,
    SampleFacts,
    SpeechExample,
    TaskFacts,
    TextPredictions,
    chrf_of_texts,
    model_card,
    run_sections,
    write_report,
)
from lepton.run._encoding import encode_rows
from lepton.run._folder import read_json
from lepton.run._generation import predict_sequences
from lepton.run._rows import held_out_part, make_loader
from lepton.run._sequences import prediction_rows
from lepton.run._summary import balance_words
from lepton.run.report._cost import cost_of
from lepton.run.report._describe import read_data
from lepton.run.report._sounds import recordings_of, speech_of, speech_predictions
from lepton.run.report._views import views_of
from lepton.train import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.data import LabelRule
    from lepton.run._run import Run

__all__ = ["gather", "write_card", "write_run_report"]

SAMPLE = 5000
TEXTS = 300
"""Texts that are looked at one by one: translating them takes the time."""

PICTURES = 200
"""Rows with pictures that are looked at: decoding them takes the time."""

COLUMNS = 200
"""Inputs whose values are looked at: a page shows a few of each row."""

PICTURE_SIDE = 160


def write_run_report(run: Run, path: Path) -> Path:
    """Write the report of a run and return its path."""
    facts = gather(run, rows=True)
    return write_report(
        path, f"{facts.name}: {len(facts.tasks)} task{'' if len(facts.tasks) == 1 else 's'}", run_sections(facts)
    )


def write_card(run: Run) -> Path:
    """Write the run's model card, `README.md`, and return its path."""
    path = run.folder / "README.md"
    write_atomically(path, model_card(gather(run, rows=False)).encode())
    return path


def gather(run: Run, *, rows: bool) -> RunFacts:
    """Return everything that is known of a run.

    Args:
        run: the run.
        rows: whether its held-out rows are looked at as well.
    """
    about = read_json(run.folder / "run.json")
    baselines = read_json(run.folder / "baselines.json")
    history = tuple(run.history)
    seen = _looked_at(run) if rows else Seen(reason="not asked for.")
    seconds = max((row.get("seconds", 0.0) for row in history), default=0.0)
    alone = {name: found["seconds"] for name, found in baselines.get("alone", {}).items() if "seconds" in found}
    return RunFacts(
        name=run.folder.resolve().name,
        trunk=run.config.trunk.type,
        method=balance_words(run.config.balance),
        view=run.config.balance.gradients,
        inputs={column.name: column.kind for column in run.encoder.columns},
        tasks=tuple(_task(run, rule, baselines, seen.predictions.get(rule.task)) for rule in run.rules),
        history=history,
        best_epoch=read_json(run.folder / "checkpoints" / "best" / "state.json").get("epoch"),
        alarms=_alarms(read_json(run.folder / "checkpoints" / "last" / "state.json")),
        cost=cost_of(run.model, run.config, run.encoder, run.folder, seconds, alone),
        data=read_data(run.folder),
        sample=seen.sample,
        no_sample=seen.reason,
        recordings=seen.recordings,
        speech=seen.speech,
        views=seen.views,
        no_views=seen.no_views,
        environment=_environment(about, run),
        command=shlex.join(about.get("command", [])),
        config=config_yaml(run.config),
        delta_m=_delta_m(baselines),
        at_chance=tuple(baselines.get("gains", {}).get("at_chance", ())),
    )


def _environment(about: Mapping[str, Any], run: Run) -> dict[str, str]:
    names = {"lepton": "Lepton", "torch": "PyTorch", "python": "Python", "threads": "threads", "started": "started"}
    found = {word: str(about[key]) for key, word in names.items() if key in about}
    source = run.config.require_source() if run.config.has_source else "rows in memory"
    return found | {"seed": str(run.config.seed), "source": source, "fingerprint": run.split.fingerprint[:16]}


def _alarms(last: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the training's state says went wrong, in words."""
    state = last.get("training", {}).get("state", {})
    kinds = (
        ("dead_layers", "had no gradient to speak of in a whole epoch"),
        ("exploding_layers", "had a gradient that grew a hundredfold"),
    )
    found = [f"These layers {words}: {', '.join(state[key][:8])}." for key, words in kinds if state.get(key)]
    counts = (
        ("skipped_steps", "steps were left out, because their gradient was not finite or their loss a spike"),
        ("dropped_rows", "times a row was left out, because an input was not finite"),
        ("failed_saves", "checkpoints could not be written"),
    )
    return (*found, *(f"{state[key]:,} {words}." for key, words in counts if state.get(key)))


# -- tasks --------------------------------------------------------------------------------------------------------
def _task(
    run: Run, rule: LabelRule, baselines: Mapping[str, Any], predictions: Predictions | TextPredictions | None
) -> TaskFacts:
    task = run.model.task(rule.task)
    better = {**task.higher_is_better, **task.search_metrics}
    metrics = sorted(better, key=lambda name: name != task.primary_metric)
    results = {part: found[rule.task] for part, found in run.results.items() if rule.task in found}
    several = rule.kind == "regression" and len(rule.columns) > 1
    return TaskFacts(
        name=rule.task,
        kind=rule.kind,
        classes=rule.columns if several else rule.classes,
        metrics=tuple(MetricInfo(name, better[name]) for name in metrics),
        results={part: {"loss": found.loss, **found.metrics} for part, found in results.items()},
        labels={part: found.n_labels for part, found in results.items()},
        alone=_scores(baselines.get("alone", {}).get(rule.task, {})),
        boosting=_scores(baselines.get("boosting", {}).get(rule.task, {})),
        over_alone=_differences(baselines, "shared", rule.task),
        over_boosting=_differences(baselines, "shared_over_boosting", rule.task),
        auxiliary=task.auxiliary,
        loss_weight=task.loss_weight,
        priority=task.priority,
        predictions=predictions,
        missing=rule.missing,
        signatures={name: words for found in results.values() for name, words in found.signatures.items()},
    )


def _differences(baselines: Mapping[str, Any], who: str, task: str) -> dict[str, Interval]:
    """Return metric -> difference with its interval, of those that `run_baselines` measured."""
    prefix = f"{who}/{task}/"
    found = baselines.get("gains", {}).get("differences", {})
    return {key.removeprefix(prefix): _interval(value) for key, value in found.items() if key.startswith(prefix)}


def _delta_m(baselines: Mapping[str, Any]) -> Interval | None:
    found = baselines.get("gains", {}).get("delta_m", {})
    value = found.get("shared/per_task_above_chance", found.get("shared/per_task"))
    return None if value is None or value["value"] is None else _interval(value)


def _interval(found: Mapping[str, float | None]) -> Interval:
    return Interval(**{end: math.nan if value is None else value for end, value in found.items()})


def _scores(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    parts = {part: found[part] for part in ("val", "test") if found.get(part)}
    return {
        part: {metric: math.nan if value is None else float(value) for metric, value in scores.items()}
        for part, scores in parts.items()
    }


# -- rows ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seen:
    """Held-out rows drawn at random, and what was found for them and for training rows; or the reason why not."""

    sample: SampleFacts | None = None
    predictions: Mapping[str, Predictions | TextPredictions] = field(default_factory=dict)
    reason: str = ""
    recordings: tuple[SpeechExample, ...] = ()
    speech: tuple[tuple[SpeechExample, SpeechExample], ...] = ()
    views: Fidelity | None = None
    no_views: str = ""


def _looked_at(run: Run) -> Seen:
    try:
        tables = run.tables()
    except (ConfigurationError, DataError) as error:
        return Seen(reason=f"the rows are not at hand. {error}", no_views=views_of(run, {})[1])
    views, no_views = views_of(run, tables)
    part = held_out_part(tables)
    if part is None:
        return Seen(reason="no row was held out.", views=views, no_views=no_views)
    table = tables[part]
    texts = isinstance(run.encoder, SequenceEncoder)
    heard = isinstance(run.encoder, AudioEncoder)
    limit = PICTURES if run.encoder.images or heard else TEXTS if texts else SAMPLE
    generator = torch.Generator().manual_seed(run.config.seed)
    rows = torch.randperm(table.num_rows, generator=generator)[:limit].numpy()
    chosen = table.take(rows)
    names = [name for name in run.encoder.names if name not in run.encoder.images][:COLUMNS]
    inputs = {name: chosen.column(name).to_pylist() for name in names}
    sample = SampleFacts(part, rows, table.num_rows, inputs, _pictures(run, chosen))
    predictions = _predictions(run, chosen, part)
    recordings = recordings_of(run, chosen)
    speech = speech_of(run, chosen, recordings)
    return Seen(sample, predictions, "", recordings, speech, views, no_views)


def _pictures(run: Run, table: pa.Table) -> Any:
    if not isinstance(run.encoder, InputEncoder) or not run.encoder.images:
        return None
    paths = run.encoder.image_paths(table)[run.encoder.images[0]]
    height, width = run.config.data.image_size or (PICTURE_SIDE, PICTURE_SIDE)
    shrink = min(1.0, PICTURE_SIDE / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))

    def picture(place: int) -> bytes:
        from PIL import Image

        path = paths[place]
        pixels = torch.full((3, *size), 128, dtype=torch.uint8) if path is None else decode_image(path, size)
        stream = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(stream, "PNG", optimize=True)
        return stream.getvalue()

    return picture


def _text_predictions(run: Run, table: pa.Table) -> dict[str, TextPredictions]:
    """Return what is predicted for texts by the tasks that give texts, or something for every word."""
    encoder = run.encoder
    assert isinstance(encoder, SequenceEncoder)
    rules = [r for r in run.rules if r.kind in SEQUENCE_KINDS and set(r.columns) <= set(table.column_names)]
    loader = make_loader(prediction_rows(encoder, table), run.config)
    predicted = predict_sequences(run.model.eval(), encoder, rules, table, loader)
    values = table.column(encoder.source).to_pylist()
    # A word that holds a space keeps it unbroken, so that the spaces of the text part its words.
    texts = [
        value if isinstance(value, str) else " ".join((word or "").replace(" ", "\u00a0") for word in value or ())
        for value in values
    ]
    found = {}
    for rule in rules:
        said = predicted[rule.predicted[0]]
        truth = table.column(rule.columns[0]).to_pylist()
        scores = _nearness(said, truth) if rule.kind == "translation" else []
        found[rule.task] = TextPredictions(texts, truth, said, scores)
    return found


def _nearness(said: Sequence[str], truth: Sequence[str | None]) -> list[float]:
    """Return the chrF of each translation; NaN where there is no reference."""
    scores = chrf_of_texts(said, [text or "" for text in truth])
    return [math.nan if text is None else score for score, text in zip(scores, truth, strict=True)]


@torch.no_grad()
def _predictions(run: Run, table: pa.Table, part: str) -> dict[str, Predictions | TextPredictions]:
    texts: dict[str, Predictions | TextPredictions] = {}
    if isinstance(run.encoder, SequenceEncoder):
        texts |= _text_predictions(run, table)
    texts |= speech_predictions(run, table)
    special = (*SEQUENCE_KINDS, *SPEECH_KINDS)
    rules = [r for r in run.rules if set(r.columns) <= set(table.column_names) and r.kind not in special]
    if not rules:
        return texts
    encoded = encode_rows(run.config, run.encoder, rules, table, [], part)
    found: dict[str, list[Predictions]] = {rule.task: [] for rule in rules}
    run.model.eval()
    for inputs, targets in make_loader(encoded, run.config):
        outputs = run.model.outputs_of(to_device(inputs, run.model.device), [rule.task for rule in rules])
        for rule in rules:
            task = run.model.task(rule.task)
            said = {key: value.cpu().numpy() for key, value in task.predict(outputs[rule.task]).items()}
            predicted = said["label"] if "label" in said else said["value"]
            truth = targets[rule.task].cpu().numpy()
            found[rule.task].append(Predictions(truth, predicted, said.get("probability")))
    return texts | {name: _joined(parts) for name, parts in found.items()}


def _joined(parts: list[Predictions]) -> Predictions:
    probability = [part.probability for part in parts if part.probability is not None]
    return Predictions(
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.predicted for part in parts]),
        np.concatenate(probability) if probability else None,
    )
