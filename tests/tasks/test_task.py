"""Names, weights, heads, outputs, state: what every task has."""

import copy
import doctest
import importlib
import math
import pkgutil
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lepton.tasks
from lepton.errors import ConfigurationError, TargetError
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
    Translation,
)

NAN = math.nan
FACTORIES = {
    "classification": lambda name="t", **rest: Classification(name, 3, **rest),
    "language": lambda name="t", **rest: LanguageModeling(name, 3, **rest),
    "translation": lambda name="t", **rest: Translation(name, 3, **rest),
    "tags": lambda name="t", **rest: TokenClassification(name, 3, **rest),
    "segmentation": lambda name="t", **rest: Segmentation(name, 3, **rest),
    "multilabel": lambda name="t", **rest: MultiLabel(name, 3, **rest),
    "regression": lambda name="t", **rest: Regression(name, 3, **rest),
    "speech": lambda name="t", **rest: SpeechRecognition(name, ["a", "b"], **rest),
    "voice": lambda name="t", **rest: SpeechSynthesis(name, 3, **rest),
    "user": lambda name="t", head=None, **rest: Task(name, head=head or nn.Linear(4, 3), loss=F.mse_loss, **rest),
}
each = pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)


def test_docstring_examples_run():
    failed = attempted = 0
    for info in pkgutil.iter_modules(lepton.tasks.__path__, "lepton.tasks."):
        result = doctest.testmod(importlib.import_module(info.name))
        failed, attempted = failed + result.failed, attempted + result.attempted
    assert failed == 0 and attempted >= 10


