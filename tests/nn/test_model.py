"""LeptonModel and MultiTaskLoss: trunks and heads of all kinds, many tasks, wrong input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import lepton
import lepton.errors
from lepton.balance import IMTLG, MGDA, Equal
from lepton.errors import ConfigurationError, TargetError
from lepton.nn import _model as model_module
from lepton.tasks import Classification, MultiLabel, Regression, Segmentation
from lepton.train import TrainStep
from tests.conftest import Inverse, gradients, loss_of, make_batch, make_model, parameters, tasks, trunk


# -- many tasks ---------------------------------------------------------------------------------------------------
def many(n: int = 70, balancer=None, seed: int = 0):
    torch.manual_seed(seed)
    own = [Regression(f"r{i}") if i % 2 else Classification(f"c{i}", 3) for i in range(n)]
    model = lepton.LeptonModel(trunk(), own, balancer=balancer or Inverse())
    x = torch.randn(9, 6)
    targets = {t.name: torch.randn(9) if isinstance(t, Regression) else torch.randint(0, 3, (9,)) for t in own}
    return model, x, targets


def test_many_linear_heads_are_one_parameter_and_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    stacked, x, targets = many()
    monkeypatch.setattr(model_module, "STACK_SIZE", 1000)
    single, _, _ = many()
    assert stacked.stacked_heads.weight.shape == (35 * 3 + 35, 8)
    assert not hasattr(single, "stacked_heads")
    for name in stacked.task_names:
        assert torch.equal(stacked.heads[name].weight, single.heads[name].weight)
    for model in (stacked, single):
        loss_of(model, x, targets).backward()
    torch.testing.assert_close(gradients(stacked.trunk), gradients(single.trunk))
    torch.testing.assert_close(stacked.fork.gramian, single.fork.gramian)
    together = torch.cat([single.heads[name].weight.grad for name in single.task_names])
    torch.testing.assert_close(stacked.stacked_heads.weight.grad, together)
    assert "stacked_heads.weight" in stacked.state_dict()
    twin = copy.deepcopy(stacked)
    assert twin.heads["c0"].stack is twin.stacked_heads
    assert twin.heads["c0"].stack is not stacked.stacked_heads


def test_one_head_of_a_stack_can_be_called() -> None:
    model, x, _ = many()
    outputs, _ = model.eval()(x)
    torch.testing.assert_close(model.heads["c2"](model.trunk(x)), outputs["c2"])


def test_idle_rows_of_a_stack_do_not_drift() -> None:
    model, x, targets = many(balancer=Equal())
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)
    step = TrainStep(model, optimizer)
    step([(x, targets)])
    weight = model.stacked_heads.weight
    idle = model.heads["r1"].rows
    before = weight[idle].clone(), optimizer.state[weight]["exp_avg"][idle].clone(), weight[0].clone()
    step([(x, {name: target for name, target in targets.items() if name != "r1"})])
    assert torch.equal(before[0], weight[idle])
    assert torch.equal(before[1], optimizer.state[weight]["exp_avg"][idle])
    assert not torch.equal(before[2], weight[0])


def test_a_stack_takes_no_more_memory_than_it_must() -> None:
    """No tensor [T, B, D] is made, whatever the number of tasks."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return result

    n_tasks, rows = 200, 64
    torch.manual_seed(0)
    for balancer in (MGDA(), IMTLG()):
        own = [Regression(f"t{i}") for i in range(n_tasks)]
        model = lepton.LeptonModel(nn.Linear(6, 32), own, balancer=balancer)
        targets = {task.name: torch.randn(rows) for task in own}
        with Largest() as largest:
            loss_of(model, torch.randn(rows, 6), targets).backward()
        assert largest.elements <= n_tasks**2


