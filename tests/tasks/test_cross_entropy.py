"""Cross-entropy over many classes equals torch's: values, both derivatives, missing labels whatever stands there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lepton.tasks import Classification
from lepton.tasks._categorical import MANY_CLASSES
from lepton.tasks._cross_entropy import cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_values_and_derivatives_are_those_of_torch(smoothing: float) -> None:
    logits = (3 * torch.randn(4, 5, 300, dtype=torch.float64)).requires_grad_()
    labels, factors = torch.randint(0, 300, (4, 5)), torch.randn(4, 5, dtype=torch.float64)
    found = cross_entropy(logits, labels, smoothing)
    expected = F.cross_entropy(logits.movedim(-1, 1), labels, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad((found * factors).sum(), logits)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * factors).sum(), logits)[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_can_be_differentiated_twice(smoothing: float) -> None:
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 6, 2])
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, labels, smoothing), logits)
    assert torch.autograd.gradgradcheck(lambda x: cross_entropy(x, labels, smoothing), logits)


def test_it_goes_through_the_transforms_of_torch() -> None:
    logits, labels = torch.randn(6, 9), torch.randint(0, 9, (6,))
    found = torch.func.vmap(torch.func.grad(lambda x, y: cross_entropy(x, y, 0.1)))(logits, labels)
    expected = logits.softmax(-1) - 0.9 * F.one_hot(labels, 9) - 0.1 / 9
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [MANY_CLASSES - 1, MANY_CLASSES])
@pytest.mark.parametrize("value", [1.0, torch.nan, torch.inf])
def test_logits_of_missing_labels_make_no_difference(smoothing: float, classes: int, value: float) -> None:
    task = Classification("next", classes, label_smoothing=smoothing)
    labels = torch.tensor([[3, 5, -100], [7, -100, -100]])
    plain = torch.randn(2, 3, classes)
    logits = torch.where((labels < 0)[..., None], value, plain).requires_grad_()
    losses, counts = task.label_losses(logits, labels)
    losses.sum().backward()
    clean = plain[labels >= 0].requires_grad_()
    expected = F.cross_entropy(clean, labels[labels >= 0], reduction="none", label_smoothing=smoothing)
    expected.sum().backward()
    torch.testing.assert_close(losses[labels >= 0], expected)
    assert _gradient(clean).allclose(_gradient(logits)[labels >= 0], atol=1e-6)
    assert not losses[labels < 0].any()
    assert not _gradient(logits)[labels < 0].any()
    assert torch.equal(counts, (labels >= 0).float())


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad
