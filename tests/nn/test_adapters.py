"""Adapters for single tasks: the other tasks' outputs stay the same, bit for bit, whatever trains the new one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lepton
from lepton.balance import MGDA, Balancer, Equal, UPGrad
from lepton.errors import ConfigurationError, DataError, ForkError
from lepton.nn import (
    AdaptedTrunk,
    Adapter,
    ConvTrunk,
    LeptonModel,
    ReadingHead,
    TabularTrunk,
    TransformerTrunk,
    add_adapter,
    add_lora,
    freeze,
    layer_rates,
    use_adapter,
)
from lepton.tasks import Classification, Regression, Task
from lepton.train import TrainStep

OLD = [("a", 2), ("b", 3), ("c", 2), ("d", 4)]
ADAPTERS = {
    "lora": lambda trunk: add_lora(trunk, "new", rank=2),
    "adapter": lambda trunk: add_adapter(trunk, "new", size=3),
}


class Pooled(nn.Module):
    """The mean over a text's positions of a transformer's states; its blocks give tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TransformerTrunk(20, width=8, depth=2, heads=2)
        self.out_features = 8

    def forward(self, tokens: Tensor) -> Tensor:
        return self.transformer(tokens).mean(1)


class Table(nn.Module):
    """A trunk with a norm that keeps statistics of the batches, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 24), nn.Tanh()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def old_tasks() -> list[Task]:
    return [*(Classification(name, classes=classes) for name, classes in OLD), Regression("e")]


def table_model() -> LeptonModel:
    """Five tasks, whose statistics of the batches are no longer those of the beginning."""
    model = LeptonModel(Table(), old_tasks())
    model.train()
    for _ in range(5):
        model(3 * torch.randn(40, 6) + 1)
    return model.eval()


def with_new(model: LeptonModel, kind: str, balancer: Balancer | None = None, **options: Any) -> LeptonModel:
    trunk = copy.deepcopy(model.trunk)
    freeze(trunk)
    ADAPTERS[kind](trunk)
    adapted = AdaptedTrunk(trunk, {**dict.fromkeys(model.task_names), "new": "new"})
    found = LeptonModel(adapted, [*old_tasks(), Classification("new", classes=3)], balancer=balancer, **options)
    for name in model.task_names:
        found.heads[name].load_state_dict(model.heads[name].state_dict())
    return found


@pytest.mark.parametrize("rows", [1, 7, 128])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_old_outputs_stay_the_same_bit_for_bit(kind: str, rows: int) -> None:
    model = table_model()
    x = torch.randn(rows, 6)
    before = model(x)[0]
    found = with_new(model, kind)
    criterion = lepton.MultiTaskLoss(found)
    optimizer = torch.optim.AdamW([p for p in found.parameters() if p.requires_grad], lr=0.05)
    found.train()
    losses = []
    for _ in range(30):
        inputs, target = torch.randn(64, 6) - 1, torch.arange(64) % 3
        inputs[:, 0] += 4 * target
        outputs, task_weights = found(inputs)
        loss = criterion(outputs, {"new": target}, task_weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    after = found.eval()(x)[0]
    for name in model.task_names:
        assert torch.equal(after[name], before[name]), name
        assert torch.equal(found.outputs_of(x, [name])[name], model.outputs_of(x, [name])[name])
    with use_adapter(found.trunk.trunk, "new"):
        assert not torch.allclose(found.trunk.trunk(x), model.trunk(x), atol=1e-3)


def test_the_heads_of_tasks_on_one_pass_are_one_product() -> None:
    """What makes the test above mean something: single products differ in the last bit on some machine or size."""
    found = with_new(table_model(), "lora").eval()
    features = found.features(torch.randn(5, 6))
    assert found._layout(features).fused == tuple(name for name in found.task_names if name != "new")
    assert found.train()._layout(features).fused == ()


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("view", ["fork_layer", "parameters"])
@pytest.mark.parametrize("balancer", [Equal, UPGrad, MGDA])
def test_a_task_that_learns_nothing_upstream_is_absent_at_the_fork(kind: str, view: str, balancer: Any) -> None:
    model = with_new(table_model(), kind, balancer(), gradients=view)
    model.train()
    freeze_dropout(model)
    x = torch.randn(12, 6)
    targets: dict[str, Tensor] = {name: torch.arange(12) % classes for name, classes in [*OLD, ("new", 3)]}
    outputs, task_weights = model(x)
    lepton.MultiTaskLoss(model)(outputs, targets | {"e": torch.randn(12)}, task_weights).backward()
    if balancer is not Equal:
        assert (model.fork.weights[:-1] == 0).all() and (model.fork.gramian[:-1] == 0).all()
        assert float(model.fork.weights[-1]) == pytest.approx(1.0)
    assert all(model.heads[name].weight.grad.any() for name in model.task_names)
    single = with_new(table_model(), kind)
    single.load_state_dict(model.state_dict(), strict=False)
    freeze_dropout(single.train())
    with use_adapter(single.trunk.trunk, "new"):
        F.cross_entropy(single.heads["new"](single.trunk.trunk(x)), targets["new"]).backward()
    for (name, p), q in zip(model.trunk.named_parameters(), single.trunk.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) == ("adapters" not in name)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)


def freeze_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()


@pytest.mark.parametrize("view", ["fork_layer", "parameters"])
def test_a_trunk_that_learns_is_balanced_over_its_passes(view: str) -> None:
    """Against two passes by hand, whose gradients MGDA weighs in the view of all parameters."""
    trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8)).double()
    add_lora(trunk, "b")
    nn.init.normal_(trunk[2].adapters["b"].B, std=0.3)
    model = LeptonModel(
        AdaptedTrunk(trunk, {"a": None, "b": "b"}),
        [Classification("a", classes=2), Classification("b", classes=3)],
        balancer=MGDA(),
        gradients=view,
    ).double()
    x, targets = torch.randn(9, 6).double(), {"a": torch.arange(9) % 2, "b": torch.arange(9) % 3}
    outputs, task_weights = model(x)
    lepton.MultiTaskLoss(model)(outputs, targets, task_weights).backward()
    alone = []
    parameters = list(trunk.parameters())
    for name, adapter in (("a", None), ("b", "b")):
        with use_adapter(trunk, adapter):
            loss = F.cross_entropy(model.heads[name](trunk(x)), targets[name])
            alone.append(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
    weights = model.fork.weights.double()
    for p, *each in zip(parameters, *alone, strict=True):
        expected = weights[0] * each[0] + weights[1] * each[1]
        torch.testing.assert_close(torch.zeros_like(p) if p.grad is None else p.grad, expected, rtol=1e-5, atol=1e-8)
    if view == "parameters":
        flat = [torch.cat([g.flatten() for g in each]) for each in alone]
        gramian = torch.stack([torch.stack([g @ h for h in flat]) for g in flat])
        torch.testing.assert_close(model.fork.gramian.double(), gramian, rtol=1e-5, atol=1e-8)


def test_features_of_unlike_structure_are_refused() -> None:
    class Odd(nn.Module):
        out_features = 4

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"a": (x, x.clone().requires_grad_()), "b": x}

    model = LeptonModel(Odd(), [Classification("a", classes=2), Classification("b", classes=3)])
    with pytest.raises(ForkError, match="must have the same structure"):
        model.train()(torch.randn(2, 4))


def test_one_step_of_the_trainer_leaves_the_old_heads_alone() -> None:
    model = with_new(table_model(), "lora")
    before = copy.deepcopy(model.state_dict())
    step = TrainStep(model.train(), torch.optim.AdamW(model.parameters(), lr=0.1))
    for _ in range(3):
        step([(torch.randn(16, 6), {"new": torch.arange(16) % 3})])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "adapters" in name or name.startswith("heads.new")}


@pytest.mark.parametrize(
    ("trunk", "inputs"),
    [
        (lambda: ConvTrunk(1, width=8, stages=2, blocks=1), torch.rand(3, 1, 8, 8)),
        (lambda: ConvTrunk(1, width=8, stages=2, blocks=1, norm="group"), torch.rand(3, 1, 8, 8)),
        (
            lambda: TabularTrunk([[0.0, 1.0, 2.0]], [4], width=8, depth=2),
            {"numbers": torch.randn(3, 1), "missing": torch.zeros(3, 1), "categories": torch.tensor([[0], [3], [1]])},
        ),
        (lambda: Pooled(), {"tokens": torch.randint(1, 20, (3, 5))}),
    ],
)
def test_trunks_of_the_house_take_adapters(trunk: Any, inputs: Any) -> None:
    plain = LeptonModel(trunk(), [Classification("a", classes=2), Classification("b", classes=3)])
    before = plain.eval()(inputs)[0]
    for name, adapt in ADAPTERS.items():
        net = copy.deepcopy(plain.trunk)
        freeze(net)
        adapt(net)
        tasks = [Classification("a", classes=2), Classification("b", classes=3), Classification("new", classes=2)]
        model = LeptonModel(AdaptedTrunk(net, {"a": None, "b": None, "new": "new"}), tasks)
        for task in ("a", "b"):
            model.heads[task].load_state_dict(plain.heads[task].state_dict())
        model.train()
        outputs, task_weights = model(inputs)
        lepton.MultiTaskLoss(model)(outputs, {"new": torch.tensor([0, 1, 1])}, task_weights).backward()
        assert {n for n, p in model.trunk.named_parameters() if p.grad is not None} == {
            n for n, _ in model.trunk.named_parameters() if "adapters" in n
        }
        after = model.eval()(inputs)[0]
        assert all(torch.equal(after[task], before[task]) for task in ("a", "b")), name


def test_an_adapter_follows_the_formula() -> None:
    block = Adapter(nn.Sequential(nn.Linear(4, 6), nn.Tanh()).double())
    block.add("a", size=3)
    x = torch.randn(5, 4).double()
    y = block.base(x)
    assert torch.equal(block(x), y)
    block.active = "a"
    assert 0 < (block(x) - y).abs().max() < 0.01
    down, up = block.adapters["a"].down, block.adapters["a"].up
    assert down.weight.shape == (3, 6) and max(down.weight.abs().max(), up.weight.abs().max()) <= 0.02
    for p in block.adapters["a"].parameters():
        nn.init.normal_(p)
    hidden = (y @ down.weight.T + down.bias).clamp(min=0)
    torch.testing.assert_close(block(x), y + hidden @ up.weight.T + up.bias)


def test_an_adapter_on_a_feature_map_and_on_a_tuple() -> None:
    block = Adapter(nn.Conv2d(2, 5, 3))
    block.add("a", size=2)
    block.active = "a"
    nn.init.normal_(block.adapters["a"].up.weight)
    nn.init.normal_(block.adapters["a"].down.weight)
    x = torch.randn(2, 2, 6, 7)
    y = block.base(x)
    pair = block.adapters["a"]
    expected = y + F.conv2d(F.relu(F.conv2d(y, pair.down.weight[..., None, None])), pair.up.weight[..., None, None])
    torch.testing.assert_close(block(x), expected)

    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return x, "beside"

    pair = Adapter(Two(), features=3)
    pair.add("a")
    pair.active = "a"
    found, beside = pair(torch.ones(2, 3))
    assert found.shape == (2, 3) and beside == "beside" and not torch.equal(found, torch.ones(2, 3))


def test_inputs_by_name_and_beside_the_trunk() -> None:
    class Beside(ReadingHead):
        inputs = ("extra",)

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(9, 1)

        def forward(self, features: Tensor, context: Any) -> Tensor:
            return self.linear(torch.cat([features, context["extra"]], 1))

    trunk = Pooled()
    freeze(trunk)
    add_lora(trunk, "new")
    adapted = AdaptedTrunk(trunk, {"old": None, "new": "new"})
    model = LeptonModel(adapted, [Regression("old"), Regression("new", head=Beside())])
    assert model({"tokens": torch.ones(5, 4, dtype=torch.int64), "extra": torch.ones(5, 1)})[0]["new"].shape == (5,)
    assert model.heads["old"].in_features == 8
    with pytest.raises(DataError, match="a mapping of inputs calls"):
        model({"token": torch.ones(5, 4, dtype=torch.int64), "extra": torch.ones(5, 1)})


def test_frozen_norms_keep_their_statistics_until_they_learn_again() -> None:
    model = table_model()
    norm = model.trunk.layers[1]
    assert freeze(model.trunk) == sum(p.numel() for p in model.trunk.parameters())
    assert not any(p.requires_grad for p in model.trunk.parameters())
    freeze_dropout(model.train())
    for module in (model, copy.deepcopy(model)):
        held = module.trunk.layers[1]
        before = held.running_mean.clone()
        x = torch.randn(9, 6) * 7
        features = module.trunk(x)
        assert torch.equal(held.running_mean, before) and not held.training
        assert torch.equal(features, module.eval().trunk(x))
        module.train()
        freeze_dropout(module)
    norm.requires_grad_(True)
    model.train()(torch.randn(9, 6))
    assert not torch.equal(norm.running_mean, before) and norm.training


def test_freezing_by_depth() -> None:
    trunk = ConvTrunk(1, width=4, stages=3, blocks=1)
    count = freeze(trunk, depth=2)
    frozen = {name for name, p in trunk.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in trunk.named_parameters() if n.startswith(("stem", "stages.0", "stages.1"))}
    assert count == sum(p.numel() for p in trunk.parameters() if not p.requires_grad)
    trunk.train()(torch.rand(2, 1, 16, 16))
    assert {n.rpartition(".")[0].partition(".layers")[0] for n, b in trunk.named_buffers() if "tracked" in n and b} == {
        "stages.2"
    } | {n.rpartition(".")[0] for n, b in trunk.named_buffers() if n.startswith("stages.2.beside") and "tracked" in n}
    assert freeze(trunk, depth=0) == 0
    with pytest.raises(ConfigurationError, match=r"depth is 4, but the trunk has 3 blocks"):
        freeze(trunk, depth=4)
    with pytest.raises(ConfigurationError, match=r"no nn.Sequential and no nn.ModuleList"):
        freeze(nn.Linear(2, 2), depth=1)
    with pytest.raises(ConfigurationError, match="depth must be"):
        freeze(trunk, depth=-1)


def test_the_rates_of_layers_fall_from_the_last_block_to_the_stem() -> None:
    trunk = TransformerTrunk(20, width=8, depth=3, heads=2)
    groups = layer_rates(trunk, 1e-2, 0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups) == len(list(trunk.parameters()))
    named = dict(trunk.named_parameters())
    for block, rate in ((2, 1e-2), (1, 5e-3), (0, 2.5e-3)):
        inside = [name for name in named if f".{block}." in f".{name}"]
        assert inside and all(rates[id(named[name])] == rate for name in inside)
    assert rates[id(next(trunk.parameters()))] == 1.25e-3
    torch.optim.AdamW(groups)
    freeze(trunk, depth=1)
    assert {group["lr"] for group in layer_rates(trunk, 1e-2, 0.5)} == {1e-2, 5e-3}
    with pytest.raises(ConfigurationError, match=r"decay must be a number in \(0, 1\]"):
        layer_rates(trunk, 1e-2, 1.5)


def test_what_is_refused() -> None:
    trunk = nn.Sequential(nn.Linear(2, 4), nn.ReLU())
    add_lora(trunk, "fifth")
    with pytest.raises(ConfigurationError, match=r"'b' is 'fith', which the trunk does not have.*'fifth'"):
        AdaptedTrunk(trunk, {"a": None, "b": "fith"})
    with pytest.raises(ConfigurationError, match="adapters must be a mapping"):
        AdaptedTrunk(trunk, {})
    with pytest.raises(ConfigurationError, match=r"is one already: pass its \.trunk"):
        AdaptedTrunk(AdaptedTrunk(trunk, {"a": None}), {"a": None})
    with (
        pytest.raises(ConfigurationError, match=r"no adapter 'b'; the adapters are \['fifth'\]"),
        use_adapter(trunk, "b"),
    ):
        pass
    with pytest.raises(ConfigurationError, match=r"\['0'\] already have an adapter 'fifth'"):
        add_adapter(trunk, "fifth", targets=["0"])
    with pytest.raises(ConfigurationError, match="no layer '7'"):
        add_adapter(trunk, "sixth", targets=["7"])
    with pytest.raises(ConfigurationError, match="size must be"):
        add_adapter(nn.Sequential(nn.Linear(2, 2)), "a", size=0)


def test_an_error_inside_gives_the_adapters_back() -> None:
    trunk = nn.Sequential(nn.Linear(2, 4))
    add_lora(trunk, "a")
    with pytest.raises(ZeroDivisionError), use_adapter(trunk, "a"):
        assert trunk[0].active == "a"
        raise ZeroDivisionError
    assert trunk[0].active is None