def test_importing_tasks_does_not_import_torchmetrics():
    code = (
        "import sys, torch; from lepton.tasks import *; Regression('a'); Classification('b', 2); MultiLabel('c', 2); "
        "Segmentation('d', 2); LanguageModeling('f', 2); TokenClassification('g', 2); "
        "SpeechRecognition('h', ['a']); SpeechSynthesis('i', 2); "
        "Task('e', head=torch.nn.Linear(1, 1), loss=torch.nn.functional.mse_loss); "
        "sys.exit('torchmetrics' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exported_names():
    assert sorted(lepton.tasks.__all__) == [
        "Classification",
        "DISTILLED",
        "FrameHead",
        "LanguageModeling",
        "MultiLabel",
        "Regression",
        "Segmentation",
        "SpeechRecognition",
        "SpeechSynthesis",
        "Task",
        "TokenClassification",
        "Translation",
        "ctc_alignment",
        "ctc_beam",
        "ctc_greedy",
        "distillation",
        "mel_distortion",
    ]


# -- arguments --------------------------------------------------------------------------------------------------
@each
@pytest.mark.parametrize("name", ["", "a.b", 3, None])
def test_names_must_be_usable_as_module_names(factory, name):
    with pytest.raises(ConfigurationError, match=r"nonempty string without '\.'") as error:
        factory(name)
    assert repr(name) in str(error.value)


@each
@pytest.mark.parametrize("value", [0.0, -1.0, NAN, math.inf])
def test_weights_are_positive(factory, value):
    with pytest.raises(ConfigurationError, match=r"auxiliary=True.*leave it out"):
        factory(loss_weight=value)
    with pytest.raises(ConfigurationError, match="priority must be > 0"):
        factory(priority=value)


@each
@pytest.mark.parametrize("value", ["2", None, [1.0], {}, True, 1e-50, 1e39, torch.ones(2)], ids=str)
def test_weights_of_another_type_or_beyond_float32(factory, value):
    for argument in ("loss_weight", "priority"):
        with pytest.raises(
            ConfigurationError, match=f"Task 't': {argument} must be > 0, and a number.* it is"
        ) as error:
            factory(**{argument: value})
        assert repr(value) in str(error.value)


@each
@pytest.mark.parametrize(
    ("argument", "value"), [("auxiliary", "no"), ("auxiliary", 1), ("head", "linear"), ("head", 3)]
)
def test_common_arguments_of_another_type(factory, argument, value):
    with pytest.raises(ConfigurationError, match=rf"{argument} must be .*, but it is {value!r}"):
        factory(**{argument: value})


@pytest.mark.parametrize("value", ["3", None, [], {}, 2.5, "nan", True], ids=repr)
def test_arguments_of_a_kind_of_another_type(value):
    makers = {
        "classes": lambda v: Classification("t", v),
        "label_smoothing": lambda v: Classification("t", 3, label_smoothing=v if v else ""),
        "class_weights": lambda v: Classification("t", 3, class_weights=v if v is not None else ["a"]),
        "missing": lambda v: Classification("t", 3, missing=v),
        "mels": lambda v: SpeechSynthesis("t", v),
        "beam": lambda v: SpeechRecognition("t", ["a"], beam=v if v != "3" else 3.0),
        "labels": lambda v: MultiLabel("t", v),
        "positive_weights": lambda v: MultiLabel("t", 3, positive_weights=v if v is not None else [1, 2, None]),
        "outputs": lambda v: Regression("t", v),
        "mean": lambda v: Regression("t", mean=["1"] if isinstance(v, (float, type(None))) else v),
        "std": lambda v: Regression("t", std={} if isinstance(v, (float, type(None))) else v),
        "loss": lambda v: Regression("t", loss=v),
        "upsample": lambda v: Segmentation("t", 3, upsample=v),
        "vocabulary": lambda v: LanguageModeling("t", v),
    }
    for argument, make in makers.items():
        with pytest.raises(ConfigurationError, match=f"'t': {argument} must be ") as error:
            make(value)
        assert "but it is" in str(error.value)
    if not isinstance(value, float):
        with pytest.raises(ConfigurationError, match="missing must be a number"):
            MultiLabel("t", 3, missing=value)


@each
def test_common_arguments_are_kept(factory):
    task = factory("slant", loss_weight=2, priority=3, auxiliary=True)
    assert (task.name, task.loss_weight, task.priority, task.auxiliary) == ("slant", 2.0, 3.0, True)
    assert "'slant', loss_weight=2, priority=3, auxiliary" in repr(task)
    plain = factory()
    assert (plain.loss_weight, plain.priority, plain.auxiliary) == (1.0, 1.0, False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classification("t", 1), "classes must be at least 2, or a list of names, but it is 1"),
        (lambda: Classification("t", ["a", "a"]), "classes must be a number, or 2 or more different names"),
        (lambda: Classification("t", "ab"), "classes must be a number, or 2 or more different names"),
        (lambda: Classification("t", 3, label_smoothing=1.0), r"label_smoothing must be a number in \[0, 1\)"),
        (lambda: Classification("t", 3, class_weights=[1, 2]), "class_weights must be 3 finite numbers"),
        (lambda: Classification("t", 3, class_weights=[1, 2, -1]), "class_weights must be 3 finite numbers"),
        (lambda: Classification("t", 3, class_weights=[0, 0, 0]), "not all zero"),
        (lambda: Classification("t", 3, missing=2), "missing must be an integer that is no class, so not in 0 to 2"),
        (lambda: Segmentation("t", 300), "missing must be an integer that is no class, so not in 0 to 299"),
        (lambda: LanguageModeling("t", 1), "vocabulary must be the number of tokens, an integer >= 2, but it is 1"),
        (lambda: Translation("t", 9, missing=3), "missing must be an integer that is no class, so not in 0 to 8"),
        (lambda: Translation("t", 9, label_smoothing=1), r"label_smoothing must be a number in \[0, 1\)"),
        (lambda: LanguageModeling("t", ["a", "b"]), "vocabulary must be the number of tokens"),
        (lambda: TokenClassification("t", 3, missing=-101), "missing must be another number than -101, which marks"),
        (lambda: SpeechRecognition("t", "ab"), "characters must be a list of different names"),
        (lambda: SpeechSynthesis("t", 1), "mels must be the number of bands, an integer >= 2, but it is 1"),
        (lambda: SpeechSynthesis("t", 8, duration_weight=-1), "duration_weight must be a finite number >= 0"),
        (lambda: SpeechSynthesis("t", 8, duration_weight=NAN), "duration_weight must be a finite number >= 0"),
        (lambda: Segmentation("t", 3, upsample=0), "upsample must be an integer >= 1, but it is 0"),
        (lambda: MultiLabel("t", 0), "labels must be at least 1"),
        (lambda: MultiLabel("t", 2, label_smoothing=-0.1), "label_smoothing"),
        (lambda: MultiLabel("t", 2, positive_weights=[1]), "positive_weights must be 2 finite numbers"),
        (lambda: MultiLabel("t", 2, missing=0), "missing must be a value other than 0 and 1"),
        (lambda: Regression("t", 0), "outputs must be an integer >= 1"),
        (lambda: Regression("t", std=0.0), "std must be > 0"),
        (lambda: Regression("t", 2, mean=[1.0, 2.0, 3.0]), "mean must be one finite number or 2"),
        (lambda: Regression("t", mean=NAN), "mean must be one finite number"),
        (lambda: Regression("t", loss="hubber"), "one of mse, mae, huber.* Did you mean 'huber'"),
        (lambda: Task("t", loss=F.mse_loss), "needs head= and loss="),
        (lambda: Task("t", head=nn.Linear(1, 1)), "needs head= and loss="),
    ],
)
def test_arguments_that_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        make()
    assert "'t'" in str(error.value)


