"""What tasks say of batches of rows, to columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lepton.data._targets import LabelRule
from lepton.tasks import SpeechRecognition

__all__ = ["decoded"]

Said = Mapping[str, Any]


def decoded(rules: Sequence[LabelRule], said: Mapping[str, Sequence[Said]]) -> dict[str, Any]:
    """Return the predictions of tasks, column by column.

    Args:
        rules: of the tasks' labels.
        said: task -> for each batch what the task's `predict` gave, tensors [B, ...] by their names. Of tags also
            `words` [B], how many words each row has, those that are not read too; of a language model
            `perplexity` [B]; of a translation `text`, a list of B texts.

    Example:
        >>> rule = LabelRule("said", "speech_recognition", ("text",), ("a", "b"))
        >>> batch = {"label": torch.tensor([[2, 1], [1, -100]]), "probability": torch.tensor([0.5, 1.0])}
        >>> found = decoded([rule], {"said": [batch]})
        >>> found["said"], found["said_probability"].tolist()
        (['ba', 'a'], [0.5, 1.0])
    """
    columns: dict[str, Any] = {}
    for rule in rules:
        columns |= _DECODERS.get(rule.kind, _by_rule)(rule, said[rule.task])
    return columns


def _by_rule(rule: LabelRule, parts: Sequence[Said]) -> dict[str, Any]:
    return rule.decode({key: torch.cat([part[key] for part in parts]) for key in parts[0]})


def _tags(rule: LabelRule, parts: Sequence[Said]) -> dict[str, Any]:
    """Return the tags of each row's words; None for words beyond those that are read."""
    found = []
    for part in parts:
        for labels, number in zip(part["label"].tolist(), part["words"].tolist(), strict=True):
            read = min(number, len(labels) - 2)  # START and END stand around the words
            tags: list[str | None] = [rule.classes[label] for label in labels[1 : read + 1]]
            found.append(tags + [None] * (number - read))
    return {rule.task: found}


def _perplexities(rule: LabelRule, parts: Sequence[Said]) -> dict[str, Any]:
    return {rule.predicted[0]: torch.cat([part["perplexity"] for part in parts]).tolist()}


def _texts(rule: LabelRule, parts: Sequence[Said]) -> dict[str, Any]:
    return {rule.task: [text for part in parts for text in part["text"]]}


def _transcripts(rule: LabelRule, parts: Sequence[Said]) -> dict[str, Any]:
    task = SpeechRecognition(rule.task, rule.classes)
    texts = [task.text(ids) for part in parts for ids in part["label"].tolist()]
    probability = torch.cat([part["probability"] for part in parts]).double().numpy()
    return dict(zip(rule.predicted, (texts, probability), strict=True))


_DECODERS = {
    "language_modeling": _perplexities,
    "speech_recognition": _transcripts,
    "token_classification": _tags,
    "translation": _texts,
}
