"""The masked losses: equal to torch's own where it has them, blind to missing labels, equal in groups."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from lepton.tasks import (
    Classification,
    LanguageModeling,
    MultiLabel,
    Regression,
    Segmentation,
    Task,
    TokenClassification,
    Translation,
)

NAN, INF = math.nan, math.inf


def user_task(name: str = "user") -> Task:
    """A loss of the user's own that is not finite where its output is zero."""
    return Task(name, head=nn.Linear(4, 3), loss=lambda output, target: (output.abs().log() - target).square())


# name: task, shape of the output, function that makes present labels of a shape
KINDS = {
    "classification": (lambda n="t": Classification(n, 3), (6, 3), lambda: torch.randint(3, (6,))),
    "tokens": (
        lambda n="t": Classification(n, 3, label_smoothing=0.1, class_weights=[1, 2, 0.5]),
        (4, 5, 3),
        lambda: torch.randint(3, (4, 5)),
    ),
    "tags": (
        lambda n="t": TokenClassification(n, 3, label_smoothing=0.1, class_weights=[1, 2, 0.5]),
        (4, 5, 3),
        lambda: torch.randint(3, (4, 5)),
    ),
    "language": (lambda n="t": LanguageModeling(n, 7), (4, 5, 7), lambda: torch.randint(7, (4, 5))),
    "translation": (
        lambda n="t": Translation(n, 7, label_smoothing=0.1, missing=-1),
        (4, 5, 7),
        lambda: torch.randint(7, (4, 5)),
    ),
    "pixels": (
        lambda n="t": Segmentation(n, 3, label_smoothing=0.2, class_weights=[1, 2, 0.5]),
        (2, 3, 3, 3),  # as many classes as rows and columns: dimensions that are easily confused
        lambda: torch.randint(3, (2, 3, 3)),
    ),
    "multilabel": (
        lambda n="t": MultiLabel(n, 4, label_smoothing=0.1, positive_weights=[1, 2, 3, 4]),
        (6, 4),
        lambda: torch.randint(2, (6, 4)).float(),
    ),
    "mse": (lambda n="t": Regression(n, mean=3.0, std=2.0), (6,), lambda: torch.randn(6)),
    "mae": (lambda n="t": Regression(n, 2, std=[2.0, 5.0], loss="mae"), (6, 2), lambda: torch.randn(6, 2)),
    "huber": (lambda n="t": Regression(n, loss="huber"), (4, 5), lambda: 3 * torch.randn(4, 5)),
    "user": (user_task, (6, 3), lambda: torch.randn(6, 3)),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str) -> tuple[Task, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    factory, shape, labels = KINDS[kind]
    return factory(), torch.randn(shape), labels()


def mark_missing(task: Task, target: torch.Tensor, where: torch.Tensor, value: float = NAN) -> torch.Tensor:
    return target.masked_fill(where, value if target.is_floating_point() else int(task.missing))


def gradient(task: Task, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    output = output.clone().requires_grad_()
    task.total_loss(output, target)[0].backward()
    assert output.grad is not None
    return output.grad


# -- equal to torch ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.25]])
@pytest.mark.parametrize("some_missing", [False, True])
@pytest.mark.parametrize("shape", [(7,), (4, 5)])
def test_mean_of_classification_is_the_one_of_torch(smoothing, weights, some_missing, shape):
    task = Classification("t", 3, label_smoothing=smoothing, class_weights=weights)
    output, target = torch.randn(*shape, 3), torch.randint(3, shape)
    if some_missing:
        target.view(-1)[::3] = -100
    loss, count = task.total_loss(output, target)
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(output.view(-1, 3), target.view(-1), weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(loss / count, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.25]])
def test_mean_of_segmentation_is_the_one_of_torch(smoothing, weights):
    task = Segmentation("t", 3, label_smoothing=smoothing, class_weights=weights)
    output, target = torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    target[0, :2] = 255
    loss, count = task.total_loss(output, target)
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(output, target, weight=weight, label_smoothing=smoothing, ignore_index=255)
    torch.testing.assert_close(loss / count, expected)


@pytest.mark.parametrize("kind", [LanguageModeling, Translation])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_loss_and_gradient_of_next_tokens_are_those_of_torch(kind, smoothing, dtype):
    task = kind("t", 50, label_smoothing=smoothing)
    output, target = torch.randn(3, 8, 50, dtype=dtype), torch.randint(50, (3, 8))
    target[0, 2:], target[2] = -100, -100
    loss, count = task.total_loss(output, target)
    precise = output.clone().requires_grad_()
    wide = precise.float() if dtype == torch.bfloat16 else precise
    expected = F.cross_entropy(
        wide.view(-1, 50), target.view(-1), label_smoothing=smoothing, ignore_index=-100, reduction="sum"
    )
    torch.testing.assert_close(loss, expected.detach())
    assert count == task.label_count(target) == 10
    torch.testing.assert_close(gradient(task, output, target), torch.autograd.grad(expected, precise)[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("garbage", [0.0, NAN, INF])
def test_next_tokens_cost_the_same_by_labelled_rows_and_by_all(smoothing, garbage):
    """On a device, and under a compiler, all positions are computed and masked; the numbers must not tell."""
    torch.compiler.reset()
    task = LanguageModeling("t", 11, label_smoothing=smoothing)
    where = torch.rand(4, 6) < 0.5
    target = torch.randint(11, (4, 6)).masked_fill(where, -100)
    output = torch.randn(4, 6, 11).masked_fill(where[..., None], garbage).requires_grad_()
    found = []
    for label_losses in (task.label_losses, torch.compile(task.label_losses, fullgraph=True, backend="eager")):
        losses, counts = label_losses(output, target)
        found.append((losses, counts, *torch.autograd.grad(losses.sum(), output)))
    torch.testing.assert_close(found[0], found[1])
    assert (found[1][2][where] == 0).all()


def test_next_tokens_off_the_cpu_or_in_a_trace():
    task, shape = LanguageModeling("t", 7, label_smoothing=0.1), (2, 3)
    loss, count = task.total_loss(torch.zeros(*shape, 7, device="meta"), torch.zeros(shape, device="meta").long())
    assert loss.shape == count.shape == ()
    with FakeTensorMode():
        losses, _ = task.label_losses(torch.zeros(*shape, 7), torch.zeros(shape).long())
        assert losses.shape == shape


def test_a_subclass_that_writes_its_own_loss_is_heard():
    class Doubled(LanguageModeling):
        def unmasked_losses(self, output, target, parameter):
            losses, counts = super().unmasked_losses(output, target, parameter)
            return 2 * losses, counts

    output, target = torch.randn(2, 3, 7), torch.tensor([[1, -100, 2], [-100, -100, 3]])
    once, twice = (kind("t", 7).total_loss(output, target)[0] for kind in (LanguageModeling, Doubled))
    torch.testing.assert_close(twice, 2 * once)


def test_slices_of_a_wider_output_have_the_same_loss():
    """Fused heads give every task a slice of one tensor."""
    task, target = LanguageModeling("t", 7), torch.randint(7, (3, 4))
    wide = torch.randn(3, 4, 20)
    torch.testing.assert_close(
        task.total_loss(wide[..., 5:12], target), task.total_loss(wide[..., 5:12].clone(), target)
    )


def test_a_batch_of_gradients_of_next_tokens():
    task = LanguageModeling("t", 7)
    output, target = torch.randn(3, 4, 7, requires_grad=True), torch.randint(7, (3, 4))
    target[1, 1:] = -100
    losses, _ = task.label_losses(output, target)
    together = torch.autograd.grad(losses.sum(1), output, torch.eye(3), retain_graph=True, is_grads_batched=True)[0]
    one_by_one = torch.stack([torch.autograd.grad(loss, output, retain_graph=True)[0] for loss in losses.sum(1)])
    torch.testing.assert_close(together, one_by_one)


def test_unseen_tags_have_no_loss():
    task = TokenClassification("t", 3, label_smoothing=0.1, class_weights=[1, 2, 0.5])
    output, target = torch.randn(4, 5, 3), torch.randint(3, (4, 5))
    unseen = torch.rand(4, 5) < 0.4
    marked, missing = target.masked_fill(unseen, task.unseen), target.masked_fill(unseen, -100)
    torch.testing.assert_close(task.total_loss(output, marked), task.total_loss(output, missing), rtol=0, atol=0)
    assert task.label_count(marked) == task.label_count(missing)
    found = gradient(task, output.masked_fill(unseen[..., None], NAN), marked)
    assert (found[unseen] == 0).all()
    torch.testing.assert_close(found, gradient(task, output, missing), rtol=0, atol=0)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.25]])