def test_names_of_classes_and_labels():
    task = Classification("animal", ["cat", "dog", "cow"])
    assert (task.classes, task.class_names) == (3, ("cat", "dog", "cow"))
    assert Classification("digit", 3).class_names == ("0", "1", "2")
    assert MultiLabel("face", ["smiling", "glasses"]).label_names == ("smiling", "glasses")


# -- heads ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kind", ["classification", "multilabel", "regression", "language", "translation", "tags", "speech"]
)
def test_heads_are_linear(kind):
    head = FACTORIES[kind]().make_head(7)
    assert isinstance(head, nn.Linear) and (head.in_features, head.out_features) == (7, 3)
    assert FACTORIES[kind]().out_features == 3


@pytest.mark.parametrize("upsample", [1, 4])
def test_segmentation_head_upsamples(upsample):
    output = Segmentation("t", 5, upsample=upsample).make_head(7)(torch.randn(2, 7, 8, 6))
    assert output.shape == (2, 5, 8 * upsample, 6 * upsample)


@each
def test_own_head_is_used_and_held_by_the_model_only(factory):
    head = nn.Linear(4, 3)
    task = factory(head=head)
    assert task.make_head(99) is head
    assert not list(task.parameters())
    model = nn.ModuleDict({"task": task, "head": task.make_head(4)})
    copied = copy.deepcopy(model)
    assert copied["task"].make_head(4) is copied["head"] is not head


# -- outputs ----------------------------------------------------------------------------------------------------
def test_regression_outputs_are_in_original_units():
    one = Regression("t", mean=10.0, std=2.0)
    assert one.finish(torch.tensor([[0.0], [1.0]])).tolist() == [10.0, 12.0]
    assert one.finish(torch.zeros(2, 5, 1)).shape == (2, 5)
    two = Regression("t", 2, mean=[0.0, 10.0], std=[1.0, 3.0])
    assert two.finish(torch.ones(1, 2)).tolist() == [[1.0, 13.0]]
    with pytest.raises(ConfigurationError, match=r"head returned \[8, 2\].*must be 1"):
        one.finish(torch.zeros(8, 2))


def test_regression_keeps_large_values_apart_in_bfloat16():
    task = Regression("t", mean=200_000.0, std=1000.0).bfloat16()
    output = task.finish(torch.tensor([[0.0], [0.25]], dtype=torch.bfloat16))
    assert task.mean.dtype == output.dtype == torch.float32
    assert output.tolist() == [200_000.0, 200_250.0]


@pytest.mark.parametrize("kind", ["classification", "segmentation", "multilabel", "language", "tags", "speech", "user"])
def test_other_outputs_are_the_raw_ones(kind):
    raw = torch.randn(2, 3, 4, 4)
    assert FACTORIES[kind]().finish(raw) is raw


def test_predictions():
    logits = torch.tensor([[0.0, math.log(3.0)]])
    found = Classification("t", 2).predict(logits)
    assert found["label"].tolist() == [1]
    torch.testing.assert_close(found["probability"], torch.tensor([[0.25, 0.75]]))
    found = TokenClassification("t", 2).predict(logits[None])
    assert found["label"].tolist() == [[1]]
    torch.testing.assert_close(found["probability"], torch.tensor([[[0.25, 0.75]]]))
    assert Translation("t", 2).predict(logits[None])["label"].tolist() == [[1]]
    found = MultiLabel("t", 2).predict(logits - 0.5)
    assert found["label"].tolist() == [[False, True]]
    torch.testing.assert_close(found["probability"], torch.sigmoid(logits - 0.5))
    assert Regression("t").predict(torch.tensor([3.0]))["value"].tolist() == [3.0]
    pixels = Segmentation("t", 2).predict(torch.stack([torch.zeros(1, 2, 2), torch.eye(2)[None]], dim=1))
    assert pixels["label"].tolist() == [[[1, 0], [0, 1]]]


