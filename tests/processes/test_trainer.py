"""The Trainer in 2 and 3 gloo processes against one process on the same global batches: every balancer and view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lepton import balance
from lepton.balance import Balancer
from lepton.errors import ConfigurationError, LeptonError
from tests.conftest import Inverse, Lagging, make_model
from tests.processes.trainings import evaluated, rows, train
from tests.processes.world import several

pytestmark = pytest.mark.xdist_group("processes")

BALANCERS: dict[str, Callable[[], Balancer]] = {
    **{name: kind for name in balance.__all__ if getattr(kind := getattr(balance, name), "__final__", False)},
    "Fixed": lambda: balance.Fixed([1.0, 2.0, 3.0]),
    "Frozen": lambda: balance.Frozen(torch.tensor([1.0, 2.0, 3.0])),
    "DynamicWeightAverage": lambda: balance.DynamicWeightAverage(window=2),
    "ClipWeights": lambda: balance.ClipWeights(balance.IMTLG(), 0.1, 2.0),
    "Every": lambda: balance.Every(balance.PCGrad(), 3),
    "Log": lambda: balance.Log(balance.UPGrad()),
    "Smooth": lambda: balance.Smooth(balance.MGDA()),
    "PerGroup": lambda: balance.PerGroup(
        {"first": ([0, 1], balance.MGDA()), "others": (..., balance.Equal())}, over=balance.IMTLG()
    ),
    "every(smooth(log(pcgrad)))": lambda: balance.Every(balance.Smooth(balance.Log(balance.PCGrad())), 3),
    "inverse": Inverse,
    "lagging": Lagging,
}
LABELS = ("unequal", "one rank only", "every other batch")
VIEWS = ("features", "fork_layer", "parameters")
Case = tuple[str, str, str, str, dict[str, Any]]

FSDP = {"parallel": "fsdp"}
FEW: list[Case] = [
    *[("Smooth", "fork_layer", "mixed", labels, {}) for labels in LABELS],
    ("inverse", "features", "own", "unequal", {}),
    ("lagging", "parameters", "linear", "one rank only", {"gradient_accumulation_steps": 2}),
    ("lagging", "fork_layer", "linear", "every other batch", FSDP),
    ("CAGrad", "fork_layer", "mixed", "one rank only", FSDP | {"max_task_grad_norm": 0.05}),
    ("Equal", "fork_layer", "mixed", "unequal", {"average": "ema", "adaptive_clip": 0.05}),
    ("Equal", "fork_layer", "own", "unequal", FSDP | {"adaptive_clip": 0.05, "gradient_accumulation_steps": 2}),
]
MANY: dict[str, list[Case]] = {
    **{view: [(name, view, "mixed", labels, {}) for name in BALANCERS for labels in LABELS] for view in VIEWS},
    "linear": [(name, "fork_layer", "linear", labels, {}) for name in BALANCERS for labels in LABELS],
    "fsdp": [(name, "fork_layer", heads, "one rank only", FSDP) for name in BALANCERS for heads in ("linear", "mixed")],
}


def outcome(case: Case, world: int) -> Any:
    """Return what a training gave, or how it was refused."""
    name, view, heads, labels, options = case
    try:
        return train(rows(labels, world), BALANCERS[name](), heads, view, **options)
    except LeptonError as error:
        return type(error).__name__, str(error)


def all_of(rank: int, cases: list[Case], world: int) -> list[Any]:
    return [outcome(case, world) for case in cases]


def check(case: Case, world: int, shared: list[Any]) -> None:
    single = outcome(case, world)
    for found in shared:
        if len(single) == 2:
            assert found == single, f"{case}: {found}"
            continue
        losses, history, state = found
        torch.testing.assert_close(losses, single[0], rtol=2e-4, atol=2e-5, msg=lambda text: f"{case}: {text}")
        assert [row.keys() for row in history] == [row.keys() for row in single[1]]
        assert history == [pytest.approx(row, rel=2e-3, abs=2e-4, nan_ok=True) for row in single[1]], case
        for key, value in single[2].items():
            assert torch.allclose(state[key], value, rtol=1e-3, atol=1e-4), (case, key)
    if len(single) == 3:
        assert single[0][:, :3].max() > 0.1
        for found in shared[1:]:
            assert all(torch.equal(value, shared[0][2][key]) for key, value in found[2].items()), case
            # To the last digit, so that all decide alike; a loss in training is rounded in each process.
            judged = [
                [{k: v for k, v in row.items() if k.startswith("val/")} for row in of[1]] for of in (found, shared[0])
            ]
            assert repr(judged[0]) == repr(judged[1]), case


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.faults)])
def test_processes_equal_one(world: int) -> None:
    for case, *shared in zip(FEW, *several(all_of, world, FEW, world), strict=True):
        check(case, world, shared)


@pytest.mark.faults
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("cases", MANY)
def test_every_balancer_and_view(cases: str, world: int) -> None:
    wrong = []
    for case, *shared in zip(MANY[cases], *several(all_of, world, MANY[cases], world), strict=True):
        try:
            check(case, world, shared)
        except AssertionError as error:
            wrong.append(f"{case}: {error}")
    assert not wrong, "\n\n".join(wrong)


MORE = [pytest.param(3, n, 8, marks=pytest.mark.faults) for n in (23, 2)]


@pytest.mark.parametrize(("world", "n", "size"), [(2, 23, 8), (3, 7, 2), *MORE])
def test_evaluation_shards_exactly(world: int, n: int, size: int) -> None:
    """Unequal lengths, processes without rows or labels: sums in float64 agree to their last digits."""
    single = evaluated(0, world, n, size, together=False)
    for found in several(evaluated, world, world, n, size):
        for name, (loss, n_labels, metrics) in found.items():
            assert n_labels == single[name][1]
            assert loss == pytest.approx(single[name][0], rel=1e-6, nan_ok=True)
            assert metrics == pytest.approx(single[name][2], rel=1e-6, abs=1e-7, nan_ok=True)


def idle_head(rank: int) -> Any:
    """Return the head of a task after its last labels, and four steps later, of AdamW with decay and momentum."""
    data = rows("unequal")
    data.targets["slant"][12:] = float("nan")
    steady: dict[str, Any] = {"warmup": 0.0, "schedule": "constant"}
    early, late = (train(data, balance.Equal(), "own", max_steps=steps, **steady)[2] for steps in (1, 5))
    return {key: (early[key], late[key]) for key in early if key.startswith("heads.slant")}


def test_heads_without_labels_do_not_drift() -> None:
    for found in several(idle_head, 2):
        moved = {key: not torch.equal(before, after) for key, (before, after) in found.items()}
        assert moved and not any(moved.values()), moved


def refusals(rank: int) -> list[str]:
    from torch.utils.data import DataLoader, TensorDataset
    from torch.utils.data.distributed import DistributedSampler

    from lepton.train import Trainer

    found = []
    data = TensorDataset(torch.zeros(7, 6))
    sampled = DataLoader(data, sampler=DistributedSampler(data))
    batch = (torch.zeros(4, 6), {"digit": torch.zeros(4, dtype=torch.long)})
    model = make_model()
    attempts: list[Callable[[], Any]] = [
        lambda: Trainer(model).fit([batch], sampled),
        lambda: Trainer(model).fit([batch] * (1 + rank)),
        lambda: Trainer(model, parallel="fsdp", optimizer=torch.optim.SGD(model.parameters(), 0.1)),
        lambda: Trainer(model, parallel="fsdp", precision="fp16-mixed"),
        lambda: Trainer(model, parallel="fsdp", average="swa"),
    ]
    for attempt in attempts:
        with pytest.raises(LeptonError) as error:
            attempt()
        found.append(str(error.value))
    return found


def test_what_cannot_be_shared_is_refused() -> None:
    for found in several(refusals, 2):
        words = ("DistributedSampler", "[1, 2] training batches", "by a name", "no scaler", "average")
        for message, word in zip(found, words, strict=True):
            assert word.removeprefix("by ") in message


def test_parallel_is_checked_in_one_process() -> None:
    from lepton.train import Trainer

    with pytest.raises(ConfigurationError, match="parallel"):
        Trainer(make_model(), parallel="both")  # type: ignore[arg-type]