# -- trunks and heads ---------------------------------------------------------------------------------------------
def test_linear_heads_read_the_mean_of_a_feature_map() -> None:
    torch.manual_seed(0)
    own = [Classification("scene", 4), Segmentation("pixels", 3), Regression("depth")]
    model = lepton.LeptonModel(nn.Conv2d(3, 8, 3, padding=1), own, balancer=Inverse())
    x = torch.randn(2, 3, 6, 5)
    outputs, _ = model(x)
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "scene": (2, 4),
        "pixels": (2, 3, 6, 5),
        "depth": (2,),
    }
    expected = model.heads["scene"](model.trunk(x).mean((2, 3)))
    torch.testing.assert_close(outputs["scene"], expected)


def test_a_mapping_of_inputs_is_spread_over_the_trunk() -> None:
    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 8)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.layer(left - right)

    model = lepton.LeptonModel(Trunk(), [Regression("a")])
    x = torch.randn(3, 4)
    torch.testing.assert_close(model({"left": x, "right": 0 * x})[0]["a"], model.heads["a"](model.trunk.layer(x))[:, 0])


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 7), nn.ReLU()), 7),
        (lambda: nn.GRU(4, 5, bidirectional=True), 10),
        (lambda: nn.Sequential(nn.Conv2d(1, 6, 1), nn.ReLU()), 6),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)), 3),
    ],
)
def test_the_number_of_features_is_read_off_the_trunk(make, size: int) -> None:
    assert lepton.LeptonModel(make(), [Regression("a")]).heads["a"].in_features == size


def test_a_trunk_whose_features_are_not_known() -> None:
    with pytest.raises(ConfigurationError, match=r"pass features="):
        lepton.LeptonModel(nn.ReLU(), [Regression("a")])
    wrong = lepton.LeptonModel(nn.Sequential(nn.Linear(4, 6), nn.Flatten(0)), [Regression("a")], features=5)
    with pytest.raises(lepton.errors.ForkError, match=r"features with a batch"):
        wrong(torch.randn(3, 4))
    wrong = lepton.LeptonModel(nn.Linear(4, 6), [Regression("a")], features=5)
    with pytest.raises(ConfigurationError, match=r"head of 'a' was built for 5: pass features=6"):
        wrong(torch.randn(3, 4))


def test_task_names_must_differ() -> None:
    with pytest.raises(ConfigurationError, match="more than once"):
        lepton.LeptonModel(trunk(), [Regression("a"), Regression("a")])


def test_hooks_and_subclasses_of_a_linear_head_are_not_bypassed() -> None:
    model = make_model(MGDA())
    model.heads["slant"].register_forward_hook(lambda module, inputs, output: output * 0)
    outputs, _ = model(make_batch()[0])
    assert outputs["slant"].abs().max() == 0
    assert outputs["digit"].abs().max() > 0


@pytest.mark.parametrize("balancer", [Equal, MGDA])
@pytest.mark.parametrize(
    "features", [None, 3, "text", torch.ones(2, 3, dtype=torch.int64), torch.ones(2).requires_grad_()]
)
def test_features_that_no_head_can_read(features, balancer) -> None:
    class Trunk(nn.Module):
        def forward(self, x: Tensor):
            return features

    model = lepton.LeptonModel(Trunk(), [Regression("a")], balancer=balancer(), features=3)
    with pytest.raises(lepton.errors.ForkError, match=r"floating dtype|unsqueeze|one tensor"):
        model(torch.ones(2, 3))


def test_a_replaced_head_is_used_at_once() -> None:
    model = make_model(MGDA())
    x, targets = make_batch()
    loss_of(model, x, targets).backward()
    model.heads["slant"] = nn.Linear(8, 1)
    loss_of(model, x, targets).backward()
    assert model.heads["slant"].weight.grad is not None
    torch.testing.assert_close(model(x)[0]["slant"], model.heads["slant"](model.trunk(x))[:, 0])


