"""LwF: the paper's formula, and that the old tasks do learn from it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lepton import LeptonModel, MultiTaskLoss, Trainer
from lepton.balance import Equal, UPGrad
from lepton.errors import ConfigurationError, TrainingError
from lepton.tasks import Classification, LanguageModeling, MultiLabel, Regression
from lepton.train import TrainStep
from lepton.transfer import LwF
from tests.transfer.conftest import OLD, make_model, new_rows


def penalty_of(model: LeptonModel, lwf: LwF, x: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss with it less the loss without it."""
    criterion = MultiTaskLoss(model)
    outputs, task_weights = model(x)
    before = criterion(outputs, targets, task_weights)
    with lwf.attach(criterion):
        outputs, task_weights = model(x)
        return criterion(outputs, targets, task_weights) - before


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_penalty_follows_the_paper(temperature: float) -> None:
    model = make_model()
    x, targets = new_rows()
    old = {name: output.detach().numpy() for name, output in model.eval()(x)[0].items()}
    lwf = LwF(model.train(), OLD, strength=3.0, temperature=temperature)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn_like(p)
    now = {name: output.detach().numpy() for name, output in model(x)[0].items()}

    def tempered(probabilities: np.ndarray) -> np.ndarray:
        powers = probabilities ** (1 / temperature)
        return powers / powers.sum(-1, keepdims=True)

    def softmax(logits: np.ndarray) -> np.ndarray:
        return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    expected = 0.0
    y, p = tempered(softmax(old["kind"])), tempered(softmax(now["kind"]))
    expected += np.mean([-sum(y[row, c] * np.log(p[row, c]) for c in range(3)) for row in range(len(x))])
    pairs = [tempered(softmax(np.stack([0 * o["marks"], o["marks"]], -1))) for o in (old, now)]  # 0 or 1: two classes
    expected += -(pairs[0] * np.log(pairs[1])).sum(-1).mean()
    expected += np.mean(((old["size"] - now["size"]) / 2.0) ** 2)
    assert penalty_of(model, lwf, x, targets).item() == pytest.approx(3.0 * expected, rel=1e-9)


def test_where_nothing_has_changed_it_pulls_nowhere() -> None:
    model = make_model()
    x, targets = new_rows()
    penalty = penalty_of(model, LwF(model, OLD), x, targets)
    gradients = torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True)
    assert max(float(g.abs().max()) for g in gradients if g is not None) < 1e-12
    with torch.no_grad():
        model.trunk[0].weight += 0.5
    penalty = penalty_of(model, LwF(make_model(), OLD), x, targets)
    gradients = torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True)
    assert max(float(g.abs().max()) for g in gradients if g is not None) > 1e-3


@pytest.mark.parametrize("balancer", [Equal, UPGrad])
def test_old_heads_learn_and_outputs_are_kept(balancer: Any) -> None:
    x = torch.randn(40, 6, dtype=torch.float64)
    drift, heads = {}, {}
    for strength in (0.0, 10.0):
        torch.manual_seed(3)
        model = make_model(balancer())
        before = {name: output.detach() for name, output in model.eval()(x)[0].items()}
        step = TrainStep(model.train(), torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1))
        start = copy.deepcopy(model.heads.state_dict())
        if strength:
            LwF(model, OLD, strength=strength).attach(step.criterion)
        for _ in range(60):
            step([new_rows(32)])
        after = model.eval()(x)[0]
        drift[strength] = sum(float((after[name] - before[name]).abs().mean()) for name in OLD)
        heads[strength] = [
            not torch.equal(value, start[name]) for name, value in model.heads.state_dict().items() if name[:3] != "new"
        ]
    assert drift[10.0] < 0.4 * drift[0.0]
    assert all(heads[10.0]) and not any(heads[0.0])


def test_a_window_of_micro_batches_is_one_large_batch() -> None:
    x, targets = new_rows(8)
    moved = []
    for parts in (1, 4):
        torch.manual_seed(1)
        model = make_model(gradient_accumulation_steps=parts)
        lwf = LwF(model, OLD, strength=5.0)
        with torch.no_grad():
            model.trunk[0].weight += 0.3
        step = TrainStep(model.train(), torch.optim.SGD(model.parameters(), lr=0.1), max_grad_norm=None)
        lwf.attach(step.criterion)
        rows = 8 // parts
        step([(x[i * rows : (i + 1) * rows], {"new": targets["new"][i * rows : (i + 1) * rows]}) for i in range(parts)])
        moved.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-9, atol=1e-12)


def test_in_the_trainer_and_compiled() -> None:
    for compiled in (False, True):
        model = make_model().float()
        trainer = Trainer(model, max_epochs=2, compile=compiled)
        if compiled:
            trainer.step.forward = torch.compile(model, backend="eager")
        x, targets = new_rows()
        batch = (x.float(), targets)
        attached = LwF(model, OLD).attach(trainer.step.criterion)
        before = copy.deepcopy(model.heads["kind"].weight)
        state = trainer.fit([batch, batch], [batch])
        assert state.step == 4
        assert not torch.equal(model.heads["kind"].weight, before)
        attached.remove()
        assert not model._forward_pre_hooks and not trainer.step.criterion.penalised


def test_what_is_refused() -> None:
    model = make_model()
    with pytest.raises(ConfigurationError, match="temperature must be"):
        LwF(model, temperature=0.0)
    with pytest.raises(ConfigurationError, match=r"no task 'kinds'.*Did you mean 'kind'"):
        LwF(model, ["kinds"])
    texts = LeptonModel(nn.Embedding(9, 8), [LanguageModeling("next", vocabulary=9)])
    with pytest.raises(ConfigurationError, match=r"LanguageModeling 'next'.*cannot be held on to"):
        LwF(texts)
    with pytest.raises(ConfigurationError, match="no task 'kind'"):
        LwF(model, OLD).attach(MultiTaskLoss(LeptonModel(nn.Linear(6, 8), [Regression("size")])))
    criterion = MultiTaskLoss(model)
    LwF(model, OLD).attach(criterion)
    x, targets = new_rows()
    outputs, task_weights = model(x)
    criterion(outputs, targets, task_weights)
    with pytest.raises(TrainingError, match="no new forward pass"):
        criterion(outputs, targets, task_weights)


def test_classes_that_a_task_got_since_take_no_part() -> None:
    teacher = make_model(new=False)
    x, _ = new_rows()
    trunk = copy.deepcopy(teacher.trunk)
    student = LeptonModel(trunk, [Classification("kind", classes=5), MultiLabel("marks", labels=6)]).double()
    lwf = LwF(teacher, ["kind", "marks"], strength=2.0, temperature=2.0)
    y = {name: output.detach() for name, output in teacher.eval()(x)[0].items()}
    z = {name: output.detach() for name, output in student(x)[0].items()}
    wanted = (y["kind"] / 2).softmax(1)
    expected = -(wanted * (z["kind"][:, :3] / 2).log_softmax(1)).sum(1).mean()
    p, q = (y["marks"] / 2).sigmoid(), (z["marks"][:, :4] / 2).sigmoid()
    expected -= (p * q.log() + (1 - p) * (1 - q).log()).mean()
    targets = {"kind": torch.full((len(x),), 4), "marks": torch.ones(len(x), 6, dtype=torch.float64)}
    assert penalty_of(student, lwf, x, targets).item() == pytest.approx(2.0 * expected.item(), rel=1e-9)
