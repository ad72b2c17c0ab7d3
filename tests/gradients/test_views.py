"""The three views against their definitions, computed by brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.balance import Equal
from lepton.errors import ConfigurationError, ForkError
from tests.conftest import Inverse, loss_of, make_batch, make_model, own_head, tasks

VIEWS = ["features", "fork_layer", "parameters"]
HEADS = ["linear", "own", "mixed"]


def single_losses(model, x, targets) -> list[Tensor]:
    """Each task's weighted loss on a fresh graph, unbalanced."""
    names = model.task_names
    with lepton.no_balancing():
        features = model.features(x)
        outputs = model.predict_from(features)
    found = []
    for name in names:
        task = model.tasks[name]
        total, count = task.total_loss(outputs[name], targets[name])
        found.append(task.loss_weight * total / count)
    return found


def brute_jacobian(model, x, targets) -> Tensor:
    """[T, P] gradients of every task over the trunk's parameters."""
    shared = list(model.trunk.parameters())
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared, retain_graph=True)])
        for loss in single_losses(model, x, targets)
    ]
    return torch.stack(rows)


def brute_cotangents(model, x, targets) -> tuple[Tensor, Tensor]:
    """Features and [T, ...] gradients of every task at the features."""
    with lepton.no_balancing():
        z = model.features(x)
        outputs = model.predict_from(z)
    grads = []
    for name in model.task_names:
        total, count = model.tasks[name].total_loss(outputs[name], targets[name])
        grads.append(torch.autograd.grad(total / count, z, retain_graph=True)[0])
    return z.detach(), torch.stack(grads)


def expected_gramian(view: str, model, x, targets) -> Tensor:
    if view == "parameters":
        jacobian = brute_jacobian(model, x, targets)
        return jacobian @ jacobian.T
    z, c = brute_cotangents(model, x, targets)
    if view == "features":
        flat = c.flatten(1)
        return flat @ flat.T
    layer = torch.einsum("nd,tne->tde", z, c).flatten(1)
    return layer @ layer.T


