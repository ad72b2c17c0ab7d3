"""Bad input to trunk, heads and criterion: the message names the task, what was seen and the way out."""

from __future__ import annotations

import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lepton
from lepton.balance import MGDA, Equal, LearnedWeights, Log, Uncertainty
from lepton.errors import ConfigurationError, DataError, ForkError, TargetError
from lepton.tasks import Classification, Regression, Segmentation, Task
from tests.conftest import loss_of, make_batch, make_model, own_head, tasks, trunk

both = pytest.mark.parametrize("balancer", [Equal, MGDA])


class Returns(nn.Module):
    """A trunk that returns what it is told, in a graph of its own."""

    def __init__(self, make) -> None:
        super().__init__()
        self.make = make
        self.layer = nn.Linear(4, 8)

    def forward(self, x: Tensor):
        return self.make(self.layer(x))


# -- options ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {"features": "8"},
        {"features": 8.0},
        {"feature_dim": "last"},
        {"shared": "trunk"},
        {"shared": 5},
        {"gradients": ["fork_layer"]},
        {"gradient_accumulation_steps": "2"},
        {"gradient_accumulation_steps": True},
    ],
    ids=str,
)
def test_options_of_another_type(options) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(ConfigurationError) as caught:
        lepton.LeptonModel(trunk(), [Regression("a")], **{"gradients": "parameters", **options})
    assert name in str(caught.value) and repr(value) in str(caught.value)


@pytest.mark.parametrize("bound", ["1", True, float("nan"), [1.0], 0])
def test_a_bound_that_is_no_number(bound) -> None:
    with pytest.raises(ConfigurationError, match="max_task_grad_norm must be a number"):
        lepton.Fork(["a"], MGDA(), max_task_grad_norm=bound)


@pytest.mark.parametrize("wrong", [Regression("a"), "price", 5, None, ["price"]])
def test_tasks_that_are_no_list_of_tasks(wrong) -> None:
    with pytest.raises(ConfigurationError, match=r"takes a module and a list of tasks"):
        lepton.LeptonModel(trunk(), wrong)


def test_tasks_may_come_from_a_generator() -> None:
    model = lepton.LeptonModel(trunk(), (Regression(name) for name in "ab"))
    assert model.task_names == ("a", "b")


# -- trunk --------------------------------------------------------------------------------------------------------
@both
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [lambda z: None, lambda z: z.shape, lambda z: {"z": z}], ids=["None", "ints", "dict"])
def test_a_trunk_that_returns_no_tensor(make, training: bool, balancer) -> None:
    model = lepton.LeptonModel(Returns(make), [Regression("a")], balancer=balancer()).train(training)
    with pytest.raises(ForkError, match=r"floating dtype|head of 'a' needs one tensor"):
        model(torch.randn(2, 4))


@both
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda z: z.to_sparse(), r"dense features.*sparse_coo.*to_dense"),
        (lambda z: torch.complex(z, z), r"floating dtype.*complex64"),
        (lambda z: z.double(), r"features \[2, 8\] in torch.float64.*head of 'a' is in torch.float32.*model.to"),
        (lambda z: z.to("meta"), r"in meta, but the head of 'a' is in cpu"),
    ],
)
def test_features_that_heads_cannot_take(make, match: str, balancer) -> None:
    model = lepton.LeptonModel(Returns(make), [Regression("a"), Regression("b")], balancer=balancer())
    with pytest.raises(ForkError, match=match):
        model(torch.randn(2, 4))


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (torch.randn(2, 6, device="meta"), r"on meta, the model is on cpu: move them"),
        (torch.randn(2, 6).double(), r"torch.float64, the model's parameters torch.float32: cast them"),
        (np.zeros((2, 6), dtype=np.float32), r"numpy.ndarray where a tensor is needed: use torch.as_tensor"),
        ({"x": torch.randn(2, 6)}, r"calls trunk\(\*\*inputs\), but .*; it takes \(input\).* and got \['x'\]"),
    ],
    ids=["device", "dtype", "array", "names"],
)
def test_inputs_that_the_trunk_cannot_take(inputs, match: str) -> None:
    model = make_model()
    with pytest.raises(DataError, match=match) as caught:
        model(inputs)
    assert isinstance(caught.value.__cause__, (RuntimeError, TypeError))


def test_a_trunk_that_fails_for_reasons_of_its_own_is_left_to_say_so() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("the trunk's own reason")

    with pytest.raises(ValueError, match=r"^the trunk's own reason$"):
        lepton.LeptonModel(Broken(), [Regression("a")], features=3)(torch.randn(2, 3))


