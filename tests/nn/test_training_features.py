"""What people switch on in a training loop: mixed precision, checkpointing, frozen parts, norms, recurrence."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import lepton
from lepton.balance import MGDA, UPGrad
from lepton.tasks import Classification, Regression
from tests.conftest import Inverse, gradients, loss_of, make_batch, make_model, tasks

VIEWS = ["features", "fork_layer", "parameters"]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("heads", ["linear", "own"])
def test_autocast_bfloat16_keeps_the_gramian_in_float32(heads: str, view: str) -> None:
    x, targets = make_batch(64)
    exact = make_model(Inverse(), heads, gradients=view)
    loss_of(exact, x, targets).backward()
    model = make_model(Inverse(), heads, gradients=view)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, x, targets)
        loss.backward()  # inside, where autocast would reach into backward
    assert loss.dtype == torch.float32
    assert model.fork.gramian.dtype == torch.float32
    torch.testing.assert_close(model.fork.gramian, exact.fork.gramian, rtol=0.1, atol=0.02 * exact.fork.gramian.max())
    cosine = torch.nn.functional.cosine_similarity(gradients(model), gradients(exact), dim=0)
    assert cosine > 0.995


@pytest.mark.parametrize("view", VIEWS)
def test_activation_checkpointing(view: str) -> None:
    class Checkpointed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    x, targets = make_batch()
    plain = make_model(MGDA(), gradients=view)
    loss_of(plain, x, targets).backward()
    model = make_model(MGDA(), gradients=view)
    model.trunk = Checkpointed(model.trunk)
    if view == "parameters":
        model.fork._shared = (model.trunk,)
    loss_of(model, x, targets).backward()
    torch.testing.assert_close(gradients(model), gradients(plain))


@pytest.mark.parametrize("view", VIEWS)
def test_a_checkpointed_model_does_not_balance_twice(view: str) -> None:
    """Recomputation runs the fork's forward again; only its backward may act."""
    if view == "parameters":
        pytest.skip("the trunk's graph does not exist yet when a recomputed fork differentiates it")
    from tests.conftest import Lagging

    model = make_model(Lagging(), gradients=view)
    plain = make_model(Lagging(), gradients=view)
    x, targets = make_batch()
    outputs, task_weights = checkpoint(model, x, use_reentrant=False)
    lepton.MultiTaskLoss(model)(outputs, targets, task_weights).backward()
    loss_of(plain, x, targets).backward()
    assert model.balancer.steps == 1
    torch.testing.assert_close(gradients(model), gradients(plain))


@pytest.mark.parametrize("view", VIEWS)
def test_frozen_and_unused_parameters(view: str) -> None:
    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Linear(6, 6).requires_grad_(False)
            self.used = nn.Linear(6, 8)
            self.unused = nn.Linear(3, 3)

        def forward(self, x):
            return self.used(self.frozen(x))

    torch.manual_seed(0)
    model = lepton.LeptonModel(Trunk(), tasks(), balancer=MGDA(), gradients=view, features=8)
    x, targets = make_batch()
    loss_of(model, x, targets).backward()
    assert model.trunk.unused.weight.grad is None
    assert model.trunk.frozen.weight.grad is None
    assert model.trunk.used.weight.grad.norm() > 0


def test_a_wholly_frozen_trunk_trains_its_heads() -> None:
    model = make_model(MGDA())
    model.trunk.requires_grad_(False)
    loss_of(model, *make_batch()).backward()
    assert all(p.grad is not None for p in model.heads.parameters())


@pytest.mark.parametrize("view", VIEWS)
def test_batch_norm_and_dropout_run_once_per_step(view: str) -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 8))
    model = lepton.LeptonModel(trunk, tasks("mixed"), balancer=UPGrad(), gradients=view)
    x, targets = make_batch()
    torch.manual_seed(1)
    loss = loss_of(model, x, targets)
    state = torch.get_rng_state()
    loss.backward()
    assert torch.equal(state, torch.get_rng_state())
    assert trunk[1].num_batches_tracked == 1
    assert torch.isfinite(gradients(model)).all()


@pytest.mark.parametrize("view", VIEWS)
def test_a_gru_trunk(view: str) -> None:
    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(6, 8, batch_first=True)

        def forward(self, x):
            return self.gru(x)[0]

    torch.manual_seed(0)
    model = lepton.LeptonModel(
        Trunk(), [Classification("tag", classes=3), Regression("size")], balancer=Inverse(), gradients=view
    )
    x = torch.randn(4, 5, 6)
    targets = {"tag": torch.randint(0, 3, (4, 5)), "size": torch.randn(4, 5)}
    targets["tag"][:, 3:] = -100
    outputs, _ = model(x)
    assert outputs["tag"].shape == (4, 5, 3)
    assert outputs["size"].shape == (4, 5)
    loss_of(model, x, targets).backward()
    if view == "parameters":
        shared = list(model.trunk.parameters())
        rows = []
        for name in model.task_names:
            with lepton.no_balancing():
                outputs, _ = model(x)
            total, count = model.tasks[name].total_loss(outputs[name], targets[name])
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(total / count, shared)]))
        jacobian = torch.stack(rows)
        torch.testing.assert_close(model.fork.gramian, jacobian @ jacobian.T, rtol=1e-4, atol=1e-6)


def test_grad_scaler_trains() -> None:
    model, plain = make_model(MGDA(), "mixed"), make_model(MGDA(), "mixed")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for one, scale in ((model, scaler), (plain, None)):
        optimizer = torch.optim.SGD(one.parameters(), 0.05)
        for seed in range(4):
            optimizer.zero_grad()
            loss = loss_of(one, *make_batch(seed=seed))
            if scale is None:
                loss.backward()
                optimizer.step()
            else:
                scale.scale(loss).backward()
                scale.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(one.parameters(), max_norm=1e6)
                scale.step(optimizer)
                scale.update()
    torch.testing.assert_close(gradients(model), gradients(plain), rtol=1e-4, atol=1e-6)
