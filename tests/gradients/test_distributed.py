"""Two gloo processes against the single process on the joint batch: gradients with their norm, every view."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import lepton
from lepton.balance import DBMTL, MGDA, Balancer, Equal, ExcessMTL, Log, LogSum, MoCo, UPGrad
from tests.conftest import Inverse, Lagging, gradients, make_batch, make_model

BALANCERS: dict[str, Callable[[], Balancer]] = {
    "equal": Equal,
    "log_sum": LogSum,
    "mgda": MGDA,
    "upgrad": UPGrad,
    "log": lambda: Log(UPGrad()),
    "inverse": Inverse,
    "lagging": Lagging,
    "moco": MoCo,
    "db_mtl": DBMTL,
    "excess_mtl": ExcessMTL,
}
CASES = [
    *[(name, "fork_layer", "mixed") for name in BALANCERS if name not in ("moco", "db_mtl", "excess_mtl")],
    *[("inverse", view, heads) for view in ("features", "fork_layer", "parameters") for heads in ("linear", "own")],
    ("mgda", "parameters", "mixed"),
    ("moco", "parameters", "mixed"),
    ("db_mtl", "parameters", "mixed"),
    ("excess_mtl", "parameters", "mixed"),
    ("lagging", "features", "mixed"),
]


def joint_batch(case: str) -> tuple[torch.Tensor, dict[str, torch.Tensor], list[slice]]:
    """A batch of 12 rows, unequal label counts, and which rows each of two processes gets."""
    x, targets = make_batch()
    targets["digit"][[0, 1, 7]] = -100
    targets["slant"][[2, 3, 4]] = float("nan")
    if case == "one rank only":
        targets["slant"][6:] = float("nan")
    return x, targets, [slice(0, 6), slice(6, 12)]


def run_steps(model: Any, rows: slice, batch: Any, steps: int = 3) -> list[torch.Tensor]:
    """Train a few steps; return the trunk's gradients of each."""
    x, targets, _ = batch
    inner = getattr(model, "module", model)
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.SGD(inner.parameters(), 0.05)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        outputs, task_weights = model(x[rows])
        mine = {name: target[rows] for name, target in targets.items()}
        mine = {n: t for n, t in mine.items() if t.dtype == torch.int64 or torch.isfinite(t).any()}
        criterion(outputs, mine, task_weights).backward()
        found.append(torch.cat([gradients(inner.trunk), gradients(inner.heads)]).clone())
        optimizer.step()
    return found


def worker(rank: int, port: int, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        for name, view, heads in CASES:
            for case in ("unequal", "one rank only"):
                model = make_model(BALANCERS[name](), heads, gradients=view)
                batch = joint_batch(case)
                found = run_steps(DistributedDataParallel(model), batch[2][rank], batch)
                if rank == 0:
                    results[name, view, heads, case] = torch.stack(found)
        results["task left out", rank] = left_out_on_one_rank(rank)
    finally:
        dist.destroy_process_group()


def left_out_on_one_rank(rank: int) -> Any:
    """A task whose gradient is not finite on one process is left out on both."""
    model = make_model(MGDA(), "mixed")
    x, targets, rows = joint_batch("unequal")
    ddp = DistributedDataParallel(model)
    outputs, task_weights = ddp(x[rows[rank]])
    if rank == 0:
        root = outputs["slant"].sub(outputs["slant"].detach()).abs().sqrt()
        outputs = {**outputs, "slant": outputs["slant"] + root}
    mine = {name: target[rows[rank]] for name, target in targets.items()}
    lepton.MultiTaskLoss(ddp)(outputs, mine, task_weights).backward()
    return model.fork.left_out, gradients(model.heads["slant"]), model.fork.weights


@pytest.fixture(scope="module")
def two_processes() -> dict[Any, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, (port, results), nprocs=2)
        return dict(results)


@pytest.mark.parametrize("case", ["unequal", "one rank only"])
@pytest.mark.parametrize(("name", "view", "heads"), CASES)
def test_two_processes_equal_one(name: str, view: str, heads: str, case: str, two_processes: dict[Any, Any]) -> None:
    batch = joint_batch(case)
    model = make_model(BALANCERS[name](), heads, gradients=view)
    single = torch.stack(run_steps(model, slice(0, 12), batch))
    shared = two_processes[name, view, heads, case]
    assert single.norm() > 0.1
    assert abs(single.norm() - shared.norm()) < 1e-5 * max(1.0, single.norm())
    torch.testing.assert_close(shared, single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_task_that_is_not_finite_on_one_process_is_left_out_on_all(rank: int, two_processes: dict[Any, Any]) -> None:
    left_out, head, weights = two_processes["task left out", rank]
    assert left_out == {"digit": 0, "slant": 1, "width": 0}
    assert torch.equal(head, torch.zeros_like(head))
    assert weights[1] == 0
    assert weights[0] > 0
