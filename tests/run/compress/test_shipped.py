"""Metrics of what an exported graph says are those of the outputs that it was made from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lepton.run.compress._shipped import _update
from lepton.tasks import (
    Classification,
    LanguageModeling,
    MultiLabel,
    Regression,
    Segmentation,
    SpeechRecognition,
    Task,
    TokenClassification,
)

LABELS = torch.tensor([[1, 2, -100], [0, -100, -100], [3, 0, 1]])
PIXELS = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(0))
PIXELS[0, 0] = 255
CASES = [
    (Classification("kind", 4), (6, 4), torch.tensor([0, 1, 2, 3, -100, 1])),
    (Classification("kind", 2), (6, 2), torch.tensor([0, 1, 1, 0, -100, 1])),
    (MultiLabel("marks", 3), (4, 3), torch.tensor([[0.0, 1, 1], [1, 0, 0], [1, 1, torch.nan], [0, 0, 1]])),
    (Regression("size", outputs=2), (3, 2), torch.tensor([[0.0, 1], [2, torch.nan], [1, 1]])),
    (Segmentation("mask", 3, head=nn.Conv2d(2, 3, 1)), (2, 3, 4, 4), PIXELS),
    (TokenClassification("tag", 4), (3, 3, 4), LABELS),
    (LanguageModeling("next", 4), (3, 3, 4), LABELS),
    (SpeechRecognition("said", ["a", "b", "c"]), (3, 6, 4), torch.tensor([[1, 2, -100], [3, -100, -100], [3, 1, 1]])),
]


def said_by_the_graph(task: Task, output: Tensor, target: Tensor) -> dict[str, Tensor]:
    if isinstance(task, LanguageModeling):
        return {"perplexity": task.perplexities(output, target)}
    return {"logits": output} if isinstance(task, SpeechRecognition) else task.predict(output)


@pytest.mark.parametrize(("task", "shape", "target"), CASES, ids=lambda value: getattr(value, "owner", ""))
def test_the_graph_is_scored_as_the_network_is(task: Task, shape: tuple[int, ...], target: Tensor) -> None:
    output = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected, found = task.metrics(), task.metrics()
    task.update_metrics(expected, output, target)
    _update(task, found, said_by_the_graph(task, output, target), target)
    names = ["perplexity"] if isinstance(task, LanguageModeling) else list(expected)
    assert names
    for name in names:
        assert float(found[name].compute()) == pytest.approx(float(expected[name].compute()), rel=1e-4, nan_ok=True), (
            name
        )