def test_mean_of_multilabel_is_the_one_of_torch(weights):
    task = MultiLabel("t", 3, positive_weights=weights)
    output, target = torch.randn(8, 3), torch.randint(2, (8, 3)).float()
    loss, count = task.total_loss(output, target)
    weight = None if weights is None else torch.tensor(weights)
    torch.testing.assert_close(loss / count, F.binary_cross_entropy_with_logits(output, target, pos_weight=weight))


def test_multilabel_smoothing_is_two_class_smoothing():
    output, target = torch.randn(9, 1), torch.randint(2, (9, 1)).float()
    loss, count = MultiLabel("t", 1, label_smoothing=0.3).total_loss(output, target)
    two_logits = torch.cat([torch.zeros(9, 1), output], dim=1)
    expected = F.cross_entropy(two_logits, target.long().squeeze(1), label_smoothing=0.3)
    torch.testing.assert_close(loss / count, expected)


@pytest.mark.parametrize(("loss", "reference"), [("mse", F.mse_loss), ("mae", F.l1_loss), ("huber", F.huber_loss)])
def test_regression_losses_are_torchs_on_standardised_values(loss, reference):
    task = Regression("t", 2, mean=[10.0, -5.0], std=[4.0, 0.5], loss=loss)
    raw, target = torch.randn(20, 2), torch.randn(20, 2) * 8 + 10
    losses, counts = task.total_loss(task.finish(raw), target)
    standardised = (target - task.mean) / task.std
    torch.testing.assert_close(losses / counts, reference(raw, standardised))


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_regression_loss_does_not_depend_on_the_unit(loss):
    raw, target = torch.randn(20, 1), torch.randn(20)
    metres = Regression("t", mean=2.0, std=3.0, loss=loss)
    millimetres = Regression("t", mean=2000.0, std=3000.0, loss=loss)
    a, _ = metres.total_loss(metres.finish(raw), target)
    b, _ = millimetres.total_loss(millimetres.finish(raw), 1000 * target)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=0)


