"""check_target and mask: what fits, what is cast, and what the errors tell."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from lepton.errors import ConfigurationError, TargetError
from lepton.tasks import (
    Classification,
    LanguageModeling,
    MultiLabel,
    Regression,
    Segmentation,
    Task,
    TokenClassification,
)

NAN = math.nan
CLASSES = Classification("digit", 4)
PIXELS = Segmentation("surface", 4)
LABELS = MultiLabel("face", 4)
TEXT = LanguageModeling("text", 4)
TAGS = TokenClassification("upos", 4)
PRICE = Regression("price")
PAIR = Regression("pair", 2)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_integer_labels_become_int64_with_the_missing_value_kept(dtype):
    found = CLASSES.check_target(torch.zeros(3, 4), torch.tensor([0, 3, -100], dtype=dtype))
    assert found.dtype == torch.int64 and found.tolist() == [0, 3, -100]
    assert CLASSES.mask(found).tolist() == [True, True, False]


def test_unseen_tags_are_kept_and_masked():
    found = TAGS.check_target(torch.zeros(1, 3, 4), torch.tensor([[3, -100, -101]]))
    assert found.tolist() == [[3, -100, -101]] and TAGS.mask(found).tolist() == [[True, False, False]]


def test_uint8_pixels_become_int64_with_the_missing_value_kept():
    found = PIXELS.check_target(torch.zeros(1, 4, 1, 3), torch.tensor([[[0, 3, 255]]], dtype=torch.uint8))
    assert found.dtype == torch.int64 and found.tolist() == [[[0, 3, 255]]]
    assert PIXELS.mask(found).tolist() == [[[True, True, False]]]


def test_bool_labels_are_labels():
    two = Classification("t", 2)
    assert two.check_target(torch.zeros(2, 2), torch.tensor([True, False])).tolist() == [1, 0]
    found = LABELS.check_target(torch.zeros(1, 4), torch.tensor([[True, False, True, False]]))
    assert found.dtype == torch.float32 and found.tolist() == [[1, 0, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64])
@pytest.mark.parametrize("output_dtype", [torch.float32, torch.bfloat16])
def test_numbers_become_float32(dtype, output_dtype):
    found = PRICE.check_target(torch.zeros(2, dtype=output_dtype), torch.tensor([1, 2]).to(dtype))
    assert found.dtype == torch.float32 and found.tolist() == [1, 2]


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_missing(bad):
    assert PRICE.mask(torch.tensor([1.0, bad])).tolist() == [True, False]
    assert LABELS.mask(LABELS.check_target(torch.zeros(1, 4), torch.tensor([[0, 1, bad, 1.0]]))).tolist() == [
        [True, True, False, True]
    ]


def test_integers_with_a_missing_value_of_ones_own():
    task = MultiLabel("chest", 2, missing=-1)
    target = task.check_target(torch.zeros(2, 2), torch.tensor([[1, -1], [0, 1]]))
    assert task.mask(target).tolist() == [[True, False], [True, True]]
    assert task.total_loss(torch.zeros(2, 2), target)[1] == 3


@pytest.mark.parametrize(
    ("task", "output", "target", "words"),
    [
        (CLASSES, (32, 4), torch.zeros(32, 1).long(), ["'digit'", "[32, 1]", "[32] is expected", "target.squeeze(1)"]),
        (CLASSES, (32, 4), torch.zeros(32, 4), ["[32, 4]", "[32] is expected", "one-hot", "target.argmax(1)"]),
        (CLASSES, (32, 4), torch.zeros(31).long(), ["[31]", "[32] is expected"]),
        (CLASSES, (32, 4), torch.zeros(32), ["torch.float32", "int64", "-100", ".long()"]),
        (CLASSES, (8, 5, 4), torch.zeros(8).long(), ["[8]", "[8, 5] is expected"]),
        (PIXELS, (2, 4, 8, 8), torch.zeros(2, 1, 8, 8).long(), ["[2, 1, 8, 8]", "target.squeeze(1)"]),
        (PIXELS, (2, 4, 8, 8), torch.zeros(2, 4, 8, 8).long(), ["one-hot", "target.argmax(1)"]),
        (PIXELS, (2, 4, 8, 8), torch.zeros(2, 32, 32).long(), ["[2, 32, 32]", "upsample=4"]),
        (TEXT, (8, 5, 4), torch.zeros(8, 6).long(), ["'text'", "[8, 6]", "[8, 5] is expected, one label per position"]),
        (TEXT, (8, 5, 4), torch.zeros(8, 6).long(), ["where a position has none, pad with -100"]),
        (TEXT, (8, 5, 4), torch.zeros(8).long(), ["[8, 5] is expected, one label per position", "Classification"]),
        (TEXT, (8, 4), torch.zeros(8, 5).long(), ["[8, 5]", "[8] is expected", "one state per text"]),
        (TEXT, (8, 5, 4), torch.zeros(8, 5, 4), ["one-hot", "target.argmax(2)"]),
        (TEXT, (8, 5, 4), torch.zeros(8, 5), ["torch.float32", "int64", "-100", ".long()"]),
        (TEXT, (1, 2, 4), torch.tensor([[0, 4]]), ["'text'", "value 4", "0 to 3", "-100"]),
        (TEXT, (1, 2, 4), torch.tensor([[0, -101]]), ["value -101"]),
        (TAGS, (8, 5, 4), torch.zeros(8, 5, 1).long(), ["'upos'", "[8, 5, 1]", "target.squeeze(2)"]),
        (TAGS, (8, 5, 4), torch.zeros(8, 7).long(), ["[8, 7]", "[8, 5] is expected, one label per position"]),
        (TAGS, (1, 2, 4), torch.tensor([[-102, 1]]), ["value -102", "0 to 3", "-100", "-101 for a label of a class"]),
        (LABELS, (8, 4), torch.zeros(8), ["'face'", "[8]", "[8, 4] is expected"]),
        (PRICE, (32,), torch.zeros(32, 1), ["'price'", "[32, 1]", "[32] is expected", "squeeze it"]),
        (PAIR, (1, 2), torch.zeros(2), ["[2]", "[1, 2] is expected", "unsqueeze it, target.unsqueeze(0)"]),
        (PRICE, (2,), torch.tensor([True, False]), ["torch.bool", ".float()"]),
        (CLASSES, (3, 4), torch.tensor([0, 4, 1]), ["'digit'", "value 4", "0 to 3", "-100"]),
        (CLASSES, (3, 4), torch.tensor([0, -1, 1]), ["value -1", "0 to 3", "-100"]),
        (PIXELS, (1, 4, 1, 2), torch.tensor([[[0, 254]]]), ["'surface'", "value 254", "0 to 3", "255"]),
        (LABELS, (1, 4), torch.tensor([[0, 1, 2, 1]]), ["value 2", "0 and 1", "NaN"]),
        (LABELS, (1, 4), torch.tensor([[0, 1, 0.5, 1]]), ["value 0.5"]),
    ],
)
def test_errors_name_the_task_what_came_and_the_way_out(task, output, target, words):
    with pytest.raises(TargetError) as error:
        task.check_target(torch.zeros(output), target)
    for word in words:
        assert word in str(error.value)


def test_a_task_of_ones_own_checks_the_number_of_samples():
    task = Task("mine", head=nn.Linear(1, 1), loss=F.mse_loss)
    with pytest.raises(TargetError, match=r"'mine'.*\[3\].*\[2, 5\].*first dimension"):
        task.check_target(torch.zeros(2, 5), torch.zeros(3))
    assert task.check_target(torch.zeros(2, 5), torch.zeros(2, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("task", [CLASSES, PIXELS, LABELS, PAIR])
def test_outputs_of_the_wrong_size_are_the_heads_fault(task):
    with pytest.raises(ConfigurationError, match="its head returned"):
        task.check_target(torch.zeros(2, 7, 7, 7), torch.zeros(2, 7, 7).long())


def test_values_are_not_read_off_the_cpu_or_in_a_trace():
    output, wrong = torch.zeros(2, 4, device="meta"), torch.full((2,), 9, device="meta")
    assert CLASSES.check_target(output, wrong).shape == (2,)
    with FakeTensorMode():
        assert CLASSES.check_target(torch.zeros(2, 4), torch.full((2,), 9)).shape == (2,)
        assert LABELS.check_target(torch.zeros(2, 4), torch.full((2, 4), 9)).shape == (2, 4)
        loss, count = CLASSES.total_loss(torch.zeros(2, 4), torch.full((2,), 1))
        assert loss.shape == count.shape == ()
    compiled = torch.compile(CLASSES.check_target, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(2, 4), torch.full((2,), 9)).tolist() == [9, 9]
