"""Tasks with one label per position under one criterion: means, absent tasks, the whole step compiled."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lepton
from lepton.balance import MGDA, Balancer, Equal
from lepton.tasks import LanguageModeling, Task, TokenClassification, Translation
from tests.conftest import parameters

TOKENS = 23


def make_model(balancer: Balancer | None = None) -> lepton.LeptonModel:
    torch.manual_seed(0)
    tasks: list[Task] = [
        LanguageModeling("forth", TOKENS),
        LanguageModeling("back", TOKENS),
        Translation("german", TOKENS, label_smoothing=0.1),
        TokenClassification("tags", 4),
    ]
    return lepton.LeptonModel(nn.Embedding(TOKENS, 8), tasks, balancer=balancer or Equal())


def make_batch() -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    tokens = torch.randint(TOKENS, (4, 6))
    targets = {name: torch.randint(TOKENS, (4, 6)) for name in ("forth", "back", "german")}
    targets["tags"] = torch.randint(4, (4, 6))
    targets = {name: target.masked_fill(torch.rand(4, 6) < 0.5, -100) for name, target in targets.items()}
    targets["tags"][0, :2] = TokenClassification.unseen
    return tokens, targets


def test_losses_are_means_over_the_labels_of_each_task() -> None:
    model, (tokens, targets) = make_model(), make_batch()
    criterion = lepton.MultiTaskLoss(model)
    outputs, task_weights = model(tokens)
    criterion(outputs, targets, task_weights).backward()
    smoothing = {"german": 0.1}
    for name, target in targets.items():
        known = target.masked_fill(target == TokenClassification.unseen, -100).flatten()
        expected = F.cross_entropy(outputs[name].flatten(0, 1), known, label_smoothing=smoothing.get(name, 0.0))
        torch.testing.assert_close(criterion.losses[name], expected.detach())


def test_an_absent_task_changes_nothing_for_the_others() -> None:
    model, (tokens, targets) = make_model(), make_batch()
    criterion = lepton.MultiTaskLoss(model)
    outputs, _ = model(tokens)
    whole, _ = criterion.task_losses(outputs, targets)
    without = {**targets, "german": torch.full_like(targets["german"], -100)}
    found, present = criterion.task_losses(outputs, without)
    assert present.tolist() == [True, True, False, True] and found[2] == 0
    torch.testing.assert_close(found[present], whole[present])


@pytest.mark.parametrize("make", [Equal, MGDA])
def test_a_compiled_step_trains_as_the_eager_one(make) -> None:
    """Eagerly only the labelled logits are read, compiled all of them."""
    eager = make_model(make())
    other = copy.deepcopy(eager)
    for model, compiled in ((eager, False), (other, True)):
        criterion, optimizer = lepton.MultiTaskLoss(model), torch.optim.SGD(model.parameters(), 0.5)

        def step(tokens: Tensor, targets: dict[str, Tensor], model=model, criterion=criterion) -> Tensor:
            outputs, task_weights = model(tokens)
            return criterion(outputs, targets, task_weights)

        run = torch.compile(step, fullgraph=True, backend="aot_eager") if compiled else step
        for _ in range(3):
            optimizer.zero_grad()
            run(*make_batch()).backward()
            optimizer.step()
    torch.testing.assert_close(parameters(other), parameters(eager))
