"""Uses that cannot work: the sentence names the thing and the way out, and nothing goes on silently."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lepton
from lepton.balance import (
    DBMTL,
    FAMO,
    IMTLG,
    MGDA,
    AlignedMTL,
    Balancer,
    CAGrad,
    ConFIG,
    DualProj,
    Equal,
    Every,
    FairGrad,
    GeometricMean,
    GradVac,
    Log,
    LogSum,
    MoCo,
    NashMTL,
    PCGrad,
    PerGroup,
    Smooth,
    Uncertainty,
    UPGrad,
)
from lepton.errors import ConfigurationError, ForkError, TargetError
from lepton.tasks import Regression, Task
from tests.conftest import gradients, loss_of, make_batch, make_model


# -- negative losses ----------------------------------------------------------------------------------------------
def gaussian(output: Tensor, target: Tensor) -> Tensor:
    """The likelihood's logarithm, which is positive where the density is above one."""
    return F.gaussian_nll_loss(output[:, 0], target, torch.full_like(target, 1e-4), reduction="none")


def negative_model(balancer: Balancer, **options: object) -> tuple[lepton.LeptonModel, Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    nll = Task("nll", head=nn.Linear(8, 1), loss=gaussian)
    model = lepton.LeptonModel(nn.Linear(4, 8), [Regression("size"), nll], balancer=balancer, **options)
    with torch.no_grad():
        model.heads["nll"].weight.zero_()
        model.heads["nll"].bias.zero_()
    x = torch.randn(6, 4)
    return model, x, {"size": x.sum(1), "nll": torch.zeros(6)}


LOGARITHMIC = {
    "LogSum": LogSum,
    "FAMO": FAMO,
    "GeometricMean": GeometricMean,
    "Log": lambda: Log(MGDA()),
    "Every": lambda: Every(Smooth(Log(CAGrad())), 2),
    "PerGroup": lambda: PerGroup({"a": (["nll"], Log(Equal())), "b": (["size"], Equal())}),
}


@pytest.mark.parametrize("name", LOGARITHMIC)
def test_a_negative_loss_has_no_logarithm(name: str) -> None:
    model, x, targets = negative_model(LOGARITHMIC[name]())
    with pytest.raises(TargetError, match=rf"^{name} takes logarithms of losses.*: 'nll' -4.605\. Choose a balancer"):
        loss_of(model, x, targets)


def test_a_negative_loss_for_a_method_that_follows_gradients_of_logarithms() -> None:
    model, x, targets = negative_model(DBMTL(), gradients="parameters")
    with pytest.raises(TargetError, match=r"DBMTL takes logarithms of losses.*'nll'"):
        loss_of(model, x, targets)


@pytest.mark.parametrize(
    "make",
    [Equal, MGDA, Uncertainty, lambda: PerGroup({"a": (["size"], LogSum()), "b": (["nll"], MGDA())}, over=MGDA())],
)
def test_without_a_logarithm_a_negative_loss_is_a_loss(make) -> None:
    model, x, targets = negative_model(make())
    loss_of(model, x, targets).backward()
    assert gradients(model).isfinite().all()


def test_where_the_device_is_not_asked_the_task_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from lepton.nn import _criterion

    monkeypatch.setattr(_criterion, "readable", lambda tensor: False)
    model, x, targets = negative_model(LogSum())
    criterion = lepton.MultiTaskLoss(model)
    outputs, weights = model(x)
    criterion(outputs, targets, weights).backward()
    assert criterion.last_not_finite.tolist() == [False, True]
    assert model.heads["nll"].weight.grad.abs().max() == 0
    alone, _, _ = negative_model(LogSum())
    loss_of(alone, x, {"size": targets["size"]}).backward()
    torch.testing.assert_close(gradients(model.trunk), gradients(alone.trunk))


# -- one task -----------------------------------------------------------------------------------------------------
def test_one_task_leaves_nothing_to_weigh(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lepton"):
        model = lepton.LeptonModel(nn.Linear(4, 8), [Regression("size")], balancer=Log(CAGrad()))
    (record,) = caplog.records
    assert "Log weighs the gradients" in record.getMessage() and "'size' is the only one" in record.getMessage()
    assert "Use Equal()" in record.getMessage()
    loss_of(model, torch.randn(6, 4), {"size": torch.randn(6)}).backward()
    assert gradients(model).isfinite().all()
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="lepton"):
        lepton.LeptonModel(nn.Linear(4, 8), [Regression("size")], balancer=Uncertainty())
        lepton.LeptonModel(nn.Linear(4, 8), [Regression("size"), Regression("age")], balancer=MGDA())
    assert not caplog.records


def test_one_task_in_every_batch_leaves_nothing_to_weigh_either(caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(MGDA())
    x, targets = make_batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with caplog.at_level(logging.WARNING, logger="lepton"):
        for step in range(45):
            name = model.task_names[step % 3]
            loss_of(model, x, {name: targets[name]}).backward()
            optimizer.step()
    (record,) = caplog.records
    assert "MGDA has seen one task at a time in the first 20 backward passes" in record.getMessage()
    caplog.clear()
    model = make_model(MGDA())
    with caplog.at_level(logging.WARNING, logger="lepton"):
        for step in range(45):
            loss_of(model, x, targets if step == 3 else {"digit": targets["digit"]}).backward()
    assert not caplog.records


# -- values that are not finite -----------------------------------------------------------------------------------
GRAMIAN = [MGDA, PCGrad, CAGrad, IMTLG, UPGrad, DualProj, ConFIG, AlignedMTL, NashMTL, FairGrad, GradVac]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", GRAMIAN)
def test_a_gramian_that_is_not_finite_names_the_tasks(kind: type[Balancer], value: float) -> None:
    gramian = torch.eye(3)
    gramian[1, 2] = gramian[2, 1] = value
    with pytest.raises(ForkError, match=r"not finite in the rows of the tasks \[1, 2\].*put their rows and columns to"):
        kind().bind(3).weights(gramian)


def test_a_task_whose_gradient_is_not_finite_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    trunk, balancer = nn.Linear(3, 4), MGDA()
    with caplog.at_level(logging.WARNING, logger="lepton"):
        for _ in range(3):
            z = lepton.fork(trunk(torch.ones(2, 3)), ["a", "b", "c"], balancer=balancer)
            (z["a"].square().sum() + z["c"].sum() + (z["b"] * torch.inf).sum()).backward()
    (record,) = caplog.records
    assert "the gradient of 'b' is not finite" in record.getMessage() and "fork.left_out" in record.getMessage()


# -- views --------------------------------------------------------------------------------------------------------
def test_a_view_that_the_method_cannot_use() -> None:
    words = r"MoCo works in the views \['parameters'\], not in 'fork_layer': choose gradients='parameters'"
    with pytest.raises(ConfigurationError, match=words):
        make_model(MoCo())
    with pytest.raises(ConfigurationError, match=words):
        lepton.fork(torch.ones(2, 3, requires_grad=True), ["a"], balancer=MoCo())


def test_a_budget_for_a_view_that_has_nothing_to_bound() -> None:
    words = (
        r'memory_budget bounds what the view "parameters" holds, but gradients is \'fork_layer\'.*leave memory_budget'
    )
    with pytest.raises(ConfigurationError, match=words):
        make_model(MGDA(), memory_budget=0.5)
    with pytest.raises(ConfigurationError, match=words):
        lepton.fork(torch.ones(2, 3, requires_grad=True), ["a"], balancer=MGDA(), memory_budget=1e6)


# -- two optimisers -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", [1, -1])
def test_two_optimisers_of_one_backward_are_one_step(order: int) -> None:
    model, twin = make_model(Smooth(PCGrad())), make_model(Smooth(PCGrad()))
    twin.load_state_dict(model.state_dict())
    apart = [torch.optim.SGD(model.trunk.parameters(), 0.1), torch.optim.SGD(model.heads.parameters(), 0.1)][::order]
    together = torch.optim.SGD(twin.parameters(), 0.1)
    for seed in range(3):
        for each, optimizers in ((model, apart), (twin, [together])):
            each.zero_grad()
            loss_of(each, *make_batch(seed=seed)).backward()
            for optimizer in optimizers:
                optimizer.step()
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value)


def test_an_optimiser_for_each_task_with_its_own_backward_is_refused() -> None:
    model = make_model(MGDA())
    x, targets = make_batch()
    outputs, _ = model(x)
    losses, _ = lepton.MultiTaskLoss(model).task_losses(outputs, targets)
    losses[0].backward(retain_graph=True)
    torch.optim.SGD(model.parameters(), 0.1).step()
    with pytest.raises(ForkError, match=r"a second time in one step.*call loss\.backward\(\) once"):
        losses[1].backward()


# -- a trunk twice, a balancer twice ------------------------------------------------------------------------------
@pytest.mark.parametrize("view", ["fork_layer", "features", "parameters"])
def test_a_trunk_used_twice_in_one_step(view: str) -> None:
    model = make_model(MGDA(), gradients=view)
    both = loss_of(model, *make_batch()) + loss_of(model, *make_batch(seed=1))
    with pytest.raises(ForkError, match=r"two forward passes of one model.*Put the rows into one batch.*no_balancing"):
        both.backward()


def test_a_trunk_used_a_second_time_without_balancing() -> None:
    model, twin = make_model(MGDA()), make_model(MGDA())
    twin.load_state_dict(model.state_dict())
    with lepton.no_balancing():
        extra = loss_of(model, *make_batch(seed=1))
    (loss_of(model, *make_batch()) + extra).backward()
    loss_of(twin, *make_batch()).backward()
    with lepton.no_balancing():
        loss_of(twin, *make_batch(seed=1)).backward()
    torch.testing.assert_close(gradients(model), gradients(twin))


def test_a_balancer_shared_by_two_models_or_forks() -> None:
    balancer = MGDA()
    model = make_model(balancer)
    for share in (lambda: make_model(balancer), lambda: lepton.Fork(model.task_names, balancer)):
        with pytest.raises(ConfigurationError, match="this MGDA already serves another model or fork: create one"):
            share()
    z = torch.ones(2, 3, requires_grad=True)
    bare = MGDA()
    lepton.fork(z, ["a", "b"], balancer=bare)
    lepton.fork(z, ["a", "b"], balancer=bare)
    for names in (["c", "d"], ["b", "a"]):
        with pytest.raises(ConfigurationError, match=r"MGDA serves the tasks \['a', 'b'\] and was given"):
            lepton.fork(z, names, balancer=bare)
