"""Where the fork stands for other sharing patterns: on the tensors that two losses can reach and one task consumes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.errors import ConfigurationError
from lepton.gradients import ledger_of
from tests.conftest import Inverse

ROWS = 10


def losses_of(heads: nn.ModuleList, branches: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(5)
    targets = torch.randn(len(branches), ROWS, 1)
    return [(head(z) - y).square().mean() for head, z, y in zip(heads, branches, targets, strict=True)]


def exact(shared: list[Tensor], losses: list[Tensor]) -> Tensor:
    rows = []
    for loss in losses:
        grads = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(shared, grads, strict=True)])
        )
    return torch.stack(rows)


class CrossStitch(nn.Module):
    """Two towers; before the heads, each task's features are a learned mixture of both towers' outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)) for _ in range(2))
        self.stitch = nn.Parameter(torch.tensor([[0.8, 0.2], [0.3, 0.7]]))
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(2))

    def mixed(self, towers: tuple[Tensor, Tensor], task: int) -> Tensor:
        return self.stitch[task, 0] * towers[0] + self.stitch[task, 1] * towers[1]


def test_cross_stitch_forks_the_tower_outputs_before_the_last_stitch() -> None:
    model, x, balancer = CrossStitch(), torch.randn(ROWS, 4), Inverse()
    towers = tuple(tower(x) for tower in model.towers)
    forked = lepton.fork(towers, ["a", "b"], balancer=balancer, gradients="parameters", shared=model.towers)
    losses = losses_of(model.heads, [model.mixed(forked[t], i) for i, t in enumerate("ab")])
    sum(losses).backward()
    found = torch.cat([p.grad.flatten() for p in model.towers.parameters()])

    plain = losses_of(model.heads, [model.mixed(tuple(t(x) for t in model.towers), i) for i in range(2)])
    jacobian = exact(list(model.towers.parameters()), plain)
    gramian = jacobian @ jacobian.T
    torch.testing.assert_close(ledger_of(balancer).gramian, gramian, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found, (1 / (1 + gramian.diagonal())) @ jacobian, rtol=1e-4, atol=1e-6)
    assert gramian[0, 1].abs() > 1e-4


def test_after_the_stitch_the_tasks_would_share_nothing_to_compare() -> None:
    """Each mixture is consumed by one task alone, so the Gramian there says nothing of the towers' conflict."""
    model, x = CrossStitch(), torch.randn(ROWS, 4)
    towers = tuple(tower(x) for tower in model.towers)
    mixtures = [model.mixed(towers, i) for i in range(2)]
    losses = losses_of(model.heads, mixtures)
    for own, other in ((0, 1), (1, 0)):
        assert torch.autograd.grad(losses[own], mixtures[other], retain_graph=True, allow_unused=True)[0] is None


def test_ple_forks_the_last_shared_expert_and_the_level_below() -> None:
    """Progressive layered extraction: a task mixes its own expert with the shared one."""
    torch.manual_seed(0)
    bottom, shared_expert = nn.Linear(4, 6), nn.Linear(6, 5)
    own = nn.ModuleList(nn.Linear(6, 5) for _ in range(2))
    heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(2))
    x, balancer = torch.randn(ROWS, 4), Inverse()

    def branches(level: list[Tensor], expert: list[Tensor]) -> list[Tensor]:
        return [torch.tanh(own[i](level[i])) + torch.tanh(expert[i]) for i in range(2)]

    low = torch.tanh(bottom(x))
    crossing = {"expert": shared_expert(low), "level": low}
    forked = lepton.fork(
        crossing, ["a", "b"], balancer=balancer, gradients="parameters", shared=[bottom, shared_expert]
    )
    sum(losses_of(heads, branches([forked[t]["level"] for t in "ab"], [forked[t]["expert"] for t in "ab"]))).backward()
    parameters = [*bottom.parameters(), *shared_expert.parameters()]
    found = torch.cat([p.grad.flatten() for p in parameters])

    low = torch.tanh(bottom(x))
    jacobian = exact(parameters, losses_of(heads, branches([low, low], [shared_expert(low)] * 2)))
    gramian = jacobian @ jacobian.T
    torch.testing.assert_close(ledger_of(balancer).gramian, gramian, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found, (1 / (1 + gramian.diagonal())) @ jacobian, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("view", ["fork_layer", "parameters"])
def test_film_runs_the_trunk_once_for_each_task(view: str) -> None:
    """Per-task trunk passes: the fork takes {task: z_k} and compares z_k^T c_k."""
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 5)])
    scale = nn.Parameter(torch.randn(2, 6))
    heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(2))
    x, balancer = torch.randn(ROWS, 4), Inverse()

    def passes() -> dict[str, Tensor]:
        return {t: layers[1](torch.tanh(layers[0](x) * scale[i])) for i, t in enumerate("ab")}

    z = passes()
    forked = lepton.fork(z, ["a", "b"], balancer=balancer, gradients=view, shared=layers)
    sum(losses_of(heads, [forked[t] for t in "ab"])).backward()
    plain = passes()
    losses = losses_of(heads, [plain[t] for t in "ab"])
    jacobian = exact(list(layers.parameters()), losses)
    if view == "parameters":
        gramian = jacobian @ jacobian.T
    else:
        rows = [
            plain[t].T @ torch.autograd.grad(loss, plain[t], retain_graph=True)[0]
            for t, loss in zip("ab", losses, strict=True)
        ]
        flat = torch.stack(rows).flatten(1)
        gramian = (flat @ flat.T).detach()
    torch.testing.assert_close(ledger_of(balancer).gramian, gramian, rtol=1e-4, atol=1e-6)
    found = torch.cat([p.grad.flatten() for p in layers.parameters()])
    torch.testing.assert_close(found, (1 / (1 + gramian.diagonal())) @ jacobian, rtol=1e-4, atol=1e-6)


def test_the_features_view_is_refused_for_per_task_passes() -> None:
    z = {t: torch.randn(3, 4, requires_grad=True) for t in "ab"}
    with pytest.raises(ConfigurationError, match="features of its own"):
        lepton.fork(z, ["a", "b"], balancer=Inverse(), gradients="features")


def test_a_model_with_per_task_trunk_passes() -> None:
    class Film(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 6)
            self.scale = nn.Parameter(torch.randn(2, 6))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {t: torch.tanh(self.layer(x) * self.scale[i]) for i, t in enumerate("ab")}

    from lepton.tasks import Regression

    torch.manual_seed(0)
    model = lepton.LeptonModel(Film(), [Regression("a"), Regression("b")], balancer=Inverse(), features=6)
    outputs, task_weights = model(torch.randn(5, 4))
    lepton.MultiTaskLoss(model)(outputs, {"a": torch.randn(5), "b": torch.randn(5)}, task_weights).backward()
    assert model.fork.gramian.shape == (2, 2)
    assert model.eval()(torch.randn(5, 4))[0]["b"].shape == (5,)
