"""The rules of the fork: who weighs what, scale, state, absence, accumulation, values that are not finite."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lepton
from lepton.balance import MGDA, Balancer, Equal, Log, UPGrad
from lepton.errors import ConfigurationError, ForkError
from tests.conftest import Inverse, Lagging, gradients, loss_of, make_batch, make_model, parameters

VIEWS = ["features", "fork_layer", "parameters"]
NAN = math.nan


def backward(model, x, targets, scale: float = 1.0, **options):
    model.zero_grad()
    (loss_of(model, x, targets, **options) * scale).backward()
    return model


# -- who weighs what ----------------------------------------------------------------------------------------------
def test_loss_weight_multiplies_before_and_priority_after_the_balancer() -> None:
    x, targets = make_batch()
    plain = backward(make_model(Inverse()), x, targets)
    model = make_model(Inverse())
    model.loss_weight.copy_(torch.tensor([1.0, 3.0, 1.0]))
    backward(model, x, targets)
    factor = torch.tensor([1.0, 3.0, 1.0])
    torch.testing.assert_close(model.fork.gramian, plain.fork.gramian * factor[:, None] * factor[None])
    torch.testing.assert_close(model.heads["slant"].weight.grad, 3 * plain.heads["slant"].weight.grad)

    model = make_model(Inverse())
    model.priority.copy_(torch.tensor([1.0, 3.0, 1.0]))
    backward(model, x, targets)
    torch.testing.assert_close(model.fork.gramian, plain.fork.gramian)
    torch.testing.assert_close(model.fork.weights, plain.fork.weights)
    torch.testing.assert_close(model.heads["slant"].weight.grad, plain.heads["slant"].weight.grad)
    extra = backward(make_model(Inverse()), x, {"slant": targets["slant"]})
    torch.testing.assert_close(
        gradients(model.trunk), gradients(plain.trunk) + 2 * gradients(extra.trunk), rtol=1e-4, atol=1e-6
    )


def test_task_weights_are_the_loss_weights_and_work_in_a_sum_written_by_hand() -> None:
    x, targets = make_batch()
    model, other = make_model(UPGrad()), make_model(UPGrad())
    for one in (model, other):
        one.loss_weight.copy_(torch.tensor([1.0, 0.5, 2.0]))
    backward(model, x, targets)
    outputs, task_weights = other(x)
    assert task_weights.tolist() == [1.0, 0.5, 2.0]
    losses = torch.stack(
        [
            nn.functional.cross_entropy(outputs["digit"], targets["digit"]),
            (outputs["slant"] - targets["slant"]).square().mean(),
            (outputs["width"] - targets["width"]).square().mean(),
        ]
    )
    (losses * task_weights).sum().backward()
    torch.testing.assert_close(gradients(model), gradients(other))


def test_priority_of_a_loss_balancer_is_a_weight_on_the_loss() -> None:
    model = make_model(Equal())
    model.priority.copy_(torch.tensor([1.0, 5.0, 1.0]))
    assert model.task_weights().tolist() == [1.0, 5.0, 1.0]


# -- outside scale ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("scale", [2.0**16, 2.0**90, 1e-4, -1.0])
def test_a_factor_from_outside_changes_no_weight(scale: float, view: str) -> None:
    x, targets = make_batch()
    plain = backward(make_model(Inverse(), "mixed", gradients=view), x, targets)
    scaled = backward(make_model(Inverse(), "mixed", gradients=view), x, targets, scale)
    torch.testing.assert_close(scaled.fork.gramian, plain.fork.gramian, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradients(scaled) / scale, gradients(plain), rtol=1e-4, atol=1e-6)


# -- state --------------------------------------------------------------------------------------------------------
def test_state_advances_once_per_optimiser_step_and_not_for_a_skipped_one() -> None:
    x, targets = make_batch()
    model = make_model(Lagging())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    backward(model, x, targets)
    optimizer.step()
    before = copy.deepcopy(model.balancer.state_dict())
    assert before["steps"] == 1
    backward(model, x, targets)  # no optimiser step follows: GradScaler skipped it
    assert model.state_dict()["fork.balancer.steps"] == 1
    backward(model, x, targets)
    assert model.balancer.steps == 2
    optimizer.step()
    assert model.state_dict()["fork.balancer.steps"] == 2


@pytest.mark.parametrize("view", ["fork_layer", "parameters"])
def test_grad_scaler_skips_a_step_whose_overflow_lies_in_the_trunk_alone(view: str) -> None:
    """The cotangents are finite, so only the missing optimiser step tells that the state must go back."""

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return grad * math.inf

    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8))
            self.broken = False

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.layers[:2](x)
            return self.layers[2](Overflow.apply(hidden) if self.broken else hidden)

    from tests.conftest import tasks

    torch.manual_seed(0)
    model = lepton.LeptonModel(Trunk(), tasks(), balancer=Lagging(), gradients=view)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    x, targets = make_batch()
    for broken in (False, True, False):
        model.trunk.broken = broken
        before = parameters(model), model.state_dict()["fork.balancer.average"].clone()
        optimizer.zero_grad()
        scaler.scale(loss_of(model, x, targets)).backward()
        scaler.step(optimizer)
        scaler.update()
        changed = not torch.equal(before[0], parameters(model))
        assert changed is not broken
        assert torch.equal(before[1], model.state_dict()["fork.balancer.average"]) is broken
    assert scaler.get_scale() == 2.0**7


def test_overflow_behind_a_scaler_reaches_the_scaler() -> None:
    """A guard that hid the overflow would leave the scale too high for ever."""
    model = make_model(Lagging())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    x, targets = make_batch()
    before = parameters(model)
    targets = {**targets, "slant": targets["slant"] * 1e4}
    scaler.scale(loss_of(model, x, targets)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(before, parameters(model))
    assert scaler.get_scale() < 3e38
    assert model.state_dict()["fork.balancer.steps"] == 0


def test_a_copy_does_not_drive_the_original() -> None:
    x, targets = make_batch()
    model = make_model(Lagging(), gradient_accumulation_steps=2)
    twin = copy.deepcopy(model)
    assert twin.fork.gradient_accumulation_steps == 2
    backward(twin, x, targets)
    assert twin.balancer.steps == 1
    assert model.balancer.steps == 0
    assert model.fork.weights is None


def test_state_stays_float32_in_a_bfloat16_model() -> None:
    model = make_model(Lagging())
    model.balancer.average.fill_(1.2345678)
    model.bfloat16()
    assert model.balancer.average.dtype == torch.float32
    assert model.balancer.average[0] == torch.tensor(1.2345678)
    x, targets = make_batch()
    loss_of(model, x.bfloat16(), targets).backward()
    assert model.fork.gramian.dtype == torch.float32
    assert model.trunk[0].weight.grad.dtype == torch.bfloat16


def test_state_dict_restores_the_trajectory_bit_for_bit() -> None:
    def train(model, steps):
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for seed in steps:
            backward(model, *make_batch(seed=seed))
            optimizer.step()

    whole, first, second = make_model(Lagging()), make_model(Lagging()), make_model(Lagging(), seed=7)
    train(whole, range(6))
    train(first, range(3))
    second.load_state_dict(first.state_dict())
    train(second, range(3, 6))
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# -- identity, and wrong calls ------------------------------------------------------------------------------------
def test_the_fork_is_an_identity_in_eval_mode_and_without_balancing() -> None:
    x, targets = make_batch()
    plain = backward(make_model(Equal(), "mixed"), x, targets)
    model = make_model(Lagging(), "mixed")
    with lepton.no_balancing():
        backward(model, x, targets)
    torch.testing.assert_close(gradients(model), gradients(plain))
    model.eval()
    backward(model, x, targets)
    torch.testing.assert_close(gradients(model), gradients(plain))
    assert model.balancer.steps == 0
    z = torch.ones(2, 3, requires_grad=True)
    assert lepton.fork(z, ["a"], balancer=Inverse().eval())["a"] is z


@pytest.mark.parametrize("heads", ["linear", "own", "mixed"])
def test_separate_backward_calls_are_an_error_that_says_so(heads: str) -> None:
    model = make_model(MGDA(), heads)
    outputs, _ = model(make_batch()[0])
    losses = [outputs[name].square().mean() for name in model.task_names]
    losses[0].backward(retain_graph=True)
    with pytest.raises(ForkError, match=r"all tasks at once.*no_balancing"):
        losses[1].backward()


@pytest.mark.parametrize("balancer", [MGDA, Equal])
def test_an_in_place_head_is_explained(balancer) -> None:
    from lepton.tasks import Regression

    torch.manual_seed(0)
    inplace = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 1))
    other = nn.Sequential(nn.Tanh(), nn.Linear(8, 1))
    tasks = [Regression("a", head=inplace), Regression("b", head=other)]
    model = lepton.LeptonModel(nn.Linear(6, 8), tasks, balancer=balancer())
    with pytest.raises(ForkError, match=r"'a'.*inplace=True"):
        model(make_batch()[0])


def test_an_in_place_head_on_a_plain_fork_raises_too() -> None:
    z = lepton.fork(nn.Linear(3, 4)(torch.ones(2, 3)), ["a", "b"], balancer=MGDA())
    with pytest.raises(RuntimeError, match="inplace"):
        nn.ReLU(inplace=True)(z["a"])


@pytest.mark.parametrize(
    ("features", "match"),
    [
        (torch.ones(2, 3, dtype=torch.int64), "floating dtype"),
        ("text", "floating dtype"),
        (torch.ones(3, requires_grad=True), "unsqueeze"),
        (torch.ones(2, 3, dtype=torch.complex64, requires_grad=True), "floating dtype|complex"),
    ],
)
def test_features_that_the_fork_cannot_stand_on(features, match: str) -> None:
    with pytest.raises(ForkError, match=match):
        lepton.fork(features, ["a", "b"], balancer=MGDA())


def test_frozen_features_pass_through() -> None:
    z = torch.ones(2, 3)
    assert lepton.fork(z, ["a", "b"], balancer=MGDA())["b"] is z


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"gradients": "feature"}, "Did you mean 'features'"),
        ({"tasks": []}, "at least one"),
        ({"tasks": "price"}, "list of"),
        ({"tasks": ["a", "a"]}, "more than once"),
        ({"feature_dim": 5}, "feature_dim is 5"),
    ],
)
def test_wrong_options_of_a_fork(options, match: str) -> None:
    arguments = {"tasks": ["a", "b"], "balancer": MGDA(), **options}
    with pytest.raises(ConfigurationError, match=match):
        lepton.fork(torch.ones(2, 3, requires_grad=True), **arguments)


def test_one_balancer_cannot_serve_two_numbers_of_tasks() -> None:
    balancer = MGDA()
    lepton.Fork(["a", "b"], balancer)
    with pytest.raises(ConfigurationError, match="serves 2 tasks and was given 3"):
        lepton.Fork(["a", "b", "c"], balancer)


# -- absent tasks -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("heads", ["linear", "own", "mixed"])
@pytest.mark.parametrize("how", ["no key", "all missing"])
def test_an_absent_task_is_dropped_not_zeroed(how: str, heads: str, view: str) -> None:
    x, targets = make_batch()
    absent = {k: v for k, v in targets.items() if k != "slant"}
    if how == "all missing":
        absent["slant"] = torch.full((12,), NAN)
    model = backward(make_model(MGDA(), heads, gradients=view), x, absent)
    assert model.fork.weights[1] == 0
    # The same two tasks on a fork of their own.
    full = make_model(MGDA(), heads, gradients=view)
    own = [copy.deepcopy(full.tasks[name]) for name in ("digit", "width")]
    two = lepton.LeptonModel(full.trunk, own, balancer=MGDA(), gradients=view, features=8)
    two.heads.update({name: full.heads[name] for name in ("digit", "width")})
    backward(two, x, {k: targets[k] for k in ("digit", "width")})
    torch.testing.assert_close(model.fork.weights[[0, 2]], two.fork.weights)
    torch.testing.assert_close(gradients(model.trunk), gradients(two.trunk))
    slant = gradients(model.heads["slant"])
    assert torch.equal(slant, torch.zeros_like(slant))


def test_a_batch_without_any_label_does_nothing() -> None:
    model = make_model(Lagging())
    x, _ = make_batch()
    loss = loss_of(model, x, {"slant": torch.full((12,), NAN)})
    loss.backward()
    assert loss == 0
    assert gradients(model).abs().max() == 0
    assert torch.equal(model.balancer.average, torch.ones(3))


# -- means over labels, accumulation ------------------------------------------------------------------------------
def with_missing(targets, generator_seed=3):
    generator = torch.Generator().manual_seed(generator_seed)
    targets = {k: v.clone() for k, v in targets.items()}
    targets["digit"][torch.rand(12, generator=generator) < 0.4] = -100
    targets["slant"][torch.rand(12, generator=generator) < 0.4] = NAN
    return targets


@pytest.mark.parametrize("view", VIEWS)
def test_accumulation_with_label_counts_equals_one_large_batch(view: str) -> None:
    x, targets = make_batch()
    targets = with_missing(targets)
    model = make_model(Equal())
    for task in model.tasks.values():
        if hasattr(task, "label_smoothing"):
            task.label_smoothing = 0.1
    large = backward(model, x, targets)
    small = copy.deepcopy(large)
    small.zero_grad()
    criterion = lepton.MultiTaskLoss(small)
    parts = [(x[i : i + 3], {k: v[i : i + 3] for k, v in targets.items()}) for i in range(0, 12, 3)]
    counts = sum(criterion.count(part) for _, part in parts)
    for part_x, part in parts:
        outputs, task_weights = small(part_x)
        criterion(outputs, part, task_weights, label_counts=counts).backward()
    torch.testing.assert_close(gradients(small), gradients(large), rtol=1e-5, atol=1e-7)

    # The last micro-batch balances with the Gramian of the whole window, and state moves once.
    whole = backward(make_model(Lagging(), "mixed", gradients=view), x, targets)
    micro = make_model(Lagging(), "mixed", gradients=view, gradient_accumulation_steps=4)
    criterion = lepton.MultiTaskLoss(micro)
    for part_x, part in parts:
        outputs, task_weights = micro(part_x)
        criterion(outputs, part, task_weights, label_counts=counts).backward()
    torch.testing.assert_close(micro.fork.gramian, whole.fork.gramian, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(micro.balancer.average, whole.balancer.average, rtol=1e-4, atol=1e-6)
    assert micro.balancer.steps == 1


@pytest.mark.parametrize("view", VIEWS)
def test_accumulation_of_means_balances_their_mean(view: str) -> None:
    x, targets = make_batch()
    whole = backward(make_model(Inverse(), gradients=view), x, targets)
    micro = make_model(Inverse(), gradients=view, gradient_accumulation_steps=4)
    for i in range(0, 12, 3):
        (loss_of(micro, x[i : i + 3], {k: v[i : i + 3] for k, v in targets.items()}) / 4).backward()
    torch.testing.assert_close(micro.fork.gramian, whole.fork.gramian, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("view", VIEWS)
def test_a_window_ends_with_the_optimisers_step_even_if_it_is_short(view: str) -> None:
    """The rest of an epoch, as Lightning and Hugging Face step on it, must not shift all later windows."""
    model = make_model(Lagging(), gradients=view, gradient_accumulation_steps=4)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    x, targets = make_batch()
    parts = [(x[i : i + 3], {k: v[i : i + 3] for k, v in targets.items()}) for i in range(0, 12, 3)]
    for steps, size in enumerate((4, 2, 4), start=1):
        for part in parts[:size]:
            (loss_of(model, *part) / size).backward()
        optimizer.step()
        fresh = make_model(Inverse(), gradients=view)
        rows = slice(0, 3 * size)
        backward(fresh, x[rows], {k: v[rows] for k, v in targets.items()})
        torch.testing.assert_close(model.fork.gramian, fresh.fork.gramian, rtol=1e-4, atol=1e-6)
        assert model.state_dict()["fork.balancer.steps"] == steps


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("heads", ["linear", "mixed"])
def test_one_data_set_per_micro_batch(heads: str, view: str) -> None:
    """Micro-batches of different tasks: the statistics must have the same shapes in all of them."""
    x, targets = make_batch()
    kinds = [{"digit": targets["digit"][:6]}, {name: targets[name][6:] for name in ("slant", "width")}]
    model = make_model(Inverse(), heads, gradients=view, gradient_accumulation_steps=2)
    for rows, part in zip((x[:6], x[6:]), kinds, strict=True):
        (loss_of(model, rows, part) / 2).backward()
    assert (model.fork.weights > 0).all()
    if view != "features":
        whole = make_model(Inverse(), heads, gradients=view)
        nan = torch.full((6, 2), NAN)
        joint = {
            "digit": torch.cat([kinds[0]["digit"], torch.full((6,), -100)]),
            "slant": torch.cat([nan[:, 0], kinds[1]["slant"]]),
            "width": torch.cat([nan, kinds[1]["width"]]),
        }
        (loss_of(whole, x, joint) / 2).backward()
        # The mean over a micro-batch's labels is the mean over the joint batch's; accumulation halves it.
        torch.testing.assert_close(model.fork.gramian, whole.fork.gramian / 4, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("heads", ["linear", "own", "mixed"])
@pytest.mark.parametrize("name", ["digit", "slant", "width"])
def test_a_batch_with_one_task_alone(name: str, heads: str, view: str) -> None:
    x, targets = make_batch()
    model = backward(make_model(MGDA(), heads, gradients=view), x, {name: targets[name]})
    place = model.task_names.index(name)
    assert model.fork.weights.tolist() == [float(k == place) for k in range(3)]
    plain = backward(make_model(Equal(), heads), x, {name: targets[name]})
    torch.testing.assert_close(gradients(model.trunk), gradients(plain.trunk))


def test_targets_without_any_task_can_be_differentiated() -> None:
    model = make_model(MGDA())
    loss_of(model, make_batch()[0], {}).backward()
    assert gradients(model).abs().max() == 0


def test_two_forward_passes_in_one_backward_are_refused() -> None:
    model = make_model(MGDA())
    with pytest.raises(ForkError, match="two forward passes of one model"):
        (loss_of(model, *make_batch()) + loss_of(model, *make_batch(seed=1))).backward()


def test_double_backward_is_refused_with_the_way_out() -> None:
    model = make_model(MGDA())
    loss = loss_of(model, *make_batch())
    with pytest.raises(ForkError, match=r"create_graph=True.*no_balancing"):
        torch.autograd.grad(loss, list(model.trunk.parameters()), create_graph=True)


def test_a_balancer_serves_one_model_at_a_time() -> None:
    balancer = MGDA()
    model = make_model(balancer)
    with pytest.raises(ConfigurationError, match="already serves another model"):
        make_model(balancer)
    del model
    import gc

    gc.collect()
    make_model(balancer)
    with pytest.raises(ConfigurationError, match=r"instance of a balancer, such as MGDA\(\)"):
        make_model(MGDA)


def test_loading_a_state_is_not_undone_by_the_window_before_it() -> None:
    model = make_model(Lagging())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, targets = make_batch()
    backward(model, x, targets)
    optimizer.step()
    state = copy.deepcopy(model.state_dict())
    state["fork.balancer.steps"].fill_(100)
    backward(model, x, targets)
    model.load_state_dict(state)
    backward(model, x, targets)
    assert model.balancer.steps == 101


def test_saving_between_backward_and_step_loses_nothing() -> None:
    model = make_model(Lagging())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for turn in range(3):
        backward(model, *make_batch(seed=turn))
        assert model.state_dict()["fork.balancer.steps"] == turn + (turn == 0)  # the first has no step to compare with
        optimizer.step()
    assert model.state_dict()["fork.balancer.steps"] == 3


# -- values that are not finite -----------------------------------------------------------------------------------
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("heads", ["linear", "own", "mixed"])
@pytest.mark.parametrize("fault", ["label", "output", "gradient"])
def test_a_task_that_is_not_finite_leaves_the_others_untouched(fault: str, heads: str, view: str) -> None:
    x, targets = make_batch()
    healthy = backward(make_model(MGDA(), heads, gradients=view), x, {k: v for k, v in targets.items() if k != "slant"})
    model = make_model(MGDA(), heads, gradients=view)
    model.zero_grad()
    if fault == "label":
        targets = {**targets, "slant": torch.full((12,), math.inf)}
        loss_of(model, x, targets).backward()
    else:
        outputs, task_weights = model(x)
        if fault == "output":
            outputs = {**outputs, "slant": outputs["slant"] / 0.0}
        else:  # the loss is finite, its derivative is not
            root = outputs["slant"].sub(outputs["slant"].detach()).abs().sqrt()
            outputs = {**outputs, "slant": outputs["slant"] + root}
        lepton.MultiTaskLoss(model)(outputs, targets, task_weights).backward()
        assert model.fork.left_out == {"digit": 0, "slant": 1, "width": 0}
    torch.testing.assert_close(gradients(model), gradients(healthy))
    assert model.fork.weights[1] == 0


def test_the_plain_fork_selects_instead_of_multiplying() -> None:
    torch.manual_seed(0)
    trunk = nn.Linear(3, 4)
    z = lepton.fork(trunk(torch.ones(2, 3)), ["a", "b"], balancer=MGDA())
    (z["a"].square().sum() + (z["b"] * math.inf).sum()).backward()
    assert torch.isfinite(trunk.weight.grad).all()
    assert trunk.weight.grad.abs().max() > 0


# -- no host synchronisation --------------------------------------------------------------------------------------
@pytest.mark.parametrize("heads", ["linear", "own", "mixed"])
@pytest.mark.parametrize("make", [MGDA, UPGrad, lambda: Log(MGDA()), Lagging])
def test_a_step_reads_nothing_from_the_device(make, heads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On fake tensors every data-dependent read raises."""
    model = make_model(make(), heads)
    # The handle is a tensor of the CPU by design, so reading it waits for no device; the fake mode cannot know that.
    monkeypatch.setattr(Balancer, "of", staticmethod(lambda handle: model.balancer))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in model.modules():
            for name, value in module._parameters.items():
                module._parameters[name] = None if value is None else nn.Parameter(mode.from_tensor(value.detach()))
            for name, value in module._buffers.items():
                module._buffers[name] = None if value is None else mode.from_tensor(value)
        x = torch.ones(12, 6)
        targets = {
            "digit": torch.ones(12, dtype=torch.int64),
            "slant": torch.ones(12),
            "width": torch.ones(12, 2),
        }
        outputs, task_weights = model(x)
        lepton.MultiTaskLoss(model)(outputs, targets, task_weights).backward()
        assert model.trunk[0].weight.grad.shape == (16, 6)
        assert model.fork.weights.shape == (3,)