# -- heads --------------------------------------------------------------------------------------------------------
@both
def test_segmentation_needs_feature_maps(balancer) -> None:
    own = [Segmentation("pixels", 3), Regression("a")]
    for upsample in (1, 2):
        own = [Segmentation("pixels", 3, upsample=upsample), Regression("a")]
        model = lepton.LeptonModel(trunk(), own, balancer=balancer())
        with pytest.raises(ConfigurationError, match=r"'pixels' needs feature maps \[B, C, H, W\].* gave \[5, 8\]"):
            model(torch.randn(5, 6))
    # Eight rows of eight positions: torch takes them for one image.
    with pytest.raises(ConfigurationError, match=r"gave \[8, 7, 6\]"):
        Segmentation("pixels", 3).make_head(8)(torch.randn(8, 7, 6))


@both
@pytest.mark.parametrize("detach", [True, False])
def test_a_chain_whose_head_has_another_width(detach: bool, balancer) -> None:
    chain = lepton.Chain("digit", nn.Linear(8 + 4, 1), detach=detach)
    own = [Classification("digit", 3), Regression("slant", head=chain)]
    model = lepton.LeptonModel(trunk(), own, balancer=balancer())
    match = r"head of 'slant', a Chain, failed on features \[5, 8\] and, beside them, the output \[5, 3\] of 'digit'"
    with pytest.raises(ForkError, match=match) as caught:
        model(torch.randn(5, 6))
    assert isinstance(caught.value.__cause__, RuntimeError)


class Fails(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, features: Tensor) -> Tensor:
        raise self.error


@both
def test_a_head_that_fails_inside_is_named(balancer) -> None:
    own = [Regression("a"), Regression("b", head=own_head(features=9))]
    model = lepton.LeptonModel(trunk(), own, balancer=balancer())
    with pytest.raises(ForkError, match=r"head of 'b', a Sequential, failed on features \[5, 8\]: mat1 and mat2"):
        model(torch.randn(5, 6))
    model = lepton.LeptonModel(trunk(), [Regression("b", head=Fails(AttributeError("no shape")))], balancer=balancer())
    with pytest.raises(ForkError, match=r"head of 'b', a Fails, failed on features \[5, 8\]: no shape"):
        model(torch.randn(5, 6))


def test_memory_that_is_not_enough_is_left_as_it_is() -> None:
    model = lepton.LeptonModel(trunk(), [Regression("b", head=Fails(torch.OutOfMemoryError("too much")))])
    with pytest.raises(torch.OutOfMemoryError, match=r"^too much$"):
        model(torch.randn(5, 6))


@both
def test_a_linear_head_of_ones_own_with_another_width_is_named(balancer) -> None:
    own = [Regression("a"), Regression("b", head=nn.Linear(9, 1))]
    model = lepton.LeptonModel(trunk(), own, balancer=balancer())
    with pytest.raises(ConfigurationError, match=r"size 8 \(\[5, 8\]\), but the head of 'b' was built for 9: build it"):
        model(torch.randn(5, 6))


@both
@pytest.mark.parametrize(("head", "found"), [(nn.LSTM(8, 1), "tuple"), (Fails, "NoneType"), (None, "complex64")])
def test_a_head_that_returns_no_real_tensor(head, found: str, balancer) -> None:
    class Other(nn.Module):
        def forward(self, features: Tensor):
            return None if found == "NoneType" else features.to(torch.complex64)

    head = head if isinstance(head, nn.Module) else Other()
    model = lepton.LeptonModel(trunk(), [Regression("a", head=head)], balancer=balancer())
    with pytest.raises(ConfigurationError, match=rf"head of 'a' must return one tensor.*{found}"):
        model(torch.randn(5, 6))


# -- targets ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda t: t.to("meta"), r"'c1': its target is on meta, its output on cpu: move the targets"),
        (lambda t: t.to_sparse(), r"'c1': its target is torch.sparse_coo: make it dense"),
        (lambda t: t.tolist(), r"target of 'c1' must be a tensor, but it is a list"),
        (lambda t: t.to(torch.complex64), r"'c1': target is torch.complex64"),
    ],
    ids=["device", "sparse", "list", "complex"],
)
def test_targets_of_another_kind(make, match: str, many: bool) -> None:
    own = [Classification(f"c{i}", 3) for i in range(4 if many else 2)][0 if many else 1 :]
    model = lepton.LeptonModel(trunk(), own)
    targets = {task.name: torch.ones(5, dtype=torch.int64) for task in own}
    targets["c1"] = make(targets["c1"])
    with pytest.raises(TargetError, match=match):
        loss_of(model, torch.randn(5, 6), targets)


