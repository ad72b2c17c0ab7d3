"""EWC: the Fisher information row by row, and the penalty against the paper's sum."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton import LeptonModel, MultiTaskLoss, Trainer
from lepton.balance import MGDA
from lepton.errors import ConfigurationError, DataError
from lepton.nn import freeze
from lepton.tasks import Classification, LanguageModeling, MultiLabel, Regression, Task
from lepton.train import TrainStep
from lepton.transfer import EWC
from tests.transfer.conftest import OLD, make_model, new_rows, old_rows


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters())


def test_the_fisher_of_given_labels_against_vmap() -> None:
    model = make_model()
    x, targets = old_rows()
    targets["kind"][4] = -100
    ewc = EWC(1.0)
    assert (
        ewc.consolidate(
            model,
            [(x[:5], {n: t[:5] for n, t in targets.items()}), (x[5:], {n: t[5:] for n, t in targets.items()})],
            labels="data",
        )
        == 12
    )

    def loss(p: dict[str, Tensor], x: Tensor, kind: Tensor, size: Tensor, marks: Tensor) -> Tensor:
        z = torch.tanh(F.linear(x, p["trunk.0.weight"], p["trunk.0.bias"]))
        z = torch.tanh(F.linear(z, p["trunk.2.weight"], p["trunk.2.bias"]))
        raw = {n: F.linear(z, p[f"heads.{n}.weight"], p[f"heads.{n}.bias"]) for n in OLD}
        found = F.cross_entropy(raw["kind"][None], kind[None], reduction="sum")
        found = found + (raw["size"].squeeze() - (size - 5) / 2).square()
        return found + F.binary_cross_entropy_with_logits(raw["marks"], marks, reduction="sum")

    p = {name: q.detach() for name, q in model.named_parameters()}
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0, 0))(p, x, *(targets[n] for n in OLD))
    for name, gradient in each.items():
        torch.testing.assert_close(ewc.fisher[name], gradient.square().mean(0), rtol=1e-9, atol=1e-12)
    assert not ewc.fisher["heads.new.weight"].any()


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Classification("a", classes=3), lambda raw: raw.softmax(-1) * (1 - raw.softmax(-1))),
        (MultiLabel("a", labels=3), lambda raw: raw.sigmoid() * (1 - raw.sigmoid())),
        (Regression("a", outputs=3, mean=4.0, std=[1.0, 2.0, 30.0]), torch.ones_like),
    ],
)
def test_the_fisher_of_the_models_own_labels_against_its_closed_form(task: Task, expected: object) -> None:
    """For a linear model E[(d log p / d W_kj)^2] = v_k x_j^2, with the variance v of the labels, over 1200 draws."""
    model = LeptonModel(nn.Sequential(nn.Identity()), [copy.deepcopy(task)], features=2).double()
    x = torch.tensor([[1.0, -2.0], [0.5, 1.0], [3.0, 0.1]], dtype=torch.float64)
    ewc = EWC(1.0)
    assert ewc.consolidate(model, [(x.repeat(400, 1), {})]) == 1200
    head = model.heads["a"]
    variance = expected(F.linear(x, head.weight, head.bias).detach())  # type: ignore[operator]
    torch.testing.assert_close(ewc.fisher["heads.a.bias"], variance.mean(0), rtol=0.2, atol=0)
    wanted = (variance[:, :, None] * x[:, None].square()).mean(0)
    torch.testing.assert_close(ewc.fisher["heads.a.weight"], wanted, rtol=0.3, atol=0)


def test_the_penalty_of_several_trainings_is_their_sum() -> None:
    model = make_model()
    together, alone, anchors = EWC(30.0), [], []
    for task in OLD:
        batch = [old_rows(5)]
        together.consolidate(model, batch, tasks=[task])
        alone.append(EWC(1.0))
        alone[-1].consolidate(model, batch, tasks=[task])
        anchors.append({name: p.detach().clone() for name, p in model.named_parameters()})
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * torch.randn_like(p)
    named = parameters(model)
    expected = sum(
        15.0 * (one.fisher[name] * (p - anchor[name]).square()).sum()
        for one, anchor in zip(alone, anchors, strict=True)
        for name, p in named.items()
    )
    criterion = MultiTaskLoss(model)
    x, targets = new_rows()
    outputs, task_weights = model(x)
    before = criterion(outputs, targets, task_weights)
    together.attach(criterion)
    outputs, task_weights = model(x)
    penalty = criterion(outputs, targets, task_weights) - before
    torch.testing.assert_close(penalty, expected)
    both = [torch.autograd.grad(value, list(named.values())) for value in (penalty, expected)]
    for found, wanted in zip(*both, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_it_pulls_back_under_a_balancer_and_lets_go_when_removed() -> None:
    model = make_model(MGDA())
    ewc = EWC(1e4)
    ewc.consolidate(model, [old_rows()], tasks=["kind"])
    start = parameters(copy.deepcopy(model))
    criterion = MultiTaskLoss(model)
    moved = {}
    for attached in (True, False):
        for name, p in model.named_parameters():
            p.data.copy_(start[name])
        handle = ewc.attach(criterion)
        if not attached:
            handle.remove()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
        for _ in range(60):
            optimizer.zero_grad()
            outputs, task_weights = model(new_rows()[0])
            criterion(outputs, new_rows()[1], task_weights).backward()
            optimizer.step()
        handle.remove()
        named = parameters(model)
        moved[attached] = sum(
            (ewc.fisher[n] * (named[n] - start[n]).square()).sum().item() for n in named if n in ewc.fisher
        )
    assert moved[True] < 0.2 * moved[False]


def test_an_evaluation_has_no_penalty() -> None:
    model = make_model()
    ewc = EWC(1e4)
    ewc.consolidate(model, [old_rows()])
    with torch.no_grad():
        model.trunk[0].weight += 1
    criterion = MultiTaskLoss(model)
    ewc.attach(criterion)
    x, targets = new_rows()
    losses = {}
    for mode in (True, False):
        outputs, task_weights = model.train(mode)(x)
        losses[mode] = criterion(outputs, targets, task_weights)
    outputs, task_weights = model.train()(x)
    plain = MultiTaskLoss(model)(outputs, targets, task_weights)
    torch.testing.assert_close(losses[False], plain)
    assert losses[True] > plain + 1


def test_a_window_of_micro_batches_has_the_penalty_once() -> None:
    x, targets = new_rows(8)
    moved = []
    for parts in (1, 4):
        torch.manual_seed(1)
        model = make_model(gradient_accumulation_steps=parts)
        ewc = EWC(100.0)
        ewc.consolidate(model, [old_rows(4)])
        with torch.no_grad():
            model.trunk[0].weight += 0.1
        step = TrainStep(model.train(), torch.optim.SGD(model.parameters(), lr=0.01), max_grad_norm=None)
        ewc.attach(step.criterion)
        rows = 8 // parts
        step([(x[i * rows : (i + 1) * rows], {"new": targets["new"][i * rows : (i + 1) * rows]}) for i in range(parts)])
        moved.append(model.trunk[0].weight.detach().clone())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-9, atol=1e-12)


def test_state_and_a_model_with_more_tasks() -> None:
    small = make_model(new=False)
    ewc, again = EWC(10.0), EWC(10.0)
    ewc.consolidate(small, [old_rows()])
    ewc.consolidate(small, [old_rows()])
    again.load_state_dict(ewc.state_dict())
    large = make_model()
    large.load_state_dict(small.state_dict(), strict=False)
    x, targets = new_rows()
    values = []
    for each in (ewc, again):
        criterion = MultiTaskLoss(large)
        with each.attach(criterion):
            outputs, task_weights = large(x)
            values.append(criterion(outputs, targets, task_weights))
    assert torch.equal(*values)
    with pytest.raises(ConfigurationError, match=r"'heads.new.weight' \[2, 8\], but this model has nothing there"):
        ewc.consolidate(large, [old_rows()])
        ewc.attach(MultiTaskLoss(small))


def test_parameters_that_do_not_learn_and_modes_are_left_alone() -> None:
    model = make_model()
    freeze(model.trunk, depth=1)
    model.train()
    model.trunk[1].eval()
    ewc = EWC(1.0)
    assert ewc.consolidate(model, [old_rows()], rows=3) == 3
    assert set(ewc.fisher) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert model.training and not model.trunk[1].training
    assert all(p.grad is None for p in model.parameters())


def test_what_is_refused() -> None:
    model = make_model()
    with pytest.raises(ConfigurationError, match="strength must be"):
        EWC(0.0)
    with pytest.raises(ConfigurationError, match="remembers nothing yet"):
        EWC(1.0).attach(MultiTaskLoss(model))
    with pytest.raises(ConfigurationError, match="labels must be one of"):
        EWC(1.0).consolidate(model, [old_rows()], labels="mine")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"no task 'sizes'.*Did you mean 'size'"):
        EWC(1.0).consolidate(model, [old_rows()], tasks=["sizes"])
    with pytest.raises(DataError, match="no rows"):
        EWC(1.0).consolidate(model, [])
    texts = LeptonModel(nn.Embedding(9, 8), [LanguageModeling("next", vocabulary=9)])
    with pytest.raises(ConfigurationError, match=r"LanguageModeling 'next'.*cannot be held on to"):
        EWC(1.0).consolidate(texts, [(torch.ones(2, 3, dtype=torch.int64), {})])


def test_in_the_trainer() -> None:
    model = make_model()
    ewc = EWC(1e3)
    ewc.consolidate(model, [old_rows(30)], tasks=["kind"])
    before = parameters(copy.deepcopy(model))
    trainer = Trainer(model, max_epochs=2, learning_rate=0.01)
    trainer.step.criterion.unlabelled.update(OLD)
    ewc.attach(trainer.step.criterion)
    trainer.fit([new_rows(), new_rows()])
    assert not torch.equal(model.heads["new"].weight, before["heads.new.weight"])
    assert torch.equal(model.heads["size"].weight, before["heads.size.weight"])
