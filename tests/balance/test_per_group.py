"""A balancer for each group of tasks and one over the groups: against the same written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import lepton
from lepton.balance import (
    FAMO,
    MGDA,
    Balancer,
    CAGrad,
    DynamicWeightAverage,
    Equal,
    Every,
    Fixed,
    GradDrop,
    Log,
    LogSum,
    MoCo,
    PCGrad,
    PerGroup,
    Smooth,
    Uncertainty,
    UPGrad,
)
from lepton.errors import ConfigurationError
from tests.conftest import loss_of, make_batch, make_model

NAMES = ["seg", "depth", "tags", "words"]
VISION, TEXT = [0, 2], [1, 3]


def vision_and_text(within: Any, over: Balancer | None = None) -> PerGroup:
    """Groups whose tasks do not lie side by side."""
    groups = {"vision": (["seg", "tags"], within()), "text": (["depth", "words"], within())}
    return PerGroup(groups, over).bind(4, NAMES)


def gradients(seed: int = 0) -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("within", [MGDA, UPGrad, lambda: CAGrad(c=0.4), lambda: Smooth(MGDA())])
@pytest.mark.parametrize("over", [MGDA, UPGrad])
def test_weights_are_those_of_the_groups_gradients_as_tasks(within: Any, over: Any) -> None:
    jacobian = gradients()
    found = vision_and_text(within, over()).weights(jacobian @ jacobian.mT)
    parts = [within().bind(2).weights(jacobian[group] @ jacobian[group].mT) for group in (VISION, TEXT)]
    of_groups = torch.stack([w @ jacobian[group] for w, group in zip(parts, (VISION, TEXT), strict=True)])
    between = over().weights(of_groups @ of_groups.mT)
    for number, group in enumerate((VISION, TEXT)):
        torch.testing.assert_close(found[group], parts[number] * between[number], rtol=1e-6, atol=1e-9)


def test_one_group_of_all_is_its_balancer_and_groups_of_one_are_the_one_over_them() -> None:
    gramian = gradients() @ gradients().mT
    alone = UPGrad().weights(gramian)
    torch.testing.assert_close(PerGroup({"all": (..., UPGrad())}).bind(4).weights(gramian), alone)
    each = PerGroup({name: ([place], Equal()) for place, name in enumerate(NAMES)}, over=UPGrad())
    torch.testing.assert_close(each.bind(4).weights(gramian), alone)


PLAIN = (Equal, lambda: Fixed([0.5, 2.0]), Uncertainty)
LOSSES = [
    *((within, over) for within in PLAIN for over in (*PLAIN, lambda: Log(Equal()))),
    *((LogSum, over) for over in PLAIN),  # with a logarithm over them they are refused
]


@pytest.mark.parametrize(("within", "over"), LOSSES)
def test_losses_go_together_as_a_loss_of_each_group(within: Any, over: Any) -> None:
    losses, present = torch.tensor([1.0, 2.0, 4.0, 0.5]), torch.ones(4, dtype=torch.bool)
    balancer = vision_and_text(within, over())
    found = balancer.combine(losses, balancer.task_weights(), present)
    totals = []
    for group in (VISION, TEXT):
        own = within().bind(2)
        totals.append(own.combine(losses[group], own.task_weights(), present[group]))
    outer = over().bind(2)
    wanted = outer.combine(torch.stack(totals), outer.task_weights(), torch.tensor([True, True]))
    torch.testing.assert_close(found, wanted)


def test_a_group_without_a_present_task_is_an_absent_task() -> None:
    losses, present = torch.tensor([1.0, 0.0, 3.0, 0.0]), torch.tensor([True, False, True, False])
    balancer = vision_and_text(Uncertainty, Uncertainty())
    with torch.no_grad():
        balancer.over.log_variance.fill_(0.7)
        balancer.group_text.log_variance.fill_(0.3)
    found = balancer.combine(losses, balancer.task_weights(), present)
    assert found.item() == pytest.approx(4.0 * 2.718281828**-0.7 + 0.35)
    jacobian = gradients() * present[:, None]
    weights = vision_and_text(MGDA, MGDA()).weights(jacobian @ jacobian.mT)
    assert weights[TEXT].tolist() == [0.0, 0.0]
    torch.testing.assert_close(weights[VISION], MGDA().weights(jacobian[VISION] @ jacobian[VISION].mT))


def test_the_one_over_the_groups_follows_their_mean_losses() -> None:
    balancer = vision_and_text(Equal, DynamicWeightAverage(window=1))
    alone = DynamicWeightAverage(window=1).bind(2)
    present = torch.tensor([True, True, True, False])
    for scale in (1.0, 0.5, 0.4):
        balancer.observe(torch.tensor([1.0, 2.0 * scale, 3.0, 0.0]), present)
        alone.observe(torch.tensor([2.0, 2.0 * scale]), torch.tensor([True, True]))
    shares = alone.task_weights()
    assert shares[0] > shares[1]
    torch.testing.assert_close(balancer.task_weights(), shares[torch.tensor([0, 1, 0, 1])])


def test_methods_that_look_at_losses_get_those_of_their_tasks() -> None:
    jacobian, losses = gradients(), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    balancer = vision_and_text(lambda: MGDA("loss"))
    assert balancer.wants_losses
    found = balancer.weights(jacobian @ jacobian.mT, losses=losses)
    for group in (VISION, TEXT):
        torch.testing.assert_close(
            found[group], MGDA("loss").weights(jacobian[group] @ jacobian[group].mT, losses=losses[group])
        )


def test_balancers_of_both_kinds_in_a_model() -> None:
    groups = {"first": (["digit"], Uncertainty()), "rest": (..., PCGrad())}
    model = make_model(Every(PerGroup(groups, over=UPGrad()), 2), "mixed")
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    before = [parameter.clone() for parameter in model.trunk.parameters()]
    for seed in range(3):
        optimizer.zero_grad()
        loss_of(model, *make_batch(12, seed=seed)).backward()
        optimizer.step()
    assert model.fork.weights.isfinite().all() and (model.fork.weights > 0).all()
    assert model.balancer.balancer.group_first.log_variance.item() != 0
    assert all(not torch.equal(old, new) for old, new in zip(before, model.trunk.parameters(), strict=True))


def test_groups_may_hold_groups() -> None:
    inner = PerGroup({"left": (["seg"], Equal()), "right": (["depth"], Equal())}, over=MGDA())
    balancer = PerGroup({"vision": (["seg", "depth"], inner), "text": (["tags", "words"], MGDA())}).bind(4, NAMES)
    gramian = gradients() @ gradients().mT
    torch.testing.assert_close(balancer.weights(gramian)[:2], MGDA().weights(gramian[:2, :2]))


def test_a_state_goes_back_where_it_belongs_even_before_the_model_is_there() -> None:
    first = vision_and_text(lambda: Smooth(PCGrad()), Smooth(MGDA()))
    for seed in range(4):
        first.weights(gradients(seed) @ gradients(seed).mT)
    groups = {"vision": (["seg", "tags"], Smooth(PCGrad())), "text": (["depth", "words"], Smooth(PCGrad()))}
    second = PerGroup(groups, over=Smooth(MGDA()))
    second.load_state_dict(first.state_dict())
    gramian = gradients(9) @ gradients(9).mT
    assert torch.equal(second.bind(4, NAMES).weights(gramian), first.weights(gramian))


WRONG: dict[str, tuple[Any, str]] = {
    "no mapping": (lambda: PerGroup([Equal()]), "PerGroup: groups must be a mapping such as"),
    "no group": (lambda: PerGroup({}), "PerGroup: groups must be a mapping such as"),
    "no pair": (lambda: PerGroup({"a": Equal()}), r"groups\['a'\] must be tasks and a balancer"),
    "a class": (lambda: PerGroup({"a": (["x"], MGDA)}), r"groups\['a'\] must be tasks and a balancer"),
    "no tasks": (lambda: PerGroup({"a": ([], MGDA())}), "the tasks of 'a' must be a list of names.*it is \\[\\]"),
    "one text": (lambda: PerGroup({"a": ("seg", MGDA())}), "the tasks of 'a' must be a list of names.*'seg'"),
    "a name with a dot": (lambda: PerGroup({"a.b": (..., MGDA())}), "a word without a dot, but it is 'a.b'"),
    "over": (lambda: PerGroup({"a": (..., MGDA())}, over=MGDA), "over must be a balancer, such as"),
    "two of the others": (lambda: PerGroup({"a": (..., MGDA()), "b": (..., MGDA())}), "at most one.*\\['a', 'b'\\]"),
    "signs": (lambda: PerGroup({"a": (..., GradDrop())}), "group 'a': GradDrop needs the gradients themselves"),
    "tracked": (lambda: PerGroup({"a": (..., Equal())}, over=MoCo()), "over: MoCo needs the gradients themselves"),
    "logarithms": (lambda: PerGroup({"a": (..., LogSum())}, over=FAMO()), "LogSum takes the logarithms.*FAMO over"),
    "log around logs": (lambda: Log(PerGroup({"a": (..., LogSum())})), "takes the logarithms of the losses itself"),
    "in two": (lambda: vision(["seg"], ["seg", "depth"]), "the task 'seg' is in 'a' and in 'b'"),
    "in none": (lambda: vision(["seg"], ["depth"]), r"the tasks \['tags', 'words'\] are in no group"),
    "unknown": (lambda: vision(["sgg"], ["depth"]), r"'a' names 'sgg', but the tasks are .* Did you mean 'seg'"),
    "place": (lambda: vision([4], ["depth"]), "'a' has the task 4, but the 4 tasks are counted from 0"),
    "no names": (lambda: PerGroup({"a": (["seg"], MGDA())}).bind(1), "the tasks have no names here"),
    "other names": (lambda: PerGroup({"a": (..., MGDA())}).bind(1, ["x"]).bind(1, ["y"]), r"serves the tasks \['x'\]"),
}


def vision(a: Any, b: Any) -> Balancer:
    return PerGroup({"a": (a, MGDA()), "b": (b, MGDA())}).bind(4, NAMES)


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_go_together_is_a_sentence(name: str) -> None:
    make, words = WRONG[name]
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_one_object_in_two_groups_is_refused() -> None:
    shared = MGDA()
    with pytest.raises(ConfigurationError, match="create one for each"):
        PerGroup({"a": ([0], shared), "b": ([1], shared)})
    with pytest.raises(ConfigurationError, match="create one for each"):
        PerGroup({"a": ([0], shared)}, over=shared)


def test_a_model_names_the_tasks_that_a_group_does_not_know() -> None:
    tasks = [lepton.tasks.Regression("size"), lepton.tasks.Regression("age")]
    with pytest.raises(ConfigurationError, match="Did you mean 'size'"):
        lepton.LeptonModel(torch.nn.Linear(4, 8), tasks, balancer=PerGroup({"a": (["sise", "age"], MGDA())}))


def test_steps_that_no_optimiser_takes() -> None:
    """As where gradients are only looked at: what the ledger puts back must not be what a backward pass needs."""
    from lepton.tasks import Regression

    torch.manual_seed(0)
    groups = {"first": (["a"], Equal()), "others": (..., MGDA())}
    tasks = [Regression(name, mean=0.0, std=1.0) for name in ("a", "b", "c")]
    model = lepton.LeptonModel(torch.nn.Linear(4, 8), tasks, balancer=PerGroup(groups, over=Smooth(MGDA())))
    criterion, x, targets = lepton.MultiTaskLoss(model), torch.randn(5, 4), {name: torch.randn(5) for name in "abc"}
    found = []
    torch.optim.SGD(model.parameters(), 0.0).step()  # a sign of an optimiser: from now on, no step is one left out
    for _ in range(3):
        model.zero_grad()
        outputs, task_weights = model(x)
        criterion(outputs, targets, task_weights).backward()
        assert model.trunk.weight.grad is not None
        found.append(model.trunk.weight.grad.clone())
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])