@pytest.mark.parametrize("name", ["type", "items", "train", "forward", "training", "a b", "é", "_modules"])
def test_any_name_but_a_dotted_one_can_name_a_task(name: str) -> None:
    model = lepton.LeptonModel(trunk(), [Regression(name), Regression("other")], balancer=MGDA())
    loss_of(model, torch.randn(4, 6), {name: torch.randn(4), "other": torch.randn(4)}).backward()
    again = lepton.LeptonModel(trunk(), [Regression(name), Regression("other")], balancer=MGDA())
    again.load_state_dict(model.state_dict())
    assert torch.equal(parameters(model), parameters(again))


@pytest.mark.parametrize("balancer", [Equal, MGDA])
def test_a_trunk_that_returns_no_single_tensor_is_explained(balancer) -> None:
    model = lepton.LeptonModel(nn.LSTM(4, 8), [Regression("a")], balancer=balancer())
    with pytest.raises(lepton.errors.ForkError, match=r"head of 'a' needs one tensor.*output="):
        model(torch.randn(3, 5, 4))


def test_a_named_output_of_the_trunk() -> None:
    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 8)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"z": self.layer(x), "other": x}

    model = lepton.LeptonModel(Trunk(), [Regression("a")], features=8, output="z")
    assert model(torch.randn(2, 4))[0]["a"].shape == (2,)
    model = lepton.LeptonModel(Trunk(), [Regression("a")], features=8, output="y")
    with pytest.raises(ConfigurationError, match=r"no output 'y'; it gave \['z', 'other'\]"):
        model(torch.randn(2, 4))


# -- chains -------------------------------------------------------------------------------------------------------
def chained(detach: bool):
    torch.manual_seed(0)
    chain = lepton.Chain("digit", nn.Linear(8 + 3, 1), detach=detach)
    own = [Classification("digit", 3), Regression("slant", head=chain)]
    return lepton.LeptonModel(trunk(), own, balancer=Inverse(), gradients="fork_layer")


def test_a_chain_detaches_by_default_so_that_no_loss_leaks_into_another_branch() -> None:
    x, targets = make_batch()
    targets = {name: targets[name] for name in ("digit", "slant")}
    model = chained(detach=True)
    loss_of(model, x, targets).backward()
    alone = chained(detach=True)
    loss_of(alone, x, {"digit": targets["digit"]}).backward()
    torch.testing.assert_close(gradients(model.heads["digit"]), gradients(alone.heads["digit"]))
    torch.testing.assert_close(model.fork.gramian[0, 0], alone.fork.gramian[0, 0])


def test_a_chain_that_does_not_detach_counts_everything_for_its_own_task() -> None:
    x, targets = make_batch()
    targets = {name: targets[name] for name in ("digit", "slant")}
    model = chained(detach=False)
    loss_of(model, x, targets).backward()
    z = model.trunk(x).detach().requires_grad_()
    output = model.heads["slant"](z, {}, model.heads["digit"])[:, 0]
    c = torch.autograd.grad((output - targets["slant"]).square().mean(), z)[0]
    layer = z.detach().T @ c
    torch.testing.assert_close(model.fork.gramian[1, 1], layer.square().sum(), rtol=1e-4, atol=1e-6)
    alone = chained(detach=False)
    loss_of(alone, x, {"digit": targets["digit"]}).backward()
    torch.testing.assert_close(model.fork.gramian[0, 0], alone.fork.gramian[0, 0])
    assert not torch.allclose(gradients(model.heads["digit"]), gradients(alone.heads["digit"]))  # it learns from both


def test_a_chain_must_come_after_its_upstream_task() -> None:
    chain = lepton.Chain("digit", nn.Linear(11, 1))
    with pytest.raises(ConfigurationError, match="reads the output of 'digit', which is not among the tasks before"):
        lepton.LeptonModel(trunk(), [Regression("slant", head=chain), Classification("digit", 3)])


