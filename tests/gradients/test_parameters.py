"""The exact view on trunks of every sort, within every budget: against brute force, and under a plain backward."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lepton
from lepton.balance import MGDA
from lepton.errors import ConfigurationError, ForkError
from lepton.gradients import ledger_of
from lepton.tasks import Regression
from tests.conftest import Inverse

WIDTH = 6


class Twice(nn.Module):
    """One layer used twice, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.frozen(self.layer(torch.tanh(self.first(x))))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(2, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(len(x), 2, 2))[0][:, -1]


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, WIDTH), nn.Sequential(nn.Tanh(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.second, self.first(x), use_reentrant=False)


class Looked(nn.Module):
    """Rows of a table that are looked up, with a sparse gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(9, 3, sparse=True), nn.Linear(3, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(self.table((x[:, 0].abs() * 3).long().clamp(max=5))))


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))


TRUNKS = {"twice": Twice, "rnn": Recurrent, "checkpoint": Checkpointed, "batch norm": batch_norm, "sparse": Looked}


def parts(trunk: nn.Module) -> tuple[list[Tensor], list[nn.Module]]:
    shared = [p for p in trunk.parameters() if p.requires_grad]
    return shared, [nn.Linear(WIDTH, 1), nn.Sequential(nn.Linear(WIDTH, 3), nn.Tanh()), nn.Linear(WIDTH, 2)]


def brute(trunk: nn.Module, heads: list[nn.Module], x: Tensor, shared: list[Tensor]) -> Tensor:
    """[T, P] one task at a time, each on a graph of its own."""
    state = {name: value.clone() for name, value in trunk.state_dict().items()}
    rows = []
    for head in heads:
        trunk.load_state_dict(state)
        grads = torch.autograd.grad(head(trunk(x)).square().mean(), shared, allow_unused=True)
        dense = [torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(shared, grads, strict=True)]
        rows.append(torch.cat([g.flatten() for g in dense]))
    trunk.load_state_dict(state)
    return torch.stack(rows)


def step(trunk: nn.Module, heads: list[nn.Module], x: Tensor, **options: object) -> Tensor:
    """A backward pass; returns the Gramian."""
    balancer = Inverse()
    names = [f"t{i}" for i in range(len(heads))]
    z = lepton.fork(trunk(x), names, balancer=balancer, gradients="parameters", **options)
    sum(head(z[name]).square().mean() for name, head in zip(names, heads, strict=True)).backward()
    return ledger_of(balancer).gramian


def flat(shared: list[Tensor]) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad.to_dense()).flatten() for p in shared])


def budget_of(share: float | None, shared: list[Tensor]) -> float | None:
    """Bytes for a share of what all tasks' gradients take, but never less than two of the largest parameter."""
    if share is None:
        return None
    return max(share * 3 * 4 * sum(p.numel() for p in shared), 2 * 4 * max(p.numel() for p in shared))


@pytest.mark.parametrize("share", [None, 0.7, 0.4, 0.01])
@pytest.mark.parametrize("kind", TRUNKS)
def test_every_trunk_within_every_budget(kind: str, share: float | None) -> None:
    torch.manual_seed(0)
    trunk, x = TRUNKS[kind](), torch.randn(12, 4)
    shared, heads = parts(trunk)
    jacobian = brute(trunk, heads, x, shared)
    before = {name: value.clone() for name, value in trunk.named_buffers()}
    gramian = step(trunk, heads, x, memory_budget=budget_of(share, shared))
    torch.testing.assert_close(gramian, jacobian @ jacobian.T, rtol=1e-4, atol=1e-7)
    expected = (1 / (1 + gramian.diagonal())) @ jacobian
    torch.testing.assert_close(flat(shared), expected, rtol=1e-4, atol=1e-6)
    if kind == "batch norm":  # the statistics moved once
        fresh = batch_norm()
        fresh.load_state_dict({**trunk.state_dict(), **before})
        fresh(x)
        for (_, mine), (_, once) in zip(trunk.named_buffers(), fresh.named_buffers(), strict=True):
            torch.testing.assert_close(mine, once)
    if kind == "twice":
        assert trunk.idle.weight.grad is None  # zeros would let AdamW decay it
    if kind == "sparse":
        assert trunk.table.weight.grad.is_sparse


def test_gradients_add_up_over_backward_passes_as_they_do_everywhere() -> None:
    torch.manual_seed(0)
    trunk, x = batch_norm(), torch.randn(12, 4)
    shared, heads = parts(trunk)
    step(trunk, heads, x)
    once = flat(shared)
    step(trunk, heads, x)
    torch.testing.assert_close(flat(shared), 2 * once)


def scaled(gradient: Tensor) -> Tensor:
    return 0.1 * gradient


@pytest.mark.parametrize("where", ["parameter", "features", "module", "input"])
def test_hooks_of_others_see_what_they_would_see(where: str) -> None:
    """A hook that scales a gradient scales it once; one on the features sees the weighted sum; inputs get theirs."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
    x, seen = torch.randn(12, 4, requires_grad=where == "input"), []
    shared, heads = parts(trunk)
    jacobian = brute(trunk, heads, x, shared)
    factor = torch.ones(jacobian.shape[1])
    if where == "parameter":
        shared[0].register_hook(scaled)
        factor[: shared[0].numel()] = 0.1
    elif where == "module":
        trunk[2].register_full_backward_hook(lambda module, into, out: seen.append(out[0].clone()))
    elif where == "features":
        trunk.register_forward_hook(lambda module, inputs, output: (output.register_hook(seen.append), output)[1])
    gramian = step(trunk, heads, x)
    weights = 1 / (1 + gramian.diagonal())
    torch.testing.assert_close(flat(shared), weights @ jacobian * factor, rtol=1e-4, atol=1e-6)
    z = trunk(x).detach().requires_grad_()
    cotangents = [torch.autograd.grad(head(z).square().mean(), z)[0] for head in heads]
    weighted = sum(w * c for w, c in zip(weights, cotangents, strict=True))
    if where in ("module", "features"):
        torch.testing.assert_close(seen[-1], weighted)
    if where == "input":
        (expected,) = torch.autograd.grad(trunk(x), x, weighted)
        torch.testing.assert_close(x.grad, expected)


def test_parameters_outside_the_shared_ones_get_the_weighted_gradient_too() -> None:
    torch.manual_seed(0)
    trunk, x = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)), torch.randn(12, 4)
    shared, heads = parts(trunk)
    jacobian = brute(trunk, heads, x, shared)
    gramian = step(trunk, heads, x, shared=trunk[2])
    tail = jacobian[:, -sum(p.numel() for p in trunk[2].parameters()) :]
    torch.testing.assert_close(gramian, tail @ tail.T, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(flat(shared), (1 / (1 + gramian.diagonal())) @ jacobian, rtol=1e-4, atol=1e-6)


def test_a_loss_that_goes_around_the_fork_reaches_the_trunk_as_well() -> None:
    torch.manual_seed(0)
    trunk, x = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)), torch.randn(12, 4)
    shared, heads = parts(trunk)
    jacobian = brute(trunk, heads, x, shared)
    around = torch.autograd.grad(trunk(x).square().mean(), shared)
    balancer = Inverse()
    features = trunk(x)
    z = lepton.fork(features, ["a", "b", "c"], balancer=balancer, gradients="parameters")
    loss = sum(head(z[name]).square().mean() for name, head in zip("abc", heads, strict=True))
    (loss + features.square().mean()).backward()
    weights = 1 / (1 + ledger_of(balancer).gramian.diagonal())
    expected = weights @ jacobian + torch.cat([g.flatten() for g in around])
    torch.testing.assert_close(flat(shared), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("budget", [None, 600])
def test_rows_of_different_data_sets_may_pass_the_trunk_apart(budget: float | None) -> None:
    """A trunk pass for each set, and a backward pass on the set's own rows: the same numbers as all rows together."""
    torch.manual_seed(0)
    trunk, x = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)), torch.randn(12, 4)
    shared, heads = parts(trunk)
    rows = {"a": slice(0, 4), "b": slice(4, 7), "c": slice(7, 12)}
    found = []
    for apart in (False, True):
        balancer = Inverse()
        z = {name: trunk(x[part]) for name, part in rows.items()} if apart else trunk(x)
        z = lepton.fork(z, list(rows), balancer=balancer, gradients="parameters", memory_budget=budget)
        own = [z[name] if apart else z[name][part] for name, part in rows.items()]
        trunk.zero_grad()
        sum(head(each).square().mean() for head, each in zip(heads, own, strict=True)).backward()
        found.append((ledger_of(balancer).gramian, flat(shared)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


class Apart(nn.Module):
    """A trunk that takes the rows of each set by themselves, and gives every task those of its own set."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": self.body(first), "b": self.body(second)}


def test_a_models_rows_of_different_data_sets_may_pass_the_trunk_apart() -> None:
    """As docs/fork.md has it: the numbers of one mixed batch whose rows lack the other set's labels."""
    x, y = torch.randn(9, 4), torch.randn(9)
    rows = {"a": slice(0, 5), "b": slice(5, 9)}
    found = []
    for apart in (False, True):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        tasks = [Regression("a"), Regression("b")]
        trunk = Apart(body) if apart else body
        model = lepton.LeptonModel(trunk, tasks, balancer=MGDA(), gradients="parameters", features=WIDTH)
        inputs = {"first": x[rows["a"]], "second": x[rows["b"]]} if apart else x
        outputs, weights = model(inputs)
        labels = {name: torch.full_like(y, torch.nan) for name in rows}
        for name, part in rows.items():
            labels[name][part] = y[part]
        targets = {name: y[part] for name, part in rows.items()} if apart else labels
        lepton.MultiTaskLoss(model)(outputs, targets, weights).backward()
        found.append((model.fork.gramian, flat(list(body.parameters()))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_parameter_tied_to_a_head_gets_both_gradients() -> None:
    torch.manual_seed(0)
    trunk, x = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)), torch.randn(12, 4)
    _, heads = parts(trunk)
    heads[0] = nn.Sequential(trunk[2], nn.Linear(WIDTH, 1))
    balancer = Inverse()
    z = lepton.fork(trunk(x), ["a", "b", "c"], balancer=balancer, gradients="parameters")
    sum(head(z[name]).square().mean() for name, head in zip("abc", heads, strict=True)).backward()
    cut = trunk(x).detach().requires_grad_()
    losses = [head(cut).square().mean() for head in heads]
    cotangents = [torch.autograd.grad(loss, cut, retain_graph=True)[0] for loss in losses]
    weights = 1 / (1 + ledger_of(balancer).gramian.diagonal())
    (at_head,) = torch.autograd.grad(losses[0], trunk[2].weight)
    (at_trunk,) = torch.autograd.grad(
        trunk(x), trunk[2].weight, sum(w * c for w, c in zip(weights, cotangents, strict=True))
    )
    torch.testing.assert_close(trunk[2].weight.grad, at_head + at_trunk)


def test_a_budget_too_small_for_two_rows_of_a_parameter_says_what_is_needed() -> None:
    trunk = batch_norm()
    _, heads = parts(trunk)
    with pytest.raises(ForkError, match=r"two tasks' gradients of the parameter of shape \[6, 6\]: that needs 288"):
        step(trunk, heads, torch.randn(12, 4), memory_budget=200)


@pytest.mark.parametrize("budget", [0, -1.0, float("inf"), "2 GB", True])
def test_what_is_no_budget_is_refused(budget: object) -> None:
    with pytest.raises(ConfigurationError, match="memory_budget"):
        lepton.Fork(["a", "b"], Inverse(), memory_budget=budget)


def test_a_share_of_the_memory_is_a_budget() -> None:
    trunk, x = batch_norm(), torch.randn(12, 4)
    shared, heads = parts(trunk)
    jacobian = brute(trunk, heads, x, shared)
    torch.testing.assert_close(step(trunk, heads, x, memory_budget=0.5), jacobian @ jacobian.T, rtol=1e-4, atol=1e-7)
    with pytest.raises(ForkError, match="Raise the budget"):
        step(trunk, heads, x, memory_budget=1e-12)


def test_room_for_the_gradients_is_kept_and_what_was_handed_out_is_no_part_of_it() -> None:
    torch.manual_seed(0)
    trunk, balancer, names = batch_norm(), Inverse(), ["a", "b", "c"]
    _, heads = parts(trunk)
    found, rooms = [], []
    for x, module in zip(torch.randn(4, 12, 4), (trunk, trunk, trunk[3], trunk), strict=True):
        shared = [p for p in module.parameters() if p.requires_grad]
        expected = brute(trunk, heads, x, shared)
        trunk.zero_grad()
        z = lepton.fork(trunk(x), names, balancer=balancer, gradients="parameters", shared=module)
        sum(head(z[name]).square().mean() for name, head in zip(names, heads, strict=True)).backward()
        gramian = ledger_of(balancer).gramian
        torch.testing.assert_close(gramian, expected @ expected.T, rtol=1e-4, atol=1e-7)
        found.append(((1 / (1 + gramian.diagonal())) @ expected, [p.grad for p in shared]))
        rooms.append(ledger_of(balancer).room)
    assert rooms[0] is rooms[1]
    assert rooms[2].shape == (3, WIDTH * WIDTH + WIDTH)  # other parameters, other room
    for wanted, grads in found:  # later steps left the earlier gradients as they were
        torch.testing.assert_close(torch.cat([g.flatten() for g in grads]), wanted, rtol=1e-4, atol=1e-6)


class Held:
    """A tensor that the trunk saved for its backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # or else the graph would hold itself


def test_the_trunks_graph_is_let_go_after_backward() -> None:
    """The saved tensors of the trunk go with the backward pass, although the loss is still held."""
    kept: list[weakref.ref[Held]] = []

    def pack(tensor: Tensor) -> Held:
        held = Held(tensor)
        kept.append(weakref.ref(held))
        return held

    trunk = nn.Sequential(nn.Linear(4, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
    _, heads = parts(trunk)
    balancer = Inverse()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        features = trunk(torch.randn(3, 4))
    assert all(one() is not None for one in kept)
    z = lepton.fork(features, ["a", "b", "c"], balancer=balancer, gradients="parameters")
    loss = sum(head(z[name]).square().mean() for name, head in zip("abc", heads, strict=True))
    del features
    loss.backward()
    assert all(one() is None for one in kept)