# -- statistics -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6, 1e12])
def test_fitted_statistics_standardise(scale):
    targets = (torch.randn(500, 2, dtype=torch.float64) * torch.tensor([1.0, 7.0]) + 3) * scale
    targets[::7, 0] = NAN
    task = Regression("t", 2)
    assert not task.fitted
    assert task.fit_statistics(targets) is task and task.fitted
    standardised = (targets - task.mean) / task.std
    torch.testing.assert_close(standardised.nanmean(0), torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
    mean_square = standardised.square().nanmean(0)
    torch.testing.assert_close(mean_square, torch.ones(2, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7])
@pytest.mark.parametrize("number", [1, 3, 10, 100, 1001])
def test_constant_targets_have_std_one(value, number):
    task = Regression("t").fit_statistics(torch.full((number,), value, dtype=torch.float64))
    assert task.std.item() == 1.0
    torch.testing.assert_close(task.mean, torch.tensor([value]))


def test_statistics_need_labels():
    with pytest.raises(TargetError, match="'t': output 1 has no label"):
        Regression("t", 2).fit_statistics(torch.tensor([[1.0, NAN], [2.0, NAN]]))
    with pytest.raises(TargetError, match=r"\[4\] .*2 outputs: \[N, 2\]"):
        Regression("t", 2).fit_statistics(torch.zeros(4))


def test_missing_value_of_ones_own_is_left_out_of_statistics():
    task = Regression("t", missing=-999).fit_statistics(torch.tensor([1, 3, -999]))
    assert (task.mean.item(), task.std.item()) == (2.0, 1.0)


def test_given_statistics_count_as_fitted():
    assert Regression("t", mean=0.0).fitted and Regression("t", std=1.0).fitted


# -- state ------------------------------------------------------------------------------------------------------
def test_statistics_and_weights_travel_with_the_state():
    fitted = Regression("t").fit_statistics(torch.tensor([1.0, 5.0]))
    fresh = Regression("t")
    fresh.load_state_dict(fitted.state_dict())
    assert fresh.fitted and (fresh.mean.item(), fresh.std.item()) == (3.0, 2.0)
    weighted = Classification("t", 2, class_weights=[1, 3])
    other = Classification("t", 2, class_weights=[1, 1])
    other.load_state_dict(weighted.state_dict())
    assert other.class_weights.tolist() == [1, 3]


@each
@pytest.mark.parametrize("cast", [nn.Module.bfloat16, nn.Module.half])
def test_buffers_stay_float32(factory, cast):
    task = cast(factory())
    assert all(buffer.dtype in (torch.float32, torch.bool) for buffer in task.buffers())


def test_buffers_follow_the_device():
    task = Regression("t", mean=1.0).to("meta").bfloat16()
    assert {buffer.device.type for buffer in task.buffers()} == {"meta"}
    assert {buffer.device.type for buffer in task.to_empty(device="cpu").buffers()} == {"cpu"}
    assert Regression("t").double().mean.dtype == torch.float64


# -- a loss of one's own ----------------------------------------------------------------------------------------
def test_own_loss_may_return_more_or_fewer_dimensions_than_the_labels():
    output = torch.randn(5, 3)
    target = torch.randn(5, 3)
    target[1, 2] = NAN
    rows = Task("t", head=nn.Linear(4, 3), loss=lambda o, t: 1 - F.cosine_similarity(o, t, dim=-1))
    losses, counts = rows.label_losses(output, target)
    assert counts.tolist() == [1, 0, 1, 1, 1] and losses[1] == 0
    more = Task("t", head=nn.Linear(4, 3), loss=lambda o, t: (o - t[:, None]).square())
    losses, counts = more.label_losses(output, target[:, 0])
    torch.testing.assert_close(losses, (output - target[:, :1]).square().mean(1))


def test_own_loss_that_reduces_is_refused():
    task = Task("t", head=nn.Linear(4, 3), loss=F.mse_loss)
    with pytest.raises(ConfigurationError, match=r"'t'.*returned \[\] for labels \[5, 3\].*reduction='none'"):
        task.total_loss(torch.randn(5, 3), torch.randn(5, 3))


def test_parameters_of_an_own_loss_are_the_tasks():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, output, target):
            return self.scale * (output - target).abs()

    task = Task("t", head=nn.Linear(4, 1), loss=Scaled())
    task.total_loss(torch.zeros(3), torch.tensor([1.0, NAN, 2.0]))[0].backward()
    assert [p.grad.item() for p in task.parameters()] == [3.0]
