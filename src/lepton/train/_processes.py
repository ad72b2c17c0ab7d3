"""Several processes that train one model together: who is who, what they agree on, and parameters in shards."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeVar, cast, get_args, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils import _pytree as pytree
from torch.utils.data.distributed import DistributedSampler

from lepton.errors import ConfigurationError, DataError, LeptonError, require
from lepton.nn import LeptonModel

__all__ = [
    "ParallelName",
    "Processes",
    "from_first_process",
    "gathered",
    "holds_share",
    "is_first_process",
    "job_note",
    "local",
    "local_rows",
    "placed",
    "several_processes",
    "sharded_state",
    "share_of",
    "whole",
]

ParallelName = Literal["ddp", "fsdp"]
"""How several processes hold the parameters: all of them each, or a share each."""

Result = TypeVar("Result")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others: an evaluation or a save of one of them may take its time."""

_JOB = "lepton job"

log = logging.getLogger("lepton")


# -- the group ----------------------------------------------------------------------------------------------------
@contextmanager
def several_processes() -> Iterator[None]:
    """Let the processes that torchrun started train together meanwhile; does nothing without torchrun.

    Tensors on the CPU go through gloo, those on a GPU through NCCL. All processes but the first log errors only.

    Example:
        >>> with several_processes():
        ...     is_first_process()
        True
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    store, rank, world = next(rendezvous("env://", timeout=TIMEOUT))
    # After a restart torchrun's store still holds the addresses of the processes that died.
    life = PrefixStore(f"life {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=life, rank=rank, world_size=world, timeout=TIMEOUT)
    _jobs.append(store)
    if rank:
        log.setLevel(logging.ERROR)
    try:
        yield
        dist.barrier()  # the first one may still be writing, and torchrun ends all when one has ended
    finally:
        _jobs.clear()
        dist.destroy_process_group()


_jobs: list[Store] = []


def job_note(note: str | None = None) -> str | None:
    """Keep a note that outlives these processes when torchrun starts them anew, or return what was noted.

    Args:
        note: what is kept; None to ask.
    """
    if not _jobs:
        return None
    if note is not None:
        _jobs[0].set(_JOB, note)
        return note
    return _jobs[0].get(_JOB).decode() if _jobs[0].check([_JOB]) else None


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


_words: tuple[Any, dist.ProcessGroup] | None = None


def _group_of_words() -> dist.ProcessGroup:
    """Return the group for words about trainings, made on first use; a GPU's collectives must not wait for these."""
    global _words
    if _words is None or _words[0] is not dist.group.WORLD:
        _words = dist.group.WORLD, dist.new_group(backend="gloo")
    return _words[1]


def is_first_process() -> bool:
    """Return whether this is the process that writes, prints and logs: the only one, or the first of several."""
    return _world() == 1 or dist.get_rank() == 0


def from_first_process(make: Callable[[], Result]) -> Result:
    """Return what the first process made, in all of them.

    Args:
        make: called in the first process only.

    Raises:
        LeptonError: it did there; the same one in every process.
    """
    if _world() == 1:
        return make()
    found: list[Any] = [None, None]
    if is_first_process():
        try:
            found[0] = make()
        except LeptonError as error:
            found[1] = error
    dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
    if found[1] is not None:
        raise found[1]
    return cast(Result, found[0])


@runtime_checkable
class _Shareable(Protocol):
    world_size: int

    def shared(self, rank: int, world_size: int) -> Any: ...


def holds_share(parallel: ParallelName) -> bool:
    """Return whether a process will have a share of the parameters only."""
    return _world() > 1 and parallel == "fsdp"


def share_of(batches: Any) -> Any:
    """Return this process's share of a loader of Lepton's; any other batches, and those that are a share, as they are.

    Args:
        batches: a loader.

    Raises:
        ConfigurationError: the batches cannot be shared by so many.
    """
    if _world() == 1 or not isinstance(batches, _Shareable) or batches.world_size > 1:
        return batches
    return batches.shared(dist.get_rank(), _world())