@pytest.mark.parametrize("rows", [4, 40])  # fewer rows than features: the kernel form
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("view", VIEWS)
def test_gramian_is_the_definition(view: str, heads: str, rows: int) -> None:
    model = make_model(Inverse(), heads, gradients=view)
    x, targets = make_batch(rows)
    loss_of(model, x, targets).backward()
    torch.testing.assert_close(model.fork.gramian, expected_gramian(view, model, x, targets), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("view", VIEWS)
def test_trunk_gets_the_weighted_sum_and_heads_their_own(view: str, heads: str) -> None:
    model = make_model(Inverse(), heads, gradients=view)
    plain = make_model(Equal(), heads)
    x, targets = make_batch()
    loss_of(model, x, targets).backward()
    loss_of(plain, x, targets).backward()
    jacobian = brute_jacobian(model, x, targets)
    trunk = torch.cat([p.grad.flatten() for p in model.trunk.parameters()])
    torch.testing.assert_close(trunk, model.fork.weights @ jacobian, rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(model.heads.parameters(), plain.heads.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_fork_layer_is_the_gradient_of_a_linear_layer_at_the_fork() -> None:
    """The view's name is a promise: insert the layer, initialised to the identity, and differentiate it."""
    model = make_model(Inverse(), "mixed")
    x, targets = make_batch()
    loss_of(model, x, targets).backward()
    layer = nn.Linear(8, 8, bias=False)
    nn.init.eye_(layer.weight)
    with lepton.no_balancing():
        outputs = model.predict_from(layer(model.trunk(x)))
    rows = []
    for name in model.task_names:
        total, count = model.tasks[name].total_loss(outputs[name], targets[name])
        rows.append(torch.autograd.grad(total / count, layer.weight, retain_graph=True)[0].flatten())
    jacobian = torch.stack(rows)
    torch.testing.assert_close(model.fork.gramian, jacobian @ jacobian.T, rtol=1e-4, atol=1e-6)


def forked(shape: tuple[int, ...], view: str, feature_dim: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Gramian of two own losses at features of a shape; features and cotangents with the feature dimension last."""
    torch.manual_seed(0)
    balancer = Inverse()
    z = torch.randn(shape, requires_grad=True)
    a, b = torch.randn(shape), torch.randn(shape)
    features = lepton.fork(z, ["a", "b"], balancer=balancer, gradients=view, feature_dim=feature_dim)
    ((features["a"] * a).sum() + (features["b"] * b).sum()).backward()
    dim = feature_dim if feature_dim is not None else (1 if len(shape) >= 4 else -1)
    weights = 1 / (1 + lepton.gradients.ledger_of(balancer).gramian.diagonal())
    torch.testing.assert_close(z.grad, weights[0] * a + weights[1] * b)
    move = [t.movedim(dim, -1).flatten(0, -2) for t in (z.detach(), a, b)]
    return lepton.gradients.ledger_of(balancer).gramian, move[0], torch.stack(move[1:])


@pytest.mark.parametrize(
    ("shape", "feature_dim"),
    [((7, 5), None), ((3, 4, 5), None), ((3, 5, 4), 1), ((2, 5, 3, 4), None), ((2, 3, 4, 5), -1)],
)
def test_leading_dimensions_are_summed_over(shape: tuple[int, ...], feature_dim: int | None) -> None:
    gramian, z, c = forked(shape, "fork_layer", feature_dim)
    layer = torch.einsum("nd,tne->tde", z, c).flatten(1)
    torch.testing.assert_close(gramian, layer @ layer.T, rtol=1e-4, atol=1e-4)
    gramian, _, c = forked(shape, "features", feature_dim)
    torch.testing.assert_close(gramian, c.flatten(1) @ c.flatten(1).T, rtol=1e-4, atol=1e-4)


def test_padded_positions_with_zero_cotangents_change_nothing() -> None:
    torch.manual_seed(0)
    z, a, b = torch.randn(3, 2, 6, 5)
    found = []
    for padding in (0, 4):
        balancer = Inverse()
        padded = torch.cat([z, torch.full((2, padding, 5), 1e3)], 1).requires_grad_()
        features = lepton.fork(padded, ["a", "b"], balancer=balancer)
        loss = (features["a"][:, :6] * a).sum() + (features["b"][:, :6] * b).sum()
        loss.backward()
        found.append((lepton.gradients.ledger_of(balancer).gramian, padded.grad[:, :6]))
    torch.testing.assert_close(found[0], found[1])


def test_a_pytree_adds_its_leaves() -> None:
    torch.manual_seed(0)
    balancer = Inverse()
    z = {"map": torch.randn(2, 3, 4, 4, requires_grad=True), "pair": (torch.randn(2, 5, requires_grad=True), "kept")}
    features = lepton.fork(z, ["a", "b"], balancer=balancer)
    assert features["b"]["pair"][1] == "kept"
    c = [torch.randn(2, 2, 3, 4, 4), torch.randn(2, 2, 5)]
    loss = sum(
        (features[t]["map"] * c[0][i]).sum() + (features[t]["pair"][0] * c[1][i]).sum() for i, t in enumerate("ab")
    )
    loss.backward()
    maps = torch.einsum("bdhw,tbehw->tde", z["map"].detach(), c[0]).flatten(1)
    pairs = torch.einsum("bd,tbe->tde", z["pair"][0].detach(), c[1]).flatten(1)
    torch.testing.assert_close(
        lepton.gradients.ledger_of(balancer).gramian, maps @ maps.T + pairs @ pairs.T, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("view", VIEWS)
def test_a_leaf_that_no_task_looks_at_counts_for_nothing(view: str) -> None:
    torch.manual_seed(0)
    balancer = Inverse()
    z = {"used": torch.randn(4, 3, requires_grad=True), "idle": torch.randn(4, 2, requires_grad=True)}
    features = lepton.fork(z, ["a", "b"], balancer=balancer, gradients=view, shared=list(z.values()))
    c = torch.randn(2, 4, 3)
    ((features["a"]["used"] * c[0]).sum() + (features["b"]["used"] * c[1]).sum()).backward()
    alone = Inverse()
    used = z["used"].detach().requires_grad_()
    features = lepton.fork(used, ["a", "b"], balancer=alone, gradients=view, shared=[used])
    ((features["a"] * c[0]).sum() + (features["b"] * c[1]).sum()).backward()
    found, expected = (lepton.gradients.ledger_of(one).gramian for one in (balancer, alone))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(z["used"].grad, used.grad)


def test_the_parameters_view_may_be_restricted_to_a_part_of_the_trunk() -> None:
    model = make_model(Inverse(), gradients="parameters")
    x, targets = make_batch()
    jacobian = brute_jacobian(model, x, targets)
    tail = sum(p.numel() for p in model.trunk[-1].parameters())
    restricted = lepton.LeptonModel(
        model.trunk, tasks(), balancer=Inverse(), gradients="parameters", shared=model.trunk[-1:]
    )
    restricted.heads.load_state_dict(model.heads.state_dict())
    loss_of(restricted, x, targets).backward()
    torch.testing.assert_close(
        restricted.fork.gramian, jacobian[:, -tail:] @ jacobian[:, -tail:].T, rtol=1e-4, atol=1e-6
    )


def test_shared_parameters_outside_the_graph_are_refused() -> None:
    model = make_model(Inverse(), gradients="parameters", shared=nn.Linear(2, 2))
    with pytest.raises(ForkError, match="no parameter named by shared="):
        loss_of(model, *make_batch()).backward()


def test_the_parameters_view_finds_the_parameters_of_a_plain_fork_by_itself() -> None:
    torch.manual_seed(0)
    trunk, heads = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)), [nn.Linear(5, 1), own_head(1, 5)]
    x, balancer = torch.randn(9, 4), Inverse()
    z = lepton.fork(trunk(x), ["a", "b"], balancer=balancer, gradients="parameters")
    sum(head(z[t]).square().mean() for head, t in zip(heads, "ab", strict=True)).backward()
    rows = []
    for head in heads:
        grads = torch.autograd.grad(head(trunk(x)).square().mean(), list(trunk.parameters()))
        rows.append(torch.cat([g.flatten() for g in grads]))
    jacobian = torch.stack(rows)
    torch.testing.assert_close(
        lepton.gradients.ledger_of(balancer).gramian, jacobian @ jacobian.T, rtol=1e-4, atol=1e-6
    )


def test_disjoint_rows_are_refused_by_the_features_view_and_right_in_the_others() -> None:
    x, targets = make_batch()
    nan = float("nan")
    targets["digit"][6:] = -100
    targets["slant"][:6] = nan
    for view in ("fork_layer", "parameters"):
        model = make_model(Inverse(), gradients=view)
        loss_of(model, x, targets).backward()
        torch.testing.assert_close(model.fork.gramian, expected_gramian(view, model, x, targets), rtol=1e-4, atol=1e-6)
        assert model.fork.gramian[0, 1].abs() > 1e-5
    model = make_model(Inverse(), gradients="features")
    with pytest.raises(ConfigurationError, match=r"share no row.*fork_layer"):
        for _ in range(3):  # 6 * 6 / 12 rows in common expected of each step
            loss_of(model, x, targets).backward()


def test_a_small_batch_without_a_common_row_is_not_taken_for_disjoint_data() -> None:
    model = make_model(Inverse(), gradients="features")
    for seed in range(30):
        x, targets = make_batch(3, seed=seed)
        targets["slant"][torch.randperm(3)[:2]] = float("nan")
        targets["digit"][torch.randperm(3)[:2]] = -100
        loss_of(model, x, targets).backward()
    assert lepton.gradients.ledger_of(model.balancer).overlap_checks <= 0  # it looked, and found them to meet
