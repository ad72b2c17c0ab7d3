"""A-GEM: the projection against its closed form, on gradients computed apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lepton import LeptonModel, MultiTaskLoss, Trainer
from lepton.balance import Equal, UPGrad
from lepton.errors import ConfigurationError
from lepton.transfer import AGEM, Replay
from tests.transfer.conftest import OLD, make_model, new_rows, old_rows

NO_NEW = {"new": torch.zeros(40, dtype=torch.int64)}


def flat(gradients: Any) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def gradient_of(model: LeptonModel, batch: tuple[Tensor, dict[str, Tensor]]) -> Tensor:
    """The gradient of the sum of the tasks' losses, without lepton's fork."""
    x, targets = batch
    outputs = model.eval()(x)[0]
    total = torch.zeros((), dtype=torch.float64)
    for name, target in targets.items():
        loss, count = model.task(name).total_loss(outputs[name], target)
        total = total + loss / count
    found = torch.autograd.grad(total, list(model.parameters()), allow_unused=True, materialize_grads=True)
    model.train()
    return flat(found)


def step_of(model: LeptonModel, batch: tuple[Tensor, dict[str, Tensor]], agem: AGEM) -> Tensor:
    """What one step of plain gradient descent with rate 1 moves the parameters by, the other way round."""
    before = flat(p.detach() for p in model.parameters()).clone()
    criterion, optimizer = MultiTaskLoss(model), torch.optim.SGD(model.parameters(), lr=1.0)
    with agem.attach(criterion, optimizer):
        outputs, task_weights = model(batch[0])
        criterion(outputs, batch[1], task_weights).backward()
        optimizer.step()
    return before - flat(p.detach() for p in model.parameters())


@pytest.mark.parametrize("balancer", [Equal, UPGrad])
def test_the_projection(balancer: Any) -> None:
    projected = 0
    for seed in range(12):
        torch.manual_seed(seed)
        model = make_model(balancer())
        memory, new = old_rows(20), new_rows()
        replay = Replay(model.tasks.values(), 20)
        replay.add(*memory)
        r, g = gradient_of(model, memory), gradient_of(model, new)
        agem = AGEM(replay, rows=20)
        found = step_of(model, new, agem)
        assert agem.steps == 1
        if g @ r < 0:
            projected += 1
            expected = g - (g @ r) / (r @ r) * r
            assert abs(expected @ r) < 1e-12
        else:
            expected = g
        assert agem.projected == int(g @ r < 0)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert 2 <= projected <= 10  # both cases were seen


def test_heads_without_part_in_a_step_that_is_not_projected_stay() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        model = make_model()
        replay = Replay(model.tasks.values(), 20)
        replay.add(*old_rows(20))
        agem = AGEM(replay, rows=20)
        criterion = MultiTaskLoss(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
        agem.attach(criterion, optimizer)
        before = model.heads["size"].weight.detach().clone()
        outputs, task_weights = model(new_rows()[0])
        criterion(outputs, new_rows()[1], task_weights).backward()
        model.heads["size"].weight.grad = None
        optimizer.step()
        assert torch.equal(model.heads["size"].weight, before) == (not agem.projected)
        if not agem.projected:
            return
    raise AssertionError("every one of 20 steps was projected")


def test_an_empty_memory_and_a_removed_hook_change_nothing() -> None:
    model = make_model()
    new = new_rows()
    g = gradient_of(model, new)
    replay = Replay(model.tasks.values(), 20)
    agem = AGEM(replay)
    torch.testing.assert_close(step_of(model, new, agem), g, rtol=1e-9, atol=1e-12)
    replay.add(*old_rows())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    agem.attach(MultiTaskLoss(model), optimizer).remove()
    optimizer.step()
    assert agem.steps == 0


def test_in_the_trainer_it_keeps_what_was_learned() -> None:
    """The mean loss of the remembered rows, after a training on other rows with and without it."""
    losses = {}
    for used in (False, True):
        torch.manual_seed(5)
        model = make_model(UPGrad())
        memory = old_rows(40)
        Trainer(model, max_epochs=60, learning_rate=0.02).fit(
            [(memory[0], memory[1] | {"new": torch.zeros(40).long()})]
        )
        replay = Replay(model.tasks.values(), 40)
        replay.add(*memory)
        trainer = Trainer(model, max_epochs=60, learning_rate=0.02)
        agem = AGEM(replay, rows=40)
        if used:
            agem.attach(trainer.step.criterion, trainer.optimizer)
        trainer.step.criterion.unlabelled.update(OLD)
        trainer.fit([new_rows(16)])
        outputs = model.eval()(memory[0])[0]
        losses[used] = MultiTaskLoss(model).task_losses(outputs, memory[1])[0].sum().item()
        assert agem.steps == (60 if used else 0) and bool(agem.projected) == used
    assert losses[True] < 0.95 * losses[False]


def test_what_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="rows must be"):
        AGEM(Replay([], 5), rows=0)
