"""What a run finds for texts: predictions, translations by search, and their scores."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lepton.data import LabelRule, Loader, SequenceEncoder, decoded
from lepton.evaluate import TaskResult, to_device
from lepton.insight import TextScores, text_scores
from lepton.nn import LeptonModel, beam_search, greedy_search
from lepton.run._rows import EVALUATION_SEQUENCES
from lepton.tasks import LanguageModeling, Translation
from lepton.train import Callback, TrainState

if TYPE_CHECKING:
    import pyarrow as pa


__all__ = ["SearchScores", "predict_sequences", "with_search_scores"]

SEARCHED_ROWS = 500
"""Validation texts that are translated after every epoch, greedily, to draw a curve and to select by."""


@torch.no_grad()
def predict_sequences(
    model: LeptonModel, encoder: SequenceEncoder, rules: Sequence[LabelRule], table: pa.Table, loader: Loader
) -> dict[str, Any]:
    """Return the predictions of all tasks for the rows of a table, column by column.

    Args:
        model: the model, in eval mode.
        encoder: fitted rules of the sequences.
        rules: the tasks to predict.
        table: the rows, for words and labels.
        loader: gives the same rows in order, without labels.
    """
    said: dict[str, list[dict[str, Any]]] = {rule.task: [] for rule in rules}
    labels = encoder.language_labels(table)
    words = torch.tensor(encoder.source_lengths(table))
    first = 0
    for inputs, _ in loader:
        moved = to_device(inputs, model.device)
        outputs, _ = model(moved)
        assert isinstance(inputs, Mapping)
        size, length = inputs["tokens"].shape
        own = labels[first : first + size, :length].long().to(model.device)
        for rule in rules:
            task = model.task(rule.task)
            if isinstance(task, LanguageModeling):
                said[rule.task].append({"perplexity": task.perplexities(outputs[rule.task], own).cpu()})
            elif isinstance(task, Translation):
                said[rule.task].append({"text": _translated(model, task, moved["tokens"], encoder)})
            else:
                found = {key: value.cpu() for key, value in task.predict(outputs[rule.task]).items()}
                counted = {"words": words[first : first + size]} if rule.kind == "token_classification" else {}
                said[rule.task].append(found | counted)
        first += size
    return decoded(rules, said)


def _translated(model: LeptonModel, task: Translation, tokens: Tensor, encoder: SequenceEncoder) -> list[str]:
    return [encoder.decode(ids) for ids in beam_search(model, task.name, tokens, beam=task.beam)]


@torch.no_grad()
def with_search_scores(
    model: LeptonModel,
    encoder: SequenceEncoder,
    rules: Sequence[LabelRule],
    table: pa.Table,
    results: Mapping[str, TaskResult],
) -> dict[str, TaskResult]:
    """Return the results with what only a search can measure: BLEU and chrF of translations, with their signatures.

    Args:
        model: the model; it is put into eval mode.
        encoder: fitted rules of the sequences.
        rules: the run's tasks; those that the model does not have are left out.
        table: the rows that were evaluated.
        results: task -> result, to be completed.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    found = dict(results)
    wanted = [rule for rule in rules if rule.kind == "translation" and rule.task in results]
    if not wanted:
        return found
    training = model.training
    model.eval()
    for rule in wanted:
        kind = model.task(rule.task)
        assert isinstance(kind, Translation)
        scores = _text_scores(model, encoder, rule, table, functools.partial(beam_search, beam=kind.beam))
        found[rule.task] = _completed(found[rule.task], scores)
    model.train(training)
    return found


Search = Callable[[LeptonModel, str, Tensor], list[list[int]]]


def _text_scores(
    model: LeptonModel, encoder: SequenceEncoder, rule: LabelRule, table: pa.Table, search: Search
) -> TextScores | None:
    """Return BLEU and chrF over the rows that have a reference; None if none has."""
    table = table.filter(table.column(rule.columns[0]).is_valid())
    if not table.num_rows:
        return None
    inputs, lengths = encoder.encode(table)
    order = lengths["tokens"].argsort(stable=True)  # like lengths together, so that few steps are spent on padding
    said: list[str] = []
    for rows in torch.split(order, EVALUATION_SEQUENCES):
        tokens = inputs["tokens"][rows, : int(lengths["tokens"][rows].max())].long().to(model.device)
        said += [encoder.decode(ids) for ids in search(model, rule.task, tokens)]
    in_order = [text for _, text in sorted(zip(order.tolist(), said, strict=True))]
    return text_scores(in_order, table.column(rule.columns[0]).to_pylist())


def _completed(result: TaskResult, scores: TextScores | None) -> TaskResult:
    if scores is None:
        return dataclasses.replace(result, metrics={**result.metrics, "bleu": math.nan, "chrf": math.nan})
    return dataclasses.replace(
        result,
        metrics={**result.metrics, "bleu": scores.bleu, "chrf": scores.chrf},
        signatures={"bleu": scores.bleu_signature, "chrf": scores.chrf_signature},
    )


class SearchScores(Callback):
    """Adds `val/<task>/bleu` and `.../chrf` to every evaluation: of greedy translations of the first validation texts.

    Before selection, so that they can be monitored, and of the weights that are selected, averaged ones too.

    Args:
        model: the model that is trained.
        encoder: fitted rules of the sequences.
        rules: the run's tasks.
        table: the validation rows.
    """

    def __init__(
        self, model: LeptonModel, encoder: SequenceEncoder, rules: Sequence[LabelRule], table: pa.Table
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.tasks = [r for r in rules if r.kind == "translation" and r.task in model.task_names]
        self.table = table.slice(0, SEARCHED_ROWS)
        self.columns = {
            f"val/{rule.task}/{metric}": better
            for rule in self.tasks
            for metric, better in model.task(rule.task).search_metrics.items()
        }

    def on_evaluate_end(self, state: TrainState, results: dict[str, TaskResult]) -> None:
        """Translate, and complete the results."""
        for rule in self.tasks:
            scores = _text_scores(self.model, self.encoder, rule, self.table, greedy_search)
            results[rule.task] = _completed(results[rule.task], scores)
