"""Metrics: equal to scikit-learn's on the labels present, NaN without labels, in batches as at once."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lepton.errors import ConfigurationError
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

sk = pytest.importorskip("sklearn.metrics")
torchmetrics = pytest.importorskip("torchmetrics")
NAN = math.nan


def own(metrics, **rest):
    return Task("t", head=nn.Linear(1, 1), loss=nn.L1Loss(reduction="none"), metrics=metrics, **rest)


TASKS = {
    "classification": Classification("t", 3),
    "multilabel": MultiLabel("t", 3),
    "regression": Regression("t"),
    "regression of two": Regression("t", 2),
    "segmentation": Segmentation("t", 3),
    "language": LanguageModeling("t", 3),
    "translation": Translation("t", 3, label_smoothing=0.1),
    "tags": TokenClassification("t", 3),
    "speech": SpeechRecognition("t", ["a", " "]),
    "voice": SpeechSynthesis("t", 3),
    "user": own({"mae": torchmetrics.MeanAbsoluteError}),
    "user without metrics": own(None),
}
SHAPES = {"regression": ((6,), (6,)), "regression of two": ((6, 2), (6, 2)), "multilabel": ((6, 3), (6, 3)),
          "classification": ((6, 3), (6,)), "segmentation": ((2, 3, 4, 4), (2, 4, 4)),
          "speech": ((6, 5, 3), (6, 4)), "voice": ((4, 6, 5), (4, 6, 3)),
          **dict.fromkeys(("language", "translation", "tags"), ((4, 5, 3), (4, 5)))}  # fmt: skip
each_task = pytest.mark.parametrize("kind", TASKS)


def compute(task, *batches):
    metrics = task.metrics()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for output, target in batches:
            task.update_metrics(metrics, output, target)
        return {name: float(metric.compute()) for name, metric in metrics.items()}


def batch(kind, missing=0.3):
    task = TASKS[kind]
    output_shape, target_shape = SHAPES.get(kind, ((6,), (6,)))
    integers = kind in ("classification", "segmentation", "language", "translation", "tags")
    target = torch.randint(3, target_shape) if integers else torch.randn(target_shape)
    target = (target > 0).float() if kind == "multilabel" else target
    if kind == "speech":
        target = torch.randint(1, 3, target_shape)
        return torch.randn(output_shape), target.masked_fill(torch.rand(target_shape[0], 1) < missing, -100)
    target = target.masked_fill(torch.rand(target_shape) < missing, int(task.missing) if integers else NAN)
    return torch.randn(output_shape), target


@each_task
def test_metrics_are_described(kind):
    task = TASKS[kind]
    metrics = task.metrics()
    assert list(task.higher_is_better) == list(metrics)
    assert task.primary_metric in metrics
    for name, metric in metrics.items():
        assert isinstance(metric, torchmetrics.Metric)
        assert metric.higher_is_better in (task.higher_is_better[name], None)


@each_task
def test_without_labels_the_metrics_are_nan_and_silent(kind):
    task = TASKS[kind]
    assert all(math.isnan(value) for value in compute(task).values())
    assert all(math.isnan(value) for value in compute(task, batch(kind, missing=2.0)).values())


@each_task
def test_batches_without_labels_change_nothing(kind):
    task, one = TASKS[kind], batch(kind)
    assert compute(task, batch(kind, 2.0), one, batch(kind, 2.0)) == compute(task, one)


@each_task
def test_metrics_are_fresh_and_can_be_reset(kind):
    task, one, other = TASKS[kind], batch(kind), batch(kind)
    metrics = task.metrics()
    task.update_metrics(metrics, *one)
    assert compute(task, other) != compute(task, one)
    for metric in metrics.values():
        metric.reset()
    assert all(math.isnan(float(metric.compute())) for metric in metrics.values())
    task.update_metrics(metrics, *other)
    assert {name: float(metric.compute()) for name, metric in metrics.items()} == compute(task, other)


@each_task
def test_batches_equal_the_whole(kind):
    task, (output, target) = TASKS[kind], batch(kind, 0.1)
    halves = [(output[:1], target[:1]), (output[1:], target[1:])]
    assert compute(task, *halves) == pytest.approx(compute(task, (output, target)), rel=1e-5)


def test_classification_equals_sklearn():
    output, target = torch.randn(50, 4), torch.randint(3, (50,))  # class 3 has no label
    target[::5] = -100
    found = compute(Classification("t", 4), (output[:20], target[:20]), (output[20:], target[20:]))
    present = target != -100
    label = output.argmax(1)[present].numpy()
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(target[present], label))
    assert found["f1_macro"] == pytest.approx(sk.f1_score(target[present], label, average="macro"))


def test_metrics_of_sequences_count_positions():
    output, target = torch.randn(4, 5, 3), torch.randint(3, (4, 5))
    flat = compute(Classification("t", 3), (output.view(20, 3), target.view(20)))
    assert compute(Classification("t", 3), (output, target)) == flat


def test_segmentation_equals_sklearn():
    output, target = torch.randn(4, 3, 5, 5), torch.randint(3, (4, 5, 5))
    target[:, :2] = 255
    found = compute(Segmentation("t", 3), (output, target))
    present = target != 255
    label = output.argmax(1)[present].numpy()
    assert found["miou"] == pytest.approx(sk.jaccard_score(target[present], label, average="macro"))
    assert found["pixel_accuracy"] == pytest.approx(sk.accuracy_score(target[present], label))


# -- texts ------------------------------------------------------------------------------------------------------
def texts(classes, *, missing=0.3):
    output, target = 3 * torch.randn(6, 9, classes), torch.randint(classes, (6, 9))
    return output, target.masked_fill(torch.rand(6, 9) < missing, -100)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_perplexity_is_that_of_the_whole_data_without_smoothing(smoothing):
    output, target = texts(20)
    target[4:, 1:] = -100  # batches of different numbers of labels: the mean of batches is another number
    found = compute(
        LanguageModeling("t", 20, label_smoothing=smoothing), (output[:4], target[:4]), (output[4:], target[4:])
    )
    logits, labels = output.double().view(-1, 20), target.view(-1)
    assert found["perplexity"] == pytest.approx(F.cross_entropy(logits, labels).exp().item(), rel=1e-6)
    oracle = torchmetrics.text.Perplexity(ignore_index=-100)
    oracle.update(output, target)
    assert found["perplexity"] == pytest.approx(oracle.compute().item(), rel=1e-5)
    right = logits.argmax(1)[labels >= 0] == labels[labels >= 0]
    assert found["token_accuracy"] == pytest.approx(right.double().mean().item())


def test_a_uniform_guess_has_the_perplexity_of_the_vocabulary():
    assert compute(Translation("t", 50), (torch.zeros(2, 3, 50), torch.randint(50, (2, 3))))["perplexity"] == (
        pytest.approx(50)
    )


def test_perplexity_is_summed_in_double_precision():
    task, target = LanguageModeling("t", 2), torch.zeros(1, 4000, dtype=torch.long)
    likely = torch.tensor([9.0, 0.0]).expand(1, 4000, 2)
    metrics = task.metrics()
    task.update_metrics(metrics, torch.tensor([[[0.0, 1e9]]]), target[:, :1])  # beside this, float32 loses the rest
    before = metrics["perplexity"].total.item()
    task.update_metrics(metrics, likely, target)
    expected = 4000 * F.cross_entropy(likely[0, :1], target[0, :1]).item()
    assert metrics["perplexity"].total.item() - before == pytest.approx(expected, rel=1e-5)


def test_an_impossible_label_makes_the_perplexity_infinite_and_nothing_else():
    output, target = texts(5)
    output[0, 0, 2], target[0, 0] = -math.inf, 2
    found = compute(LanguageModeling("t", 5), (output, target))
    assert found["perplexity"] == math.inf and 0 <= found["token_accuracy"] <= 1
    hopeless = torch.tensor([[[0.0, 2000.0]]])
    assert compute(LanguageModeling("t", 2), (hopeless, torch.zeros(1, 1).long()))["perplexity"] == math.inf


@pytest.mark.parametrize("garbage", [NAN, math.inf, -math.inf])
def test_positions_without_a_label_may_hold_anything(garbage):
    output, target = texts(5)
    bad = output.masked_fill((target == -100)[..., None], garbage)
    for task in (LanguageModeling("t", 5), TokenClassification("t", 5)):
        assert compute(task, (bad, target)) == compute(task, (output, target))


def test_of_equal_logits_the_first_is_the_choice():
    task = LanguageModeling("t", 3)
    assert compute(task, (torch.zeros(1, 2, 3), torch.tensor([[0, 1]])))["token_accuracy"] == 0.5
    rounded = torch.tensor([[[1.0, 1.001, 0.0]]]).bfloat16()  # equal in bfloat16
    assert compute(task, (rounded, torch.tensor([[1]])))["token_accuracy"] == 0.0


def test_tags_equal_sklearn_and_classification():
    output, target = texts(6)
    target[target == 5] = 1  # class 5 has no label, but is predicted
    found = compute(TokenClassification("t", 6), (output[:2], target[:2]), (output[2:], target[2:]))
    assert found == pytest.approx(compute(Classification("t", 6), (output, target)))
    present = target != -100
    label = output.argmax(-1)[present]
    assert found["f1_macro"] == pytest.approx(sk.f1_score(target[present], label, average="macro"))


def test_unseen_tags_are_wrong_and_missed():
    """As scikit-learn has it of a class of its own that is never predicted and is left out of the mean."""
    task, (output, target) = TokenClassification("t", 4), texts(4)
    target[(torch.rand(6, 9) < 0.2) & (target != -100)] = task.unseen
    found = compute(task, (output[:2], target[:2]), (output[2:], target[2:]))
    present = target != -100
    label, truth = output.argmax(-1)[present], target[present]
    assert (truth == task.unseen).any()
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, label))
    assert found["f1_macro"] == pytest.approx(sk.f1_score(truth, label, labels=range(4), average="macro"))


def test_only_unseen_tags():
    task = TokenClassification("t", 3)
    found = compute(task, (torch.randn(1, 4, 3), torch.full((1, 4), task.unseen)))
    assert found == {"accuracy": 0.0, "f1_macro": 0.0}


def test_multilabel_equals_sklearn_label_by_label():
    output, target = torch.randn(60, 4), (torch.rand(60, 4) < 0.3).float()
    target[torch.rand(60, 4) < 0.4] = NAN
    found = compute(MultiLabel("t", 4), (output[:25], target[:25]), (output[25:], target[25:]))
    columns = [(t[~t.isnan()], o[~t.isnan()]) for t, o in zip(target.T, output.T, strict=True)]
    assert found["auroc"] == pytest.approx(np.mean([sk.roc_auc_score(t, o) for t, o in columns]))
    precision = np.mean([sk.average_precision_score(t, o) for t, o in columns])
    assert found["average_precision"] == pytest.approx(precision)
    present = ~target.isnan()
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(target[present], output[present] > 0))


def test_labels_with_one_class_only_are_left_out():
    output, target = torch.randn(30, 3), (torch.rand(30, 3) < 0.5).float()
    target[:, 1], target[:, 2] = 0, NAN
    first = compute(MultiLabel("t", 1), (output[:, :1], target[:, :1]))
    found = compute(MultiLabel("t", 3), (output, target))
    assert found["auroc"] == first["auroc"]
    assert found["average_precision"] == first["average_precision"]
    target[:, 1] = 1
    assert compute(MultiLabel("t", 3), (output, target))["auroc"] == first["auroc"]


def test_logits_between_zero_and_one_rank_with_the_others():
    # torchmetrics takes a batch inside [0, 1] for probabilities.
    batches = [(torch.tensor([[0.9]]), torch.tensor([[0.0]])), (torch.tensor([[1.5]]), torch.tensor([[1.0]]))]
    found = compute(MultiLabel("t", 1), *batches)
    assert found["auroc"] == 1.0


def test_large_logits_do_not_become_ties():
    output, target = torch.tensor([[100.0], [101.0]]), torch.tensor([[0.0], [1.0]])
    found = compute(MultiLabel("t", 1), (output, target))
    assert found["auroc"] == found["average_precision"] == 1.0


def test_regression_equals_sklearn():
    target = 1000 + 5 * torch.randn(80)
    output = target + torch.randn(80)
    target[::4] = NAN
    task = Regression("t", mean=1000.0, std=5.0)
    found = compute(task, (output[:30], target[:30]), (output[30:], target[30:]))
    present = ~target.isnan()
    o, t = output[present].double(), target[present].double()
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(t, o))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(t, o))
    assert found["r2"] == pytest.approx(sk.r2_score(t, o))


def test_regression_of_several_outputs_is_the_mean_over_outputs():
    target, output = torch.randn(40, 2) * torch.tensor([1.0, 100.0]), torch.randn(40, 2)
    target[::3, 0] = NAN
    both = compute(Regression("t", 2), (output, target))
    alone = [compute(Regression("t"), (output[:, k], target[:, k])) for k in range(2)]
    assert both == pytest.approx({name: (alone[0][name] + alone[1][name]) / 2 for name in both}, rel=1e-5)


def test_r2_survives_a_large_offset_and_is_nan_for_equal_labels():
    target = 1e6 + torch.randn(100).double()
    output = target + 0.1 * torch.randn(100).double()
    found = compute(Regression("t").double(), (output, target))
    assert found["r2"] == pytest.approx(sk.r2_score(target, output), rel=1e-3)
    constant = compute(Regression("t"), (torch.randn(9), torch.full((9,), 0.1)))
    assert math.isnan(constant["r2"]) and not math.isnan(constant["mae"])


def test_an_output_that_is_not_finite_is_not_hidden():
    output = torch.tensor([1.0, NAN])
    assert math.isnan(compute(Regression("t"), (output, torch.tensor([1.0, 2.0])))["rmse"])
    assert compute(Regression("t"), (output, torch.tensor([2.0, NAN])))["rmse"] == 1.0
    found = compute(MultiLabel("t", 1), (torch.tensor([[1.0], [NAN], [2.0]]), torch.tensor([[1.0], [0.0], [0.0]])))
    assert math.isnan(found["auroc"]) and math.isnan(found["average_precision"])


def test_bfloat16_outputs_have_metrics():
    for kind in SHAPES:
        output, target = batch(kind)
        assert compute(TASKS[kind], (output.bfloat16(), target)) == pytest.approx(
            compute(TASKS[kind], (output.bfloat16().float(), target)), nan_ok=True
        )


# -- metrics of one's own ---------------------------------------------------------------------------------------
def test_own_metrics_may_be_classes_functions_or_metrics():
    used = torchmetrics.MeanSquaredError()
    used.update(torch.ones(3), torch.zeros(3))
    task = own({"mae": torchmetrics.MeanAbsoluteError, "rmse": lambda: torchmetrics.MeanSquaredError(squared=False),
                "mse": used})  # fmt: skip
    assert task.primary_metric == "mae" and task.higher_is_better == {"mae": False, "rmse": False, "mse": False}
    found = compute(task, (torch.tensor([0.0, 0.0, 5.0]), torch.tensor([3.0, 4.0, NAN])))
    assert found == pytest.approx({"mae": 3.5, "rmse": 12.5**0.5, "mse": 12.5})
    assert used.compute() == 1.0


def test_the_direction_of_an_own_metric_must_be_known():
    with pytest.raises(ConfigurationError, match=r"metric 'x' does not say.*higher_is_better=\{'x': True\}"):
        own({"x": torchmetrics.MeanMetric})
    assert own({"x": torchmetrics.MeanMetric}, higher_is_better={"x": True}).higher_is_better == {"x": True}


def test_without_metrics_the_mean_loss_is_the_metric():
    task = own(None)
    assert task.primary_metric == "loss" and task.higher_is_better == {"loss": False}
    batches = [(torch.zeros(2), torch.tensor([1.0, NAN])), (torch.zeros(2), torch.tensor([2.0, 6.0]))]
    assert compute(task, *batches)["loss"] == 3.0