@each_kind
def test_gradients_are_the_derivative(kind):
    task, output, target = make(kind)
    target = mark_missing(task, target.double() if target.is_floating_point() else target, target > 1)
    assert torch.autograd.gradcheck(lambda x: task.total_loss(x, target)[0], output.double().requires_grad_())


# -- missing labels ---------------------------------------------------------------------------------------------
def positions(kind: str, where: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The entries of `output` that belong to the labels `where`."""
    dims = {"classification": -1, "tokens": -1, "tags": -1, "language": -1, "translation": -1, "pixels": 1}
    return where.unsqueeze(dims[kind]).expand_as(output) if kind in dims else where


@each_kind
@pytest.mark.parametrize("label", [NAN, INF, -INF])
@pytest.mark.parametrize("garbage", [0.0, NAN, INF, -INF, 1e30])
def test_missing_labels_change_nothing(kind, label, garbage):
    task, output, target = make(kind)
    where = torch.rand(target.shape) < 0.4
    missing = mark_missing(task, target, where, label)
    losses, counts = task.label_losses(output, missing)
    whole, whole_counts = task.label_losses(output, target)
    assert losses.shape == counts.shape == target.shape
    assert where.any() and not where.all()
    torch.testing.assert_close(losses[~where], whole[~where])
    torch.testing.assert_close(counts[~where], whole_counts[~where])
    assert (losses[where] == 0).all() and (counts[where] == 0).all()

    bad = output.masked_fill(positions(kind, where, output), garbage)
    found = gradient(task, bad, missing)
    assert (found[positions(kind, where, output)] == 0).all()
    torch.testing.assert_close(found, gradient(task, output, missing), rtol=0, atol=0)
    torch.testing.assert_close(
        found[~positions(kind, where, output)],
        gradient(task, output, target)[~positions(kind, where, output)],
    )


@each_kind
@pytest.mark.parametrize("garbage", [0.0, NAN, INF])
def test_batch_without_labels(kind, garbage):
    task, output, target = make(kind)
    none = mark_missing(task, target, torch.ones_like(target, dtype=torch.bool))
    loss, count = task.total_loss(torch.full_like(output, garbage), none)
    assert loss.shape == count.shape == () and loss == 0 and count == 0
    assert (gradient(task, torch.full_like(output, garbage), none) == 0).all()


@each_kind
def test_empty_batch(kind):
    task, output, target = make(kind)
    loss, count = task.total_loss(output[:0], target[:0])
    assert loss == 0 and count == 0


@pytest.mark.parametrize("sentinel", [-999.0, 7.0])
def test_a_value_of_ones_own_can_mark_missing_numbers(sentinel):
    task = Regression("t", missing=sentinel)
    loss, count = task.total_loss(torch.zeros(3), torch.tensor([1.0, sentinel, NAN]))
    assert (loss.item(), count.item()) == (1.0, 1.0)


def test_zero_class_weight_leaves_the_class_out():
    output, target = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 1])
    weighted = Classification("t", 3, class_weights=[1, 0, 1]).total_loss(output, target)
    dropped = Classification("t", 3).total_loss(output, target.where(target != 1, -100))
    torch.testing.assert_close(weighted, dropped)


# -- precision --------------------------------------------------------------------------------------------------
@each_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_at_least(kind, dtype):
    task, output, target = make(kind)
    rounded = output.to(dtype)
    losses, counts = task.label_losses(rounded, task.check_target(rounded, target))
    assert losses.dtype == counts.dtype == torch.float32
    torch.testing.assert_close(losses, task.label_losses(rounded.float(), target)[0], rtol=0, atol=0)
    assert gradient(task, rounded, target).dtype == dtype


def test_large_logits_stay_finite():
    for task, target in [
        (Classification("t", 3, label_smoothing=0.1), torch.tensor([0, 1])),
        (MultiLabel("t", 3), torch.tensor([[0.0, 1, 0], [1, 0, 1]])),
    ]:
        output = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 0]])
        assert torch.isfinite(task.label_losses(output, target)[0]).all()
        assert torch.isfinite(gradient(task, output, target)).all()


# -- compile ----------------------------------------------------------------------------------------------------
@each_kind
def test_one_graph_and_the_same_numbers(kind):
    torch.compiler.reset()  # one function is compiled for few kinds only before the compiler gives up
    task, output, target = make(kind)
    target = mark_missing(task, target, torch.rand(target.shape) < 0.3)

    def step(output, target):
        return task.total_loss(output, task.check_target(output, target))

    backend = "aot_eager" if kind in ("tokens", "translation", "mse") else "eager"  # the backward is traced too; slower
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(output, target), step(output, target))


def test_a_group_is_one_graph():
    tasks = [Regression("a", std=2.0), Regression("b", std=3.0)]

    def step(raw, targets):
        return Regression.group_losses(tasks, Regression.group_finish(tasks, raw), targets)

    raw, targets = torch.randn(2, 5, 1), torch.randn(2, 5)
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(raw, targets), step(raw, targets))
    tasks[1].fit_statistics(torch.tensor([0.0, 8.0]))
    torch.testing.assert_close(compiled(raw, targets), step(raw, targets))


def test_missing_value_nan_does_not_recompile():
    task = Regression("t")
    compiled = torch.compile(task.total_loss, fullgraph=True, backend="aot_eager")
    compiled(torch.zeros(3), torch.ones(3))
    with torch.compiler.set_stance("fail_on_recompile"):
        assert compiled(torch.zeros(3), torch.full((3,), 2.0))[0] == 12


# -- groups -----------------------------------------------------------------------------------------------------
GROUPS = [kind for kind in KINDS if make(kind)[0].group_key is not None]


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_group_equals_task_by_task(kind, size):
    torch.manual_seed(size)
    factory, shape, labels = KINDS[kind]
    tasks = [factory(f"t{index}") for index in range(size)]
    for task in tasks:
        if task.loss_parameter is not None:
            task.loss_parameter.uniform_(0.5, 4.0)
    outputs = torch.randn(size, *shape).requires_grad_()
    targets = torch.stack([labels() for _ in tasks])
    targets = mark_missing(tasks[0], targets, torch.rand(targets.shape) < 0.3)
    targets[-1] = mark_missing(tasks[0], targets[-1], torch.ones_like(targets[-1], dtype=torch.bool))

    sums, counts = type(tasks[0]).group_losses(tasks, outputs, targets)
    pairs = [task.total_loss(o, t) for task, o, t in zip(tasks, outputs, targets, strict=True)]
    expected = torch.stack([p[0] for p in pairs])
    torch.testing.assert_close(sums, expected)
    torch.testing.assert_close(counts, torch.stack([p[1] for p in pairs]))
    assert sums[-1] == 0 and counts[-1] == 0
    cotangent = torch.rand(size)
    torch.testing.assert_close(
        torch.autograd.grad(sums @ cotangent, outputs), torch.autograd.grad(expected @ cotangent, outputs)
    )


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("middle", [(), (4,)])
def test_group_finish_equals_task_by_task(outputs, middle):
    tasks = [Regression(f"t{k}", outputs, mean=float(k), std=k + 1.0) for k in range(3)]
    raw = torch.randn(3, 5, *middle, outputs)
    expected = torch.stack([task.finish(r) for task, r in zip(tasks, raw, strict=True)])
    torch.testing.assert_close(Regression.group_finish(tasks, raw), expected)


def test_group_of_other_kinds_finishes_to_the_same():
    raw = torch.randn(2, 5, 3)
    tasks = [Classification("a", 3), Classification("b", 3)]
    torch.testing.assert_close(Classification.group_finish(tasks, raw), raw)


def test_a_group_of_a_thousand_takes_as_many_operations_as_one():
    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for size in (2, 1000):
        tasks = [Regression(f"t{k}", std=k + 1.0) for k in range(size)]
        with Counting() as mode:
            Regression.group_losses(tasks, torch.randn(size, 4), torch.randn(size, 4))
        counts.append(mode.count)
    assert counts[0] == counts[1] < 40


def test_group_keys_part_what_cannot_be_stacked():
    same = [
        (Classification("a", 3), Classification("b", 3, loss_weight=2.0)),
        (Regression("a", std=2.0, missing=float("nan")), Regression("b", std=3.0, missing=float("nan"))),
        (MultiLabel("a", 3, missing=-1), MultiLabel("b", 3, missing=-1.0)),
        (Segmentation("a", 3, class_weights=[1, 2, 3]), Segmentation("b", 3, class_weights=[1, 2, 4])),
    ]
    for one, other in same:
        assert one.group_key == other.group_key is not None
        assert hash(one.group_key) == hash(other.group_key)
    different = [
        Classification("a", 3), Classification("a", 4), Classification("a", 3, label_smoothing=0.1),
        Classification("a", 3, missing=-1), Classification("a", 3, class_weights=[1, 1, 1]),
        Segmentation("a", 3), MultiLabel("a", 3), MultiLabel("a", 3, missing=-1),
        MultiLabel("a", 3, positive_weights=[1, 1, 1]), Regression("a"), Regression("a", 2),
        Regression("a", loss="mae"), Regression("a", missing=-1), TokenClassification("a", 3),
    ]  # fmt: skip
    assert len({task.group_key for task in different}) == len(different)
    assert user_task().group_key is None


def test_a_subclass_is_not_grouped_as_its_base():
    class Doubled(Regression):
        def label_losses(self, output, target):
            losses, counts = super().label_losses(output, target)
            return 2 * losses, counts

    assert Doubled("a").group_key is None