@pytest.mark.parametrize(("output", "target"), [((5, 1), (5,)), ((5,), (5, 1))])
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_broadcasts_output_against_target_is_noticed(output, target) -> None:
    task = Task("depth", head=nn.Linear(8, 1), loss=lambda o, t: (o - t).square())
    with pytest.raises(ConfigurationError, match=r"'depth': for an output .* broadcast .*[Ss]queeze"):
        task.label_losses(torch.zeros(output), torch.zeros(target))


def test_a_loss_may_have_more_dimensions_than_the_labels() -> None:
    task = Task("depth", head=nn.Linear(8, 3), loss=lambda o, t: (o - t[:, None]).square())
    losses, counts = task.label_losses(torch.ones(5, 3), torch.zeros(5))
    assert losses.tolist() == counts.tolist() == [1.0] * 5


def test_a_loss_that_fails_is_named_with_its_shapes() -> None:
    task = Task("depth", head=nn.Linear(8, 1), loss=lambda o, t: o - t)
    with pytest.raises(ConfigurationError, match=r"'depth': its loss failed for an output \[5, 2\] and .* \[5, 3\] in"):
        task.label_losses(torch.zeros(5, 2), torch.zeros(5, 3))


@pytest.mark.parametrize("loss", [lambda o, t: 0.5, lambda o, t: (o, t), lambda o, t: None])
def test_a_loss_that_returns_no_tensor(loss) -> None:
    task = Task("depth", head=nn.Linear(8, 1), loss=loss)
    with pytest.raises(ConfigurationError, match=r"'depth': the loss must return a tensor"):
        task.label_losses(torch.ones(5), torch.zeros(5))


# -- one model for each task and criterion ------------------------------------------------------------------------
def test_a_task_serves_one_model_at_a_time() -> None:
    own = tasks("mixed")
    model = lepton.LeptonModel(trunk(), own)
    with pytest.raises(ConfigurationError, match=r"already serve another model.*'slant'.*deepcopy"):
        lepton.LeptonModel(trunk(), [own[1]])
    lepton.LeptonModel(trunk(), copy.deepcopy(own))
    del model
    lepton.LeptonModel(trunk(), own)


def test_a_model_that_could_not_be_made_keeps_no_task() -> None:
    own = [Regression("a"), Regression("a")]
    with pytest.raises(ConfigurationError, match="more than once") as caught:
        lepton.LeptonModel(trunk(), own)
    assert caught.tb is not None  # which holds the frame, and with it the model
    lepton.LeptonModel(trunk(), own[:1])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_has_tasks_of_its_own(duplicate) -> None:
    model = make_model(MGDA(), "mixed")
    twin = duplicate(model)
    assert twin.task("slant") is not model.task("slant")
    with pytest.raises(ConfigurationError, match="already serve another model"):
        lepton.LeptonModel(trunk(), [twin.task("slant")])
    shallow = copy.copy(model)
    del shallow
    with pytest.raises(ConfigurationError, match="already serve another model"):
        lepton.LeptonModel(trunk(), [model.task("slant")])


def test_the_results_of_another_model_are_noticed() -> None:
    one, two = make_model(MGDA()), make_model(MGDA())
    x, targets = make_batch()
    outputs, task_weights = two(x)
    for criterion in (lepton.MultiTaskLoss(one), lepton.MultiTaskLoss(copy.deepcopy(two))):
        with pytest.raises(ConfigurationError, match="come from another model"):
            criterion(outputs, targets, task_weights)
    criterion = lepton.MultiTaskLoss(two)
    for same in (
        task_weights,
        task_weights * 1.0,
        copy.deepcopy(task_weights),
        pickle.loads(pickle.dumps(task_weights)),
    ):
        assert torch.isfinite(criterion(outputs, targets, same))


# -- optimiser ----------------------------------------------------------------------------------------------------
def steps(model, optimizers, count: int = 4) -> None:
    x, targets = make_batch()
    for _ in range(count):
        loss_of(model, x, targets).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("balancer", [LearnedWeights, Uncertainty, lambda: Log(LearnedWeights())])
@pytest.mark.parametrize("fused", [True, False])
def test_an_optimiser_without_the_balancers_parameters_is_warned_of_once(balancer, fused: bool, caplog) -> None:
    model = make_model(balancer())
    (name,) = dict(model.balancer.named_parameters())
    apart = [*model.trunk.parameters(), *model.heads.parameters()]
    with caplog.at_level(logging.WARNING, logger="lepton"):
        steps(model, [torch.optim.AdamW(apart, fused=fused)])
    (record,) = caplog.records
    assert name in record.getMessage() and "model.parameters()" in record.getMessage()


