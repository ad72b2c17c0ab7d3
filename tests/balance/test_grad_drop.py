"""GradDrop: its masks against TorchJD's, and what the fork makes of them against the same by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchjd.aggregation import GradDrop as TorchJDGradDrop

import lepton
from lepton import LeptonModel, MultiTaskLoss
from lepton.balance import GradDrop, Log
from lepton.balance._grad_drop import grad_drop_masks
from lepton.errors import ConfigurationError
from lepton.linalg import counter_uniform
from lepton.tasks import Classification, Regression


@pytest.mark.parametrize("leak", [0.0, 0.3])
def test_masks_are_those_of_torchjd(leak: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pulls, draws = torch.randn(4, 50), torch.rand(50)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: draws)
    wanted = TorchJDGradDrop(leak=torch.full((4,), leak))(pulls)
    assert torch.allclose((grad_drop_masks(pulls, draws, leak) * pulls).sum(0), wanted, atol=1e-6)


def test_a_sign_is_picked_as_often_as_it_is_pure() -> None:
    pulls = torch.tensor([[3.0], [-1.0]]).expand(2, 20000)
    passed = GradDrop(seed=1).masks(pulls).mean(1)
    assert torch.allclose(passed, torch.tensor([0.75, 0.25]), atol=0.015)


def test_an_absent_task_changes_nothing() -> None:
    pulls = torch.randn(3, 30)
    with_absent = torch.cat([pulls[:1], torch.zeros(1, 30), pulls[1:]])
    found = GradDrop().masks(with_absent)
    assert torch.equal(found[[0, 2, 3]], GradDrop().masks(pulls)) and not found[1].any()


class OwnHead(nn.Linear):
    """A head that the fork does not compute together with others."""


def model_of(kind: str, balancer: Any) -> LeptonModel:
    torch.manual_seed(0)
    heads = {"fused": None, "own": OwnHead, "both": OwnHead}
    trunk: nn.Module = nn.Sequential(nn.Linear(6, 12), nn.Tanh())
    if kind == "map":
        trunk = nn.Sequential(nn.Conv2d(1, 12, 3), nn.Tanh())
    own = heads.get(kind)
    tasks = [
        Classification("kind", classes=3, head=None if own is None else own(12, 3)),
        Regression("size"),
        Regression("weight", head=own(12, 1) if kind == "own" and own is not None else None),
    ]
    return LeptonModel(trunk, tasks, balancer=balancer)


def batch(kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shape = (16, 1, 6, 6) if kind == "map" else (16, 6)
    x = torch.randn(shape, generator=generator)
    size = torch.randn(16, generator=generator)
    size[::3] = float("nan")
    return x, {
        "kind": torch.randint(0, 3, (16,), generator=generator),
        "size": size,
        "weight": torch.randn(16, generator=generator),
    }


def by_hand(model: LeptonModel, x: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """The gradient of the trunk's first weight, with every task's cotangent masked feature by feature."""
    criterion = MultiTaskLoss(model)
    with lepton.no_balancing():
        z = model.trunk(x)
        leaf = z.detach().requires_grad_()
        outputs = model.predict_from(leaf, x)
        losses = [
            criterion({n: outputs[n] for n in model.task_names}, {name: targets[name]}, torch.ones(3))
            for name in model.task_names
        ]
        cotangents = [torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in losses]
    rows = [0, *range(2, z.ndim)]
    pulls = torch.stack([(z.detach().sign() * c).sum(rows) for c in cotangents])
    draws = counter_uniform(0, torch.tensor(0), torch.arange(pulls.shape[1]))
    masks = grad_drop_masks(pulls, draws)
    total = sum(m.reshape(1, -1, *[1] * (z.ndim - 2)) * c for m, c in zip(masks, cotangents, strict=True))
    return torch.autograd.grad(z, model.trunk[0].weight, total)[0]


@pytest.mark.parametrize("kind", ["fused", "own", "both", "map"])
def test_the_fork_masks_every_feature(kind: str) -> None:
    model = model_of(kind, GradDrop())
    x, targets = batch(kind)
    wanted = by_hand(model, x, targets)
    outputs, task_weights = model(x)
    MultiTaskLoss(model)(outputs, targets, task_weights).backward()
    found = model.trunk[0].weight.grad
    assert torch.allclose(found, wanted, atol=1e-6)
    plain = model_of(kind, lepton.balance.Equal())
    outputs, task_weights = plain(x)
    MultiTaskLoss(plain)(outputs, targets, task_weights).backward()
    assert not torch.allclose(found, plain.trunk[0].weight.grad, atol=1e-4)
    assert 0 < float(model.fork.weights.min()) < 1 and model.fork.gramian is None


@pytest.mark.parametrize("kind", ["fused", "own"])
def test_around_it_a_logarithm_divides_every_gradient_by_its_loss(kind: str) -> None:
    """The signs that the tasks pull with stay; how often each is picked follows gradients of comparable size."""
    model = model_of(kind, Log(GradDrop()))
    x, targets = batch(kind)
    wanted = by_hand(model, x, targets)  # its criterion takes the logarithms, too
    outputs, task_weights = model(x)
    MultiTaskLoss(model)(outputs, targets, task_weights).backward()
    found = model.trunk[0].weight.grad
    assert torch.allclose(found, wanted, atol=1e-6)
    plain = model_of(kind, GradDrop())
    assert not torch.allclose(wanted, by_hand(plain, x, targets), atol=1e-4)
    scaled = model_of(kind, Log(GradDrop()))
    scaled.loss_weight.mul_(torch.tensor([100.0, 1.0, 0.01]))
    outputs, task_weights = scaled(x)
    MultiTaskLoss(scaled)(outputs, targets, task_weights).backward()
    assert torch.allclose(scaled.trunk[0].weight.grad, found, atol=1e-5)


def test_micro_batches_share_one_draw() -> None:
    x, targets = batch("fused")
    model = model_of("fused", GradDrop())
    model.fork.gradient_accumulation_steps = 2
    criterion = MultiTaskLoss(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for part in (slice(0, 8), slice(8, 16)):
        outputs, task_weights = model(x[part])
        criterion(outputs, {name: t[part] for name, t in targets.items()}, task_weights).backward()
        assert model.balancer._step == 1
    optimizer.step()


def test_compiled_and_eager_agree() -> None:
    x, targets = batch("fused")
    found = []
    for compiled in (False, True):
        model = model_of("fused", GradDrop())
        called: Any = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        for _ in range(2):
            model.zero_grad()
            outputs, task_weights = called(x)
            MultiTaskLoss(model)(outputs, targets, task_weights).backward()
        found.append(model.trunk[0].weight.grad)
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_a_bound_by_the_gramian_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="GradDrop forms none"):
        model_of("fused", GradDrop()).fork.max_task_grad_norm = 1.0


def test_it_trains() -> None:
    x, targets = batch("fused")
    model = model_of("fused", GradDrop())
    criterion, optimizer = MultiTaskLoss(model), torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        outputs, task_weights = model(x)
        loss = criterion(outputs, targets, task_weights)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