# -- wrong targets ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "target", "match"),
    [
        ("slent", torch.zeros(12), r"holds? 'slent'.*Did you mean 'slant'"),
        ("slant", torch.zeros(12, 1), r"'slant'.*squeeze"),
        ("slant", torch.zeros(11), "'slant'"),
        ("digit", torch.zeros(12), r"'digit'.*class indices"),
        ("digit", torch.full((12,), 3), r"'digit'.*value 3.*0 to 2"),
        ("digit", torch.zeros(12, 3), r"'digit'"),
        ("width", torch.zeros(12), "'width'"),
    ],
)
def test_targets_that_do_not_fit(name: str, target: Tensor, match: str) -> None:
    model = make_model(MGDA())
    x, targets = make_batch()
    with pytest.raises(TargetError, match=match):
        loss_of(model, x, {**targets, name: target})


def test_in_a_group_the_wrong_task_is_named() -> None:
    own = [Classification(f"c{i}", 3) for i in range(4)]
    model = lepton.LeptonModel(trunk(), own)
    targets = {task.name: torch.zeros(5, dtype=torch.int64) for task in own}
    targets["c2"][3] = 7
    with pytest.raises(TargetError, match=r"'c2'.*value 7"):
        loss_of(model, torch.randn(5, 6), targets)


def test_outputs_must_be_the_models() -> None:
    model = make_model(MGDA())
    x, targets = make_batch()
    outputs, task_weights = model(x)
    del outputs["slant"]
    with pytest.raises(TargetError, match="no 'slant'"):
        lepton.MultiTaskLoss(model)(outputs, targets, task_weights)


def test_the_criterion_needs_a_lepton_model() -> None:
    with pytest.raises(ConfigurationError, match="needs a LeptonModel, but got Linear"):
        lepton.MultiTaskLoss(nn.Linear(2, 2))


def test_groups_of_equal_tasks_compute_what_each_computes_alone() -> None:
    torch.manual_seed(0)
    own = [Regression(f"r{i}", mean=float(i), std=1.0 + i) for i in range(5)] + [MultiLabel("m", 3), MultiLabel("n", 3)]
    model = lepton.LeptonModel(trunk(), own)
    x = torch.randn(8, 6)
    targets = {
        t.name: torch.randn(8) if isinstance(t, Regression) else torch.randint(0, 2, (8, 3)).float() for t in own
    }
    targets["r1"][:3] = math.nan
    targets["n"][2:5, 1] = math.nan
    criterion = lepton.MultiTaskLoss(model)
    outputs, task_weights = model(x)
    criterion(outputs, targets, task_weights)
    for task in own:
        total, count = task.total_loss(outputs[task.name], targets[task.name])
        torch.testing.assert_close(criterion.losses[task.name], (total / count).detach())


def test_label_smoothing_divides_by_the_labels_of_the_whole_batch() -> None:
    own = [Classification("digit", 3, label_smoothing=0.2)]
    torch.manual_seed(0)
    model = lepton.LeptonModel(trunk(), own)
    x, targets = make_batch()
    targets["digit"][::4] = -100
    outputs, task_weights = model(x)
    loss = lepton.MultiTaskLoss(model)(outputs, {"digit": targets["digit"]}, task_weights)
    expected = nn.functional.cross_entropy(outputs["digit"], targets["digit"], label_smoothing=0.2, ignore_index=-100)
    torch.testing.assert_close(loss, expected)


def test_loading_a_state_dict_restores_outputs() -> None:
    model = make_model(MGDA(), "mixed")
    for name in ("slant", "width"):
        model.task(name).fit_statistics(make_batch()[1][name])
    other = lepton.LeptonModel(trunk(), tasks("mixed"), balancer=MGDA())
    other.load_state_dict(model.state_dict())
    assert torch.equal(parameters(model), parameters(other))
    x, _ = make_batch()
    for name, output in model.eval()(x)[0].items():
        assert torch.equal(output, other.eval()(x)[0][name])
