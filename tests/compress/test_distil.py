"""Distil: the formula of the paper against one in numpy, for every kind of task; features; what is kept."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lepton import LeptonModel, MultiTaskLoss, Trainer
from lepton.balance import UPGrad
from lepton.compress import Distil
from lepton.errors import ConfigurationError, TrainingError
from lepton.nn import AcousticTrunk, TransformerTrunk
from lepton.tasks import (
    Classification,
    LanguageModeling,
    MultiLabel,
    Regression,
    Segmentation,
    SpeechRecognition,
    SpeechSynthesis,
    Task,
    TokenClassification,
)


def flat_tasks() -> list[Task]:
    return [
        Classification("kind", classes=3),
        Regression("size", mean=5.0, std=2.0),
        MultiLabel("marks", labels=4),
    ]


def flat_model(
    width: int, tasks: list[Task] | None = None, dtype: torch.dtype = torch.float64, **options: Any
) -> LeptonModel:
    """By default in float64, so that every number can be computed again."""
    trunk = nn.Sequential(nn.Linear(6, width), nn.Tanh())
    model = LeptonModel(trunk, tasks or flat_tasks(), **options)
    return model if dtype == torch.float32 else model.to(dtype)


def penalty_of(student: LeptonModel, distil: Distil, inputs: Any, **options: Any) -> Tensor:
    """What it adds to the loss of a batch without labels."""
    criterion = MultiTaskLoss(student)
    with distil.attach(criterion, **options):
        outputs, task_weights = student(inputs)
        return criterion(outputs, {}, task_weights)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def divergence(theirs: np.ndarray, mine: np.ndarray, temperature: float) -> np.ndarray:
    """T^2 KL(teacher || student) of logits [..., C], label by label."""
    q, p = softmax(theirs / temperature), softmax(mine / temperature)
    return temperature**2 * (q * (np.log(q) - np.log(p))).sum(-1)


def outputs_of(model: LeptonModel, inputs: Any) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {name: output.double().numpy() for name, output in copy.deepcopy(model).eval()(inputs)[0].items()}


@pytest.mark.parametrize("temperature", [1.0, 2.0, 6.0])
def test_rows_follow_the_paper(temperature: float) -> None:
    teacher, student, x = flat_model(16), flat_model(3), torch.randn(9, 6, dtype=torch.float64)
    theirs, mine = outputs_of(teacher, x), outputs_of(student, x)
    expected = divergence(theirs["kind"], mine["kind"], temperature).mean()
    pairs = [np.stack([0 * said["marks"], said["marks"]], -1) for said in (theirs, mine)]  # 0 or 1: two classes
    expected += divergence(pairs[0], pairs[1], temperature).mean()
    expected += (((theirs["size"] - mine["size"]) / 2.0) ** 2).mean()
    found = penalty_of(student, Distil(teacher, strength=0.7, temperature=temperature), x)
    assert found.item() == pytest.approx(0.7 * expected, rel=1e-9)


def test_several_teachers_give_what_each_gives_alone() -> None:
    x, student = torch.randn(9, 6, dtype=torch.float64), flat_model(3)
    teachers = {task.name: flat_model(8, [task]) for task in flat_tasks()}
    together = penalty_of(student, Distil(teachers), x)
    alone = [penalty_of(student, Distil(teacher), x) for teacher in teachers.values()]
    torch.testing.assert_close(together, torch.stack(alone).sum())
    shared = flat_model(8)
    torch.testing.assert_close(
        penalty_of(student, Distil(dict.fromkeys(shared.task_names, shared)), x), penalty_of(student, Distil(shared), x)
    )


def test_pixels_are_labels_each() -> None:
    teacher, student = (
        LeptonModel(nn.Conv2d(1, width, 3, padding=1), [Segmentation("mask", 3, head=nn.Conv2d(width, 3, 1))])
        for width in (6, 2)
    )
    x = torch.randn(2, 1, 5, 4)
    theirs, mine = (np.moveaxis(outputs_of(model, x)["mask"], 1, -1) for model in (teacher, student))
    found = penalty_of(student, Distil(teacher, temperature=3.0), x)
    assert found.item() == pytest.approx(divergence(theirs, mine, 3.0).mean(), rel=1e-5)


def text_model(width: int) -> LeptonModel:
    readers = {"tag": "full", "next": "causal"}
    trunk = TransformerTrunk(20, width=width, depth=1, heads=2, dropout=0.0, readers=readers)
    return LeptonModel(trunk, [TokenClassification("tag", 5), LanguageModeling("next", 20)])


def test_tokens_are_labels_each_and_padding_is_none() -> None:
    teacher, student = text_model(16), text_model(8)
    tokens = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0], [9, 0, 0, 0]])
    theirs, mine = outputs_of(teacher, {"tokens": tokens}), outputs_of(student, {"tokens": tokens})
    real = (tokens != 0).numpy()
    expected = sum(divergence(theirs[name], mine[name], 2.0)[real].mean() for name in ("tag", "next"))
    found = penalty_of(student, Distil(teacher), {"tokens": tokens})
    assert found.item() == pytest.approx(expected, rel=1e-4)
    wider = {"tokens": torch.nn.functional.pad(tokens, (0, 3))}
    torch.testing.assert_close(penalty_of(student, Distil(teacher), wider), found, rtol=1e-4, atol=1e-6)


def test_frames_are_labels_each_and_padding_is_none() -> None:
    def heard(width: int) -> LeptonModel:
        trunk = AcousticTrunk(8000, width=width, depth=1, heads=2, dropout=0.0, masks=0)
        return LeptonModel(trunk, [SpeechRecognition("said", ["a", "b", "c"])])

    teacher, student = heard(16), heard(8)
    inputs = {"waveform": torch.randn(2, 4000), "samples": torch.tensor([4000, 2000])}
    inputs["waveform"][1, 2000:] = 0
    theirs, mine = outputs_of(teacher, inputs)["said"], outputs_of(student, inputs)["said"]
    real = theirs[..., 1] > -9000
    assert 0 < real[1].sum() < real[0].sum()
    found = penalty_of(student, Distil(teacher), inputs)
    assert found.item() == pytest.approx(divergence(theirs[real], mine[real], 2.0).mean(), rel=1e-4)


# -- features -----------------------------------------------------------------------------------------------------
def test_features_are_matched_through_a_learned_map() -> None:
    teacher, student, x = flat_model(16), flat_model(3), torch.randn(9, 6, dtype=torch.float64)
    plain = penalty_of(student, Distil(teacher), x)
    distil = Distil(teacher, features=0.5)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    found = penalty_of(student, distil, x, optimizer=optimizer)
    weight, bias = (p.detach() for p in distil.regressors.parameters())
    apart = (student.trunk(x) @ weight.T + bias - teacher.trunk(x)).square().mean()
    torch.testing.assert_close(found - plain, 0.5 * apart)
    found.backward()
    before = weight.clone()
    optimizer.step()
    assert not torch.equal(weight, before)


def test_maps_of_pixels_are_convolutions_of_size_one() -> None:
    teacher, student = (
        LeptonModel(nn.Conv2d(1, width, 3, padding=1), [Classification("kind", 3, head=Pooled(width))])
        for width in (6, 2)
    )
    x = torch.randn(2, 1, 5, 4)
    plain = penalty_of(student, Distil(teacher), x)
    distil = Distil(teacher, features=1.0)
    found = penalty_of(student, distil, x, optimizer=torch.optim.SGD(student.parameters(), lr=0.1))
    (regressor,) = distil.regressors
    mapped = nn.functional.conv2d(student.trunk(x), regressor.weight[..., None, None], regressor.bias)
    torch.testing.assert_close(found - plain, (mapped - teacher.trunk(x)).square().mean())


class Pooled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 3)

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.linear(features.mean((2, 3)))
        return found


# -- training -----------------------------------------------------------------------------------------------------
def test_the_student_comes_close_without_any_label_and_keeps_nothing_of_it() -> None:
    """It must be able to: its trunk is as large as the teacher's."""
    torch.manual_seed(0)
    teacher, student = flat_model(8, dtype=torch.float32), flat_model(8, dtype=torch.float32, balancer=UPGrad())
    untouched = copy.deepcopy(teacher.state_dict())
    keys = list(student.state_dict())
    batches = [(torch.randn(32, 6), {"size": torch.full((32,), torch.nan)}) for _ in range(20)]
    before = penalty_of(student, Distil(teacher), batches[0][0]).item()
    trainer = Trainer(student, max_epochs=15, learning_rate=1e-2)
    distil = Distil(teacher, features=0.1)
    with distil.attach(trainer.step.criterion, trainer.optimizer):
        trainer.fit(batches)
    student.train()
    assert penalty_of(student, Distil(teacher), batches[0][0]).item() < 0.1 * before
    assert list(student.state_dict()) == keys
    assert not any("regressor" in name for name, _ in student.named_parameters())
    assert all(torch.equal(value, untouched[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.requires_grad for parameter in teacher.parameters())  # the teacher was copied
    assert not student._forward_pre_hooks and not student.trunk._forward_hooks


def test_under_autocast_the_divergence_is_computed_in_float32() -> None:
    teacher, student = (flat_model(width, dtype=torch.float32) for width in (16, 3))
    x = torch.randn(9, 6)
    for model in (teacher, student):
        model.heads["kind"].weight.data *= 300  # far beyond what exp holds in float16
    exact = penalty_of(student, Distil(teacher), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = penalty_of(student, Distil(teacher), x)
    assert rough.dtype == torch.float32
    assert torch.isfinite(rough)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.0)


def test_no_number_is_read_from_the_device() -> None:
    """Under FakeTensorMode a read raises."""
    from torch._subclasses import FakeTensorMode

    teacher, student = text_model(16), text_model(8)
    distil = Distil(teacher)
    criterion = MultiTaskLoss(student)
    distil.attach(criterion)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        outputs = {"tag": mode.from_tensor(torch.zeros(2, 3, 5)), "next": mode.from_tensor(torch.zeros(2, 3, 20))}
        tokens = mode.from_tensor(torch.ones(2, 3, dtype=torch.int64))
        terms = [distil._apart(name, outputs, outputs, {"tokens": tokens}) for name in outputs]
    assert all(term.ndim == 0 for term in terms)


# -- refusals -----------------------------------------------------------------------------------------------------
def test_what_cannot_be_taught_is_refused() -> None:
    teacher = flat_model(8)
    with pytest.raises(ConfigurationError, match=r"no task 'kinds'.*kind"):
        Distil(teacher, tasks=["kinds"])
    for options in ({"strength": 0}, {"temperature": -1.0}, {"features": float("nan")}):
        with pytest.raises(ConfigurationError, match=f"Distil: {next(iter(options))} must be"):
            Distil(teacher, **options)
    spoken = LeptonModel(nn.Linear(6, 8), [SpeechSynthesis("voice", mels=2, head=nn.Linear(8, 4))])
    with pytest.raises(ConfigurationError, match=r"SpeechSynthesis 'voice'.*cannot be taught"):
        Distil(spoken)
    with pytest.raises(ConfigurationError, match="nobody teaches 'size'"):
        Distil({"kind": teacher}, tasks=["size"])


def test_a_student_of_other_tasks_is_refused() -> None:
    teacher, other = flat_model(8), flat_model(3, [Classification("kind", classes=["c", "b", "a"])])
    with pytest.raises(ConfigurationError, match=r"\['c', 'b', 'a'\] to the student.*\['0', '1', '2'\] to its teacher"):
        Distil(teacher).attach(MultiTaskLoss(other))
    with pytest.raises(ConfigurationError, match="none in common"):
        Distil(teacher).attach(MultiTaskLoss(flat_model(3, [Regression("price")])))
    with pytest.raises(ConfigurationError, match="say which optimiser"):
        Distil(teacher, features=1.0).attach(MultiTaskLoss(flat_model(3)))


def test_outputs_of_an_old_forward_pass_are_refused() -> None:
    student, distil = flat_model(3), Distil(flat_model(8))
    criterion = MultiTaskLoss(student)
    distil.attach(criterion)
    outputs, task_weights = student(torch.randn(2, 6, dtype=torch.float64))
    criterion(outputs, {}, task_weights)
    with pytest.raises(TrainingError, match="Distil: these outputs come from no new forward pass"):
        criterion(outputs, {}, task_weights)
