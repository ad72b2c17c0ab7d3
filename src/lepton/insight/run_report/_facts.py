"""What a report of a run is made from, as plain data: nothing here knows files, models or tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton.insight._results import MetricInfo
from lepton.insight.measure import Interval
from lepton.insight.page import SpeechExample
from lepton.insight.views import Fidelity

__all__ = [
    "ColumnFacts",
    "CostFacts",
    "DataFacts",
    "LabelFacts",
    "Predictions",
    "RunFacts",
    "SampleFacts",
    "TaskFacts",
    "TextPredictions",
]

Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """What one task predicted for the N sampled rows.

    Args:
        truth: classes [N] (negative where missing), numbers [N] or [N, K], labels [N, L] or masks [N, H, W].
        predicted: the same of the predictions.
        probability: [N, C] of classes, [N, L] of labels, or None.
    """

    truth: Array
    predicted: Array
    probability: Array | None = None


@dataclass(frozen=True)
class TextPredictions:
    """What one task that predicts texts, or something for each word, predicted for the N sampled texts.

    Args:
        texts: what was read [N]; words with one space between them. For speech recognition the names of the recordings,
            for speech synthesis the texts that were spoken.
        truth: the reference [N], or the list of the words' tags; None where there is none.
        predicted: the translation [N], the text that was found, the list of tags, for a language model the perplexity,
            for speech synthesis the mel-cepstral distortion in dB (NaN where it is not known).
        scores: how near each translation is to its reference, by chrF; empty for other kinds.
    """

    texts: Sequence[str]
    truth: Sequence[Any]
    predicted: Sequence[Any]
    scores: Sequence[float] = ()


@dataclass(frozen=True)
class TaskFacts:
    """One task, its results, and what it would have been alone.

    Args:
        name: its name.
        kind: its kind, as in YAML.
        classes: names of classes or labels; of the outputs for several numbers; empty for one.
        metrics: the primary one first, with the score of a predictor that ignores the input where that is known.
        results: part -> metric -> value; `loss` among them.
        labels: part -> number of labels.
        alone: part -> metric -> value of a model of the same trunk that learned this task only; may be empty.
        boosting: the same of gradient boosting.
        over_alone: metric -> score of the run minus that of the task alone, with its interval over held-out rows.
        over_boosting: the same over gradient boosting.
        auxiliary: whether it is left out of selection.
        loss_weight: its factor before balancing.
        priority: its factor after balancing.
        predictions: of the sampled rows, or None if these are gone.
        missing: for masks, the number of pixels without a class.
        signatures: metric -> how it was computed, of those that cannot be compared without.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    metrics: tuple[MetricInfo, ...]
    results: Mapping[str, Mapping[str, float]]
    labels: Mapping[str, float]
    alone: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    boosting: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    over_alone: Mapping[str, Interval] = field(default_factory=dict)
    over_boosting: Mapping[str, Interval] = field(default_factory=dict)
    auxiliary: bool = False
    loss_weight: float = 1.0
    priority: float = 1.0
    predictions: Predictions | TextPredictions | None = None
    missing: int = 255
    signatures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleFacts:
    """The held-out rows that were looked at one by one.

    Args:
        part: the part that they are of.
        rows: their numbers in the part, counted from 0 [N].
        total: how many rows the part has.
        inputs: column -> its N values.
        picture: place in the sample -> the row's picture as PNG; None without pictures.
    """

    part: str
    rows: NDArray[np.int64]
    total: int
    inputs: Mapping[str, list[Any]]
    picture: Callable[[int], bytes] | None = None


@dataclass(frozen=True)
class ColumnFacts:
    """One column of the source.

    Args:
        name: its name.
        kind: what it was taken for.
        role: input, target of a task, or why it is not used.
        missing: share of the values that are missing.
        distinct: number of different values.
        words: smallest, median and largest number, or the most frequent words.
        bars: heights of a small histogram.
    """

    name: str
    kind: str
    role: str
    missing: float
    distinct: int
    words: str = ""
    bars: tuple[float, ...] = ()