# -- a training ---------------------------------------------------------------------------------------------------
class Processes:
    """What a training needs of the other processes; alone, every method answers for the one process at once.

    Args:
        parallel: `"ddp"` or `"fsdp"`.
    """

    def __init__(self, parallel: ParallelName = "ddp") -> None:
        names = get_args(ParallelName)
        require(parallel in names, "Trainer", "parallel", parallel, f"one of {list(names)}")
        self.parallel = parallel
        self.world_size = _world()
        self.together = self.world_size > 1
        self.rank = dist.get_rank() if self.together else 0
        self.is_first = self.rank == 0
        self._group = _group_of_words() if self.together else None
        self._under_way: tuple[Any, Tensor] | None = None

    # -- the model --------------------------------------------------------------------------------------------
    def shard(self, model: LeptonModel) -> None:
        """Give every process the first one's values, and with `"fsdp"` a share of the parameters only."""
        if not self.together or self.parallel != "fsdp" or is_sharded(model):
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        with torch.no_grad():
            for tensor in [*model.parameters(), *model.trunk.buffers(), *model.heads.buffers()]:
                dist.broadcast(tensor.data, src=0)
        # Fused heads return slices of one tensor, which nobody writes into.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        fully_shard(model, mesh=init_device_mesh(model.device.type, (self.world_size,)))

    def wrap(self, forward: nn.Module, device: torch.device) -> nn.Module:
        """Return a module whose backward pass averages the gradients over the processes."""
        if not self.together or self.parallel == "fsdp":
            return forward
        return DistributedDataParallel(forward, device_ids=[device] if device.type == "cuda" else None)

    def same_buffers(self, model: LeptonModel) -> None:
        """Give every process the first one's statistics of BatchNorm: each had its own rows."""
        if self.together:
            for buffer in [*model.trunk.buffers(), *model.heads.buffers()]:
                dist.broadcast(local(buffer), src=0)

    # -- batches ----------------------------------------------------------------------------------------------
    def share(self, batches: Any) -> Any:
        """Return this process's share of a loader of Lepton's, with the same batches for all together.

        Raises:
            ConfigurationError: the batches cannot be shared by so many.
        """
        return share_of(batches)

    def check_lengths(self, train: Iterable[Any]) -> None:
        """Refuse a different number of batches in some process: it would wait for the others forever."""
        lengths = self.gather(len(train) if isinstance(train, Sized) else None)
        if len(set(lengths)) > 1:
            raise DataError(
                f"the processes have {lengths} training batches, but need equally many: give all a loader of Lepton's, "
                "or a torch DataLoader with a DistributedSampler."
            )

    def check_evaluated(self, val: Any) -> None:
        """Refuse a sampler that repeats rows so that all processes have equally many."""
        if self.together and isinstance(getattr(val, "sampler", None), DistributedSampler):
            raise ConfigurationError(
                "the validation rows come through a DistributedSampler, which repeats some so that every process has "
                "equally many, and shows each process its own only: pass a loader of Lepton's, which is shared "
                "exactly, or one that gives every process all rows."
            )

    # -- words ------------------------------------------------------------------------------------------------
    def gather(self, value: Result) -> list[Result]:
        """Return the value of every process, in their order."""
        if not self.together:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value, group=self._group)
        return found

    def any(self, flag: bool) -> bool:
        """Return whether a flag is raised in any process: all of them wait for the slowest."""
        if not self.together:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
        return bool(flags)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of values over the processes."""
        if self.together:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def agree(self, signal: int, stop: bool, *, wait: bool) -> tuple[int, bool]:
        """Return the signal that came to any process, and whether any wants to stop, the same in all of them.

        Args:
            signal: that came to this process; 0 for none.
            stop: whether it wants to stop.
            wait: for the others' words of this very step. Otherwise those of the step before are returned, which are
                there already, so that no step waits for words.
        """
        if not self.together:
            return signal, stop
        before = self._heard()
        flags = torch.tensor([signal, int(stop)])
        self._under_way = dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group, async_op=True), flags
        found = self._heard() if wait else before
        return max(before[0], found[0]), before[1] or found[1]

    def _heard(self) -> tuple[int, bool]:
        if self._under_way is None:
            return 0, False
        work, flags = self._under_way
        self._under_way = None
        work.wait()
        signal, stop = flags.tolist()
        return signal, bool(stop)


# -- parameters in shards -----------------------------------------------------------------------------------------
def is_sharded(model: nn.Module) -> bool:
    """Return whether a process has a share of the parameters only."""
    return any(hasattr(parameter, "to_local") for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; all processes must ask for one that is in shards."""
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor."""
    found: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found


def local_rows(parameter: Tensor, rows: slice) -> slice:
    """Return which rows of this process's part are the given rows of a parameter [N, ...]."""
    if not hasattr(parameter, "to_local") or rows == slice(None):
        return rows
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, cast(Any, parameter).device_mesh, cast(Any, parameter).placements
    )
    first, last, _ = rows.indices(parameter.shape[0])
    here = [min(max(0, edge - offset[0]), shape[0]) for edge in (first, last)]
    return slice(*here)


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor, whole in every process, in shards where another is."""
    if not hasattr(like, "to_local"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    there = cast(Any, like)
    return distribute_tensor(tensor.to(like.device), there.device_mesh, there.placements, src_data_rank=None)


def gathered(nest: Any) -> Any:
    """Return a nest of tensors and plain values with whole tensors; all processes must ask."""
    if _world() == 1:
        return nest
    return pytree.tree_map(lambda value: whole(value) if isinstance(value, Tensor) else value, nest)


def sharded_state(part: Any, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the saved state of an optimiser, whole, in shards where its parameters are."""
    if not isinstance(part, Optimizer):
        return state
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    if not any(hasattr(parameter, "to_local") for parameter in parameters):
        return state
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=True))

    def fit(number: int, value: Any) -> Any:
        own = by_number[number]
        return placed(value, own) if isinstance(value, Tensor) and value.shape == own.shape else value

    kept = {number: {key: fit(number, value) for key, value in of.items()} for number, of in state["state"].items()}
    return {**state, "state": kept}