def test_no_warning_where_some_optimiser_holds_them(caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="lepton"):
        model = make_model(LearnedWeights())
        steps(model, [torch.optim.SGD(model.parameters(), 0.1)])
        model = make_model(Uncertainty())
        apart = [*model.trunk.parameters(), *model.heads.parameters()]
        for order in (1, -1):
            both = [torch.optim.SGD(apart, 0.1), torch.optim.SGD(model.balancer.parameters(), 0.1)][::order]
            steps(model, both)
        frozen = make_model(LearnedWeights())
        frozen.balancer.requires_grad_(False)
        steps(frozen, [torch.optim.SGD(frozen.trunk.parameters(), 0.1)])
        steps(make_model(MGDA()), [torch.optim.SGD(model.trunk.parameters(), 0.1)])
    assert not caplog.records


def test_reduction_of_a_loss_function_is_still_explained() -> None:
    task = Task("depth", head=nn.Linear(8, 1), loss=F.mse_loss)
    with pytest.raises(ConfigurationError, match=r"reduction='none'"):
        task.label_losses(torch.ones(5), torch.zeros(5))


# -- calls --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("argument", "value", "match"),
    [
        ("task_weights", {"a": 1.0}, r"task_weights is a dict, .* each of the 3 tasks: pass the model's second"),
        ("task_weights", None, "task_weights is a NoneType"),
        ("task_weights", torch.ones(2), r"task_weights has the shape \[2\]"),
        ("label_counts", [1, 2, 3], r"label_counts is a list, .*criterion.count"),
        ("label_counts", torch.ones(2), r"label_counts has the shape \[2\]"),
    ],
)
def test_numbers_by_task_that_are_none(argument: str, value, match: str) -> None:
    model = make_model()
    x, targets = make_batch()
    outputs, task_weights = model(x)
    with pytest.raises(TargetError, match=match):
        lepton.MultiTaskLoss(model)(outputs, targets, **{"task_weights": task_weights, argument: value})


def test_a_task_that_a_model_does_not_have() -> None:
    model = make_model()
    for ask in (model.task, model.head_state):
        with pytest.raises(ConfigurationError, match=r"no task 'slent'.*Did you mean 'slant'"):
            ask("slent")


@pytest.mark.parametrize(
    ("argument", "value"), [("upstream", 5), ("head", "linear"), ("detach", "no"), ("transform", "sigmoid")]
)
def test_a_chain_of_other_things(argument: str, value) -> None:
    with pytest.raises(ConfigurationError, match=f"Chain: {argument} must be .*{value!r}"):
        lepton.Chain(**{"upstream": "a", "head": nn.Linear(9, 1), argument: value})


@pytest.mark.parametrize("metrics", [["accuracy"], {"accuracy": 5}, "accuracy"])
def test_metrics_that_are_none(metrics) -> None:
    with pytest.raises(ConfigurationError, match="'t': metrics must be a mapping"):
        Task("t", head=nn.Linear(8, 1), loss=F.mse_loss, metrics=metrics)


def test_a_balancer_of_a_bare_fork_keeps_its_number_of_tasks() -> None:
    balancer, z = MGDA(), torch.ones(2, 3, requires_grad=True)
    lepton.fork(z, ["a"], balancer=balancer)
    with pytest.raises(ConfigurationError, match="MGDA serves 1 tasks and was given 2"):
        lepton.fork(z, ["a", "b"], balancer=balancer)


@both
def test_a_model_in_training_mode_runs_under_inference_mode(balancer) -> None:
    model = make_model(balancer(), "mixed")
    with torch.inference_mode():
        outputs, _ = model(make_batch()[0])
    assert outputs["slant"].is_inference()


@pytest.mark.parametrize("targets", [[1.0, 2.0], None, torch.ones(2, dtype=torch.complex64)])
def test_statistics_of_no_tensor(targets) -> None:
    with pytest.raises(TargetError, match="'a': statistics need a tensor of real numbers"):
        Regression("a").fit_statistics(targets)


def test_another_view_is_taken_from_the_next_step_on_or_refused() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))
    made = lepton.LeptonModel(net, [Regression("a"), Regression("b")], balancer=MGDA(), gradients="features")
    made.fork.set_view("parameters", shared=net[2])
    outputs, weights = made(torch.ones(5, 3))
    lepton.MultiTaskLoss(made)(outputs, {"a": torch.ones(5), "b": torch.zeros(5)}, weights).backward()
    with lepton.no_balancing():
        loss = made(torch.ones(5, 3))[0]["a"].sub(1).square().mean()
    rows = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net[2].parameters()))])
    assert made.fork.gramian is not None
    torch.testing.assert_close(made.fork.gramian[0, 0], rows @ rows)
    with pytest.raises(ConfigurationError, match="Did you mean 'parameters'"):
        made.fork.set_view("parameter")
    with pytest.raises(ConfigurationError, match="shared"):
        made.fork.set_view("parameters", shared=["0"])
    assert made.fork.gradients == "parameters" and made.fork.shared is net[2]
