"""`Mixture`: several loaders as one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from lepton.data._batches import joined
from lepton.data._loading import Batch, check_loader, seeded_generator
from lepton.data.mixture._deal import SetDeal
from lepton.data.mixture._plan import (
    BatchesName,
    StopName,
    StrategyName,
    check_positive,
    plan_of,
    probabilities_of,
)
from lepton.data.mixture._reader import SetLoader, reader_of
from lepton.errors import CheckpointError, ConfigurationError, DataError, is_number, is_whole, nearest, require

__all__ = ["Mixture"]

_IN_ORDER = ("round_robin", "sequential")


class Mixture:
    """Iterates over several data sets, each with its own tasks, in batches of rows of all of them.

    A row lacks the labels of the tasks that its set does not have: they are the missing value. The sets have the same
    inputs, except with one set in each batch.

    | strategy | where a row comes from |
    |---|---|
    | `proportional` | from the set k with the probability w_k N_k / sum_l w_l N_l, for N_k rows and the weight w_k |
    | `temperature` | likewise with N_k^(1/T): T = 1 is proportional, a large T nearly uniform |
    | `uniform` | likewise without N_k |
    | `round_robin` | from one set after the other, one row of each |
    | `sequential` | all rows of the first set, then all of the second, and so on |

    An epoch begins a new pass over every set, and ends when the first set was passed over, of which every row came
    exactly once (`first_exhausted`), or when the last one was, while smaller ones began anew (`all_exhausted`: every
    row came at least once, and the last batch is filled up). How many rows of each set a batch has is drawn before any
    row is read: all epochs have the same number of batches, in another order, and all processes of a training agree.

    The position is exact: `state_dict` holds every set's and the row in it. A set whose rows turn out unusable leaves
    its last places in the pass empty.

    Args:
        loaders: name of the set -> its loader, `drop_last=False`, such as a `TensorLoader` or a `StreamLoader`. Their
            `rank` and `world_size` are the mixture's, too, and their order in an epoch is theirs.
        batch_size: rows per batch; by default that of the first loader.
        strategy: which set a row comes from, as the table says; by default `proportional`.
        temperature: T of `temperature`, at least 1.
        probabilities: name -> probability of a row of the set, in place of a strategy.
        weights: name -> factor on the probability of the set; 1 where it is not named.
        stop: when an epoch ends.
        batches: `mixed`, or `single`: each batch from one set, drawn by the same probabilities.
        seed: fixes the draws.
        drop_last: leave out batches that are not full.
        missing: task -> value of a label that is not there; by default NaN, and -100 for whole numbers.
        pads: input -> what fills the places beyond its end, where rows of several sets meet; by default 0.
        tasks: name of the set -> its tasks, for `epochs`; by default those that its batches have targets of.

    Raises:
        ConfigurationError: a value that is not allowed.
        DataError: there is no full batch.

    Example:
        >>> import torch
        >>> from lepton.data import TensorData, TensorLoader
        >>> prices = TensorData(torch.zeros(6, 2), {"price": torch.ones(6)})
        >>> kinds = TensorData(torch.ones(2, 2), {"kind": torch.tensor([0, 1])})
        >>> sets = {"a": TensorLoader(prices, 4), "b": TensorLoader(kinds, 4)}
        >>> mixture = Mixture(sets, strategy="round_robin", stop="first_exhausted")
        >>> inputs, targets = next(iter(mixture))
        >>> targets["price"].tolist(), targets["kind"].tolist()
        ([1.0, 1.0, nan, nan], [-100, -100, 0, 1])
    """

    def __init__(
        self,
        loaders: Mapping[str, SetLoader],
        batch_size: int | None = None,
        *,
        strategy: StrategyName | None = None,
        temperature: float = 2.0,
        probabilities: Mapping[str, float] | None = None,
        weights: Mapping[str, float] | None = None,
        stop: StopName = "all_exhausted",
        batches: BatchesName = "mixed",
        seed: int = 0,
        drop_last: bool = False,
        missing: Mapping[str, float] | None = None,
        pads: Mapping[str, float] | None = None,
        tasks: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        _check_loaders(loaders)
        self.names = list(loaders)
        first = loaders[self.names[0]]
        self.batch_size = first.batch_size if batch_size is None else batch_size
        require(is_whole(self.batch_size), "Mixture", "batch_size", batch_size, "a whole number of at least 1")
        for name, value, allowed in (("stop", stop, StopName), ("batches", batches, BatchesName)):
            require(value in get_args(allowed), "Mixture", name, value, f"one of {get_args(allowed)}")
        warm = is_number(temperature) and temperature >= 1
        require(warm, "Mixture", "temperature", temperature, "a number of at least 1")
        self.rank, self.world_size = first.rank, first.world_size
        self.n_rows = sum(loader.n_rows for loader in loaders.values())
        self.stop, self.batches, self.seed, self.drop_last = stop, batches, seed, drop_last
        self.missing, self.pads = dict(missing or {}), dict(pads or {})
        self.tasks = {name: tuple(tasks[name]) for name in self.names} if tasks is not None else {}
        self.strategy, self.probabilities = _chosen(loaders, strategy, temperature, probabilities, weights)
        if self.strategy == "sequential" and stop == "first_exhausted":
            raise ConfigurationError("Mixture: sequential ends with the last set: take stop='all_exhausted'.")
        self._readers = {name: reader_of(loader) for name, loader in loaders.items()}
        self._plan = self._planned()
        self.epoch = 0
        self._counts_all = False  # whether `batch_size` rows are those of all processes
        self._first = self._done = 0
        self._given = torch.zeros(len(self.names), dtype=torch.int64)

    def shared(self, rank: int, world_size: int) -> Mixture:
        """Return a mixture of one process's rows of the same batches: `batch_size` rows are those of all together.

        Process r takes every `world_size`-th row of a batch from the r-th on, of whichever sets. The rows of a set in
        memory are those of one process. A set that is streamed gives as many rows to each batch as for one process, but
        every process reads a stretch of its own, as long as its rows of a pass are many.

        Args:
            rank: number of the process, from 0.
            world_size: how many processes share each batch.

        Raises:
            ConfigurationError: it stands within an epoch, or a set's loader is not one of this package.
        """
        check_loader("Mixture", self.batch_size, 0, rank, world_size)
        if self._first or self._done:
            raise ConfigurationError("Mixture: an epoch was begun: share it among processes before its first batch.")
        found = copy.copy(self)
        found.rank, found.world_size, found._counts_all = rank, world_size, True
        found.tasks, found._given = dict(self.tasks), self._given.clone()
        found._readers = {name: reader.shared(rank, world_size) for name, reader in self._readers.items()}
        return found

    def _planned(self) -> Tensor:
        """Return how many rows of each set every batch of the first epoch holds [G, K]."""
        plan = plan_of(
            [reader.rows for reader in self._readers.values()],
            self.batch_size,
            strategy=self.strategy,
            probabilities=self.probabilities,
            stop=self.stop,
            batches=self.batches,
            seed=self.seed,
        )
        if self.drop_last:
            plan = plan[plan.sum(1) == self.batch_size]
        if not len(plan):
            raise DataError(f"the sets {self.names} do not fill one batch of {self.batch_size} rows in an epoch.")
        return plan

    def plan(self, epoch: int) -> Tensor:
        """Return how many rows of each set every batch of an epoch holds [G, K].

        Args:
            epoch: counted from 0.
        """
        if self.probabilities is None or epoch == 0:
            return self._plan
        full = len(self._plan) - (0 if self._plan[-1].sum() == self.batch_size else 1)  # a shorter one stays the last
        order = torch.randperm(full, generator=seeded_generator(self.seed, epoch, 1))
        return torch.cat([self._plan[order], self._plan[full:]])

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        plan = self.plan(self.epoch)
        begin, self._first = self._first, 0
        if begin == 0:
            self._begin_passes()  # an epoch may have been left in its middle
        if self._counts_all:
            self._deal_out(plan, plan[:begin].sum(0).tolist())
        self._done = begin
        self.epoch += 1
        for place in range(begin, len(plan)):
            batch = self._batch(plan[place].tolist())
            self._done = place + 1
            self._given += plan[place]
            if self._done == len(plan):
                self._begin_passes()
            yield batch
        self._done = 0

    def _batch(self, counts: Sequence[int]) -> Batch:
        parts, first = [], 0
        for (name, reader), number in zip(self._readers.items(), counts, strict=True):
            found = list(reader.take(number, first))
            if found and name not in self.tasks:
                self.tasks[name] = tuple(found[0][1])
            parts += found
            first += number
        if not parts:
            parts.append(next(reader for reader, n in zip(self._readers.values(), counts, strict=True) if n).none())
        return joined(parts, self.missing, self.pads)

    def _deal_out(self, plan: Tensor, given: Sequence[int]) -> None:
        """Tell the readers which rows of an epoch are this process's, and how many it gave before."""
        for place, (reader, number) in enumerate(zip(self._readers.values(), given, strict=True)):
            reader.enter(SetDeal(plan, place, self.rank, self.world_size), number)

    def _begin_passes(self) -> None:
        for reader in self._readers.values():
            if reader.begun:
                reader.restart()

    # -- what was seen ----------------------------------------------------------------------------------------
    def epochs(self) -> dict[str, float]:
        """Return how often the rows were passed over so far: `train/<task>/epochs`, `train/sets/<set>/epochs`.

        A task's are those of the rows of all sets that have it, together.
        """
        rows = torch.tensor([reader.rows for reader in self._readers.values()])
        found = {}
        for task in dict.fromkeys(task for tasks in self.tasks.values() for task in tasks):
            its = torch.tensor([task in self.tasks.get(name, ()) for name in self.names])
            found[f"train/{task}/epochs"] = int(self._given[its].sum()) / int(rows[its].sum())
        passes = (self._given.double() / rows).tolist()
        return found | {f"train/sets/{name}/epochs": value for name, value in zip(self.names, passes, strict=True)}

    # -- position ---------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return where the next batch comes from: epoch, batch, the position in each set, and what was given so far."""
        within = 0 < self._done < len(self)
        return {
            "epoch": self.epoch - 1 if within else self.epoch,
            "batch": self._done if within else self._first,
            "given": self._given.tolist(),
            "sets": {name: reader.state_dict() for name, reader in self._readers.items()},
            "tasks": {name: list(tasks) for name, tasks in self.tasks.items()},
            "about": self._about(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration begin where `state_dict` stood.

        Raises:
            CheckpointError: the sets, or what decides their order, are not the same.
        """
        for name, value in self._about().items():
            if state["about"][name] != value:
                raise CheckpointError(
                    f"the position belongs to a mixture with {name} {state['about'][name]!r}, but here it is {value!r}:"
                    " go on with the same sets and options, or begin anew."
                )
        self.epoch, self._first, self._done = state["epoch"], state["batch"], 0
        self._given = torch.tensor(state["given"])
        self.tasks |= {name: tuple(tasks) for name, tasks in state["tasks"].items()}
        for name, reader in self._readers.items():
            reader.load_state_dict(state["sets"][name])

    def _about(self) -> dict[str, Any]:
        return {
            "sets": {name: reader.n_rows for name, reader in self._readers.items()},
            "batch_size": self.batch_size,
            "strategy": self.strategy,
            "probabilities": None if self.probabilities is None else self.probabilities.tolist(),
            "stop": self.stop,
            "batches": self.batches,
            "seed": self.seed,
            "world_size": 1 if self._counts_all else self.world_size,
        }


def _check_loaders(loaders: Mapping[str, SetLoader]) -> None:
    if not loaders:
        raise ConfigurationError("Mixture: there is no set.")
    for name, loader in loaders.items():
        if loader.drop_last:
            raise ConfigurationError(f"Mixture: the loader of {name!r} leaves rows out: make it with drop_last=False.")
    shares = {name: (loader.rank, loader.world_size) for name, loader in loaders.items()}
    if len(set(shares.values())) > 1:
        raise ConfigurationError(f"Mixture: the loaders differ in rank and world_size: {shares}.")


def _chosen(
    loaders: Mapping[str, SetLoader],
    strategy: StrategyName | None,
    temperature: float,
    probabilities: Mapping[str, float] | None,
    weights: Mapping[str, float] | None,
) -> tuple[StrategyName, Tensor | None]:
    """Return the strategy, and the probability of each set where they are drawn."""
    allowed = get_args(StrategyName)
    require(strategy is None or strategy in allowed, "Mixture", "strategy", strategy, f"one of {allowed}")
    for argument, given in (("probabilities", probabilities), ("weights", weights)):
        strange = [name for name in given or () if name not in loaders]
        if strange:
            raise ConfigurationError(
                f"Mixture: {argument} names {strange[0]!r}, which is none of {list(loaders)}."
                f"{nearest(strange[0], loaders)}"
            )
    if probabilities is not None:
        return "proportional", _told(loaders, strategy, probabilities, weights)
    factors = [(weights or {}).get(name, 1.0) for name in loaders]
    check_positive("Mixture", "weights", factors)
    strategy = strategy or "proportional"
    if strategy in _IN_ORDER:
        if set(factors) != {1.0}:
            raise ConfigurationError(
                f"Mixture: {strategy} draws nothing, so that weights mean nothing: leave them out."
            )
        return strategy, None
    return strategy, probabilities_of([loader.n_rows for loader in loaders.values()], strategy, temperature, factors)


def _told(
    loaders: Mapping[str, SetLoader],
    strategy: StrategyName | None,
    probabilities: Mapping[str, float],
    weights: Mapping[str, float] | None,
) -> Tensor:
    if strategy is not None or weights:
        raise ConfigurationError(
            "Mixture: probabilities take the place of a strategy and of weights: give one of both."
        )
    lacking = [name for name in loaders if name not in probabilities]
    if lacking:
        raise ConfigurationError(f"Mixture: probabilities lack {lacking[0]!r}.")
    told = [probabilities[name] for name in loaders]
    check_positive("Mixture", "probabilities", told)
    require(abs(sum(told) - 1) < 1e-6, "Mixture", "probabilities", dict(probabilities), "that add up to 1")
    return torch.tensor(told, dtype=torch.float64)
