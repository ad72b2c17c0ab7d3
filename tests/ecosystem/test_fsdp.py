"""FSDP2: two gloo processes with sharded parameters against the single process on the joint batch."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import lepton
from lepton.balance import MGDA, Balancer, Equal, Smooth, UPGrad
from lepton.errors import ForkError
from tests.conftest import Lagging, make_batch, make_model

BALANCERS: dict[str, Callable[[], Balancer]] = {
    "equal": Equal,
    "mgda": MGDA,
    "upgrad": UPGrad,
    "smooth": lambda: Smooth(MGDA(), decay=0.5),
}
CASES = [
    *[(name, "fork_layer", "mixed") for name in BALANCERS],
    *[("mgda", view, heads) for view in ("features", "fork_layer") for heads in ("linear", "own")],
]
# Sharded as one group, the trunk's parameters are whole from its forward pass to its backward pass.
WHOLE = "whole model"
SHARDINGS: dict[str, Callable[[nn.Module], list[nn.Module]]] = {
    WHOLE: lambda model: [model],
    "trunk and model": lambda model: [model.trunk, model],
    "layers, heads and model": lambda model: [model.trunk[0], model.trunk[2], *model.heads.values(), model],
}


def joint_batch() -> tuple[Tensor, dict[str, Tensor], list[slice]]:
    """A batch of 12 rows with unequal label counts, and which rows each of two processes gets."""
    x, targets = make_batch()
    targets["digit"][[0, 1, 7]] = -100
    targets["slant"][[2, 3, 4]] = float("nan")
    return x, targets, [slice(0, 6), slice(6, 12)]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def run_steps(model: Any, rows: slice, steps: int = 3) -> Tensor:
    """Train a few steps; return the gradients of trunk and heads in each."""
    x, targets, _ = joint_batch()
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        outputs, task_weights = model(x[rows])
        criterion(outputs, {name: target[rows] for name, target in targets.items()}, task_weights).backward()
        found.append(torch.cat([whole(p.grad).flatten() for p in model.parameters()]).clone())
        optimizer.step()
    return torch.stack(found)


def worker(rank: int, port: int, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    try:
        for sharding, parts in SHARDINGS.items():
            for name, view, heads in CASES:
                model = make_model(BALANCERS[name](), heads, gradients=view)
                for part in parts(model):
                    fully_shard(part, mesh=mesh)
                found = run_steps(model, joint_batch()[2][rank])
                if rank == 0:
                    results[name, view, heads, sharding] = found
            if sharding != WHOLE:
                results["refused", sharding, rank] = refusal(parts, mesh)
        model = fully_shard(make_model(MGDA(), "mixed", gradients="parameters"), mesh=mesh)
        results["mgda", "parameters", "mixed", WHOLE] = run_steps(model, joint_batch()[2][rank])
        results["skipped", rank] = steps_after_two_skipped(rank, mesh)
    finally:
        dist.destroy_process_group()


def steps_after_two_skipped(rank: int, mesh: Any) -> int:
    """Return how far the state of a balancer got in three backward passes, one of which an optimiser step follows."""
    model = fully_shard(make_model(Lagging(), "mixed"), mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    x, targets, rows = joint_batch()
    for step in range(3):
        optimizer.zero_grad()
        outputs, task_weights = model(x[rows[rank]])
        mine = {name: target[rows[rank]] for name, target in targets.items()}
        lepton.MultiTaskLoss(model)(outputs, mine, task_weights).backward()
        if step == 0:
            optimizer.step()
    return int(model.state_dict()["fork.balancer.steps"])


def refusal(parts: Callable[[nn.Module], list[nn.Module]], mesh: Any) -> str:
    """Return what the view `parameters` says about sharded parameters."""
    model = make_model(MGDA(), gradients="parameters")
    for part in parts(model):
        fully_shard(part, mesh=mesh)
    try:
        model(make_batch()[0])
    except ForkError as error:
        return str(error)
    return "not refused"


@pytest.fixture(scope="module")
def two_processes() -> dict[Any, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, (port, results), nprocs=2)
        return dict(results)


@pytest.mark.parametrize(
    ("name", "view", "heads", "sharding"),
    [*[(*case, sharding) for sharding in SHARDINGS for case in CASES], ("mgda", "parameters", "mixed", WHOLE)],
)
def test_sharded_gradients_equal_the_single_process(
    name: str, view: str, heads: str, sharding: str, two_processes: dict[Any, Any]
) -> None:
    single = run_steps(make_model(BALANCERS[name](), heads, gradients=view), slice(0, 12))
    sharded = two_processes[name, view, heads, sharding]
    assert single.norm() > 0.1
    assert abs(single.norm() - sharded.norm()) < 1e-5 * max(1.0, single.norm())
    torch.testing.assert_close(sharded, single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("sharding", [name for name in SHARDINGS if name != WHOLE])
def test_the_view_parameters_is_refused_where_it_meets_sharded_parameters(
    sharding: str, rank: int, two_processes: dict[Any, Any]
) -> None:
    message = two_processes["refused", sharding, rank]
    assert 'gradients="parameters" needs whole parameters' in message
    assert 'choose gradients="fork_layer" or "features"' in message


@pytest.mark.parametrize("rank", [0, 1])
def test_a_skipped_step_leaves_the_state_untouched(rank: int, two_processes: dict[Any, Any]) -> None:
    assert two_processes["skipped", rank] == 1