@dataclass(frozen=True)
class LabelFacts:
    """The labels of one task in each part.

    Args:
        task: the task.
        present: part -> share of the rows with a label.
        counts: part -> for each class its rows; empty for numbers.
        mean: part -> mean of the numbers; empty for classes.
        std: part -> their standard deviation.
    """

    task: str
    present: Mapping[str, float]
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    mean: Mapping[str, float] = field(default_factory=dict)
    std: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DataFacts:
    """What the run was trained on.

    Args:
        rows: part -> number of rows.
        how: how they were divided.
        columns: the source's columns, the first ones of many.
        n_columns: how many there are.
        labels: of each task.
        overlap: for each task and each task the share of training rows with labels of both [T, T].
        notes: what was decided or looked odd.
    """

    rows: Mapping[str, int]
    how: str
    columns: tuple[ColumnFacts, ...]
    n_columns: int
    labels: tuple[LabelFacts, ...]
    overlap: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CostFacts:
    """What the model costs, and what its tasks would cost with a model each.

    Args:
        shared: parameters of the trunk.
        private: task -> parameters of its head.
        trunk_flops: floating-point operations of the trunk for one row; None where they could not be counted.
        head_flops: those of all heads together.
        weight_bytes: memory of the weights.
        trunk_bytes: memory of the trunk's among them.
        disk_bytes: size of the checkpoint; None without one.
        seconds: time of the training steps.
        alone_seconds: task -> time of its own model's; empty where none was trained.
    """

    shared: int
    private: Mapping[str, int]
    trunk_flops: int | None
    head_flops: int | None
    weight_bytes: int
    trunk_bytes: int
    disk_bytes: int | None
    seconds: float
    alone_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFacts:
    """Everything that a report of a run says.

    Args:
        name: of the run.
        trunk: kind of the trunk.
        method: name of the balancing method.
        view: which view of the gradients it compares.
        inputs: column -> kind, of those that are read.
        tasks: every task.
        history: rows of `metrics.jsonl`.
        best_epoch: the epoch whose weights were kept; None if nothing was monitored.
        alarms: sentences about what went wrong while it trained.
        cost: the account.
        data: of the source, or None if it was not recorded.
        sample: the held-out rows looked at, or None.
        no_sample: why there is none.
        environment: name -> value.
        command: how it was started.
        config: the resolved configuration, as YAML.
        delta_m: per task, over the tasks alone, in percent with its interval; None if it was not measured.
        at_chance: tasks that alone are at chance, which are left out of `delta_m` where there are others.
        recordings: held-out recordings with what was found in them; a page shows at most twelve.
        speech: pairs of a person's recording and the model's synthesis of the same text.
        views: how far each view of the gradients is from the exact one; None where none matters or it was not measured.
        no_views: why it was not measured, where one would matter; empty otherwise.
    """

    name: str
    trunk: str
    method: str
    view: str
    inputs: Mapping[str, str]
    tasks: tuple[TaskFacts, ...]
    history: tuple[Mapping[str, float], ...]
    best_epoch: float | None
    alarms: tuple[str, ...]
    cost: CostFacts
    data: DataFacts | None
    sample: SampleFacts | None
    no_sample: str
    environment: Mapping[str, str]
    command: str
    config: str
    delta_m: Interval | None = None
    at_chance: tuple[str, ...] = ()
    recordings: tuple[SpeechExample, ...] = ()
    speech: tuple[tuple[SpeechExample, SpeechExample], ...] = ()
    views: Fidelity | None = None
    no_views: str = ""

    @property
    def part(self) -> str:
        """The part whose results count: the test, or the validation where there is no test."""
        parts = {part for task in self.tasks for part in task.results}
        return "test" if "test" in parts else "val"
