"""`Replay`: a bounded memory of rows, to be trained on again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lepton.errors import ConfigurationError, DataError, is_whole, nearest, require
from lepton.evaluate import checked_batch
from lepton.tasks import Classification, Task
from lepton.transfer._mixed import MixedBatches

__all__ = ["Replay"]

Group = tuple[str, int]
"""A task, and one of its classes; -1 for tasks without classes."""


class Replay:
    """A memory of at most `capacity` rows out of a stream, each with the labels that it has.

    With `balanced=False` every row of the stream is in the memory with the same probability: reservoir sampling
    (Vitter, 1985, algorithm R). With `balanced=True` tasks share the memory equally, and within a task its classes do,
    whatever their numbers in the stream, and each class is a uniform sample of its rows: class-balancing reservoir
    sampling (Chrysakis and Moens, 2020), with tasks above classes. A row with labels of several tasks is counted for
    one of them, drawn at random.

    Args:
        tasks: the tasks whose labels the rows have, such as `model.tasks.values()`; more of them with `know`.
        capacity: rows.
        balanced: see above.
        seed: of the draws.

    Raises:
        ConfigurationError: a capacity that is not allowed.

    Example:
        >>> import torch
        >>> from lepton.tasks import Classification, Regression
        >>> from lepton.transfer import Replay
        >>> replay = Replay([Classification("old", classes=2)], capacity=4)
        >>> replay.add(torch.arange(100.0)[:, None], {"old": (torch.arange(100) > 90).long()})
        >>> inputs, targets = replay.draw(4)
        >>> sorted(targets["old"].tolist())
        [0, 0, 1, 1]
        >>> replay.know([Regression("new")])
        >>> new = [(torch.zeros(3, 1), {"new": torch.zeros(3)})]
        >>> inputs, targets = next(iter(replay.mix(new, rows=2)))
        >>> len(inputs), targets["new"].tolist(), targets["old"][:3].tolist()
        (5, [0.0, 0.0, 0.0, nan, nan], [-100, -100, -100])
    """

    def __init__(self, tasks: Iterable[Task], capacity: int, *, balanced: bool = True, seed: int = 0) -> None:
        require(is_whole(capacity), "Replay", "capacity", capacity, "a whole number of at least 1")
        self.capacity = capacity
        self.balanced = balanced
        self.tasks: dict[str, Task] = {}
        self.know(tasks)
        self.seen: Counter[Group] = Counter()
        self._groups: list[Group] = []  # of each slot
        self._places: dict[Group, list[int]] = {}  # slots of each group
        self._full: set[Group] = set()
        self._inputs: Any = None
        self._targets: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def counts(self) -> dict[Group, int]:
        """Rows in the memory by task and class; the class is -1 for tasks without."""
        return {group: len(places) for group, places in self._places.items()}

    def know(self, tasks: Iterable[Task]) -> None:
        """Take rows with labels of further tasks."""
        self.tasks.update({task.name: task for task in tasks})

    def add(self, inputs: Any, targets: Mapping[str, Tensor]) -> None:
        """Offer a batch of rows to the memory; rows without any label are passed over.

        Args:
            inputs: a tensor [B, ...] or a nest of them; rows of one shape.
            targets: task -> tensor [B, ...].

        Raises:
            DataError: rows of another shape than those before, or targets of a task that is not known.
        """
        groups = self._groups_of(targets)
        self._make_room(inputs, targets)  # also refuses rows of another shape, before the first one is counted
        slots = [(row, self._slot(group)) for row, group in enumerate(groups) if group is not None]
        kept = {slot: row for row, slot in slots if slot is not None}
        if kept:
            self._store(inputs, targets, torch.tensor(list(kept)), torch.tensor(list(kept.values())))

    def fill(self, batches: Iterable[tuple[Any, Mapping[str, Tensor]]]) -> None:
        """Offer all rows of some batches."""
        for batch in batches:
            self.add(*checked_batch(batch))

    def draw(self, rows: int) -> tuple[Any, dict[str, Tensor]]:
        """Return rows drawn at random, inputs and targets, each at most once as long as there are enough.

        Raises:
            DataError: the memory is empty.
        """
        require(is_whole(rows), "Replay", "rows", rows, "a whole number of at least 1")
        if not len(self):
            raise DataError("the memory is empty: fill it with rows of the tasks that were learned.")
        if rows <= len(self):
            chosen = torch.randperm(len(self), generator=self._generator)[:rows]
        else:
            chosen = torch.randint(len(self), (rows,), generator=self._generator)
        inputs = pytree.tree_map(lambda stored: stored[chosen.to(stored.device)], self._inputs)
        return inputs, {name: stored[chosen.to(stored.device)] for name, stored in self._targets.items()}

    def mix(self, batches: Iterable[tuple[Any, Mapping[str, Tensor]]], rows: int) -> MixedBatches:
        """Return batches of new rows with old ones behind them: what a training on new rows iterates over.

        Args:
            batches: of the new rows, such as a loader.
            rows: old rows in each batch.
        """
        return MixedBatches(self, batches, rows)

    def missing(self, name: str) -> float:
        """Return the value that marks a missing label of a task."""
        return self._task(name).missing

    # -- to go on later ---------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return the rows and what decides about further ones: a nest of tensors, numbers, strings and lists.

        The rows `inputs` and `targets` are in the order of their slots; `places` has the slots of each task and class.
        """
        stored = None if self._inputs is None else pytree.tree_map(lambda x: x[: len(self)], self._inputs)
        return {
            "balanced": self.balanced,
            "seen": [[*group, count] for group, count in self.seen.items()],
            "places": [[*group, list(slots)] for group, slots in self._places.items()],
            "full": [list(group) for group in sorted(self._full)],
            "inputs": stored,
            "targets": {name: target[: len(self)] for name, target in self._targets.items()},
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold the rows that were saved and go on with the stream as the memory that `state_dict` was asked of.

        Raises:
            ConfigurationError: rows of a task that is not known, or more of them than there is room for.
            DataError: the parts of the state do not fit together.
        """
        places = {(str(name), int(number)): list(slots) for name, number, slots in state["places"]}
        for name in [*state["targets"], *(name for name, _ in places)]:
            self._task(name)
        size = sum(map(len, places.values()))
        if size > self.capacity:
            raise ConfigurationError(
                f"the saved memory holds {size} rows, but this one has room for {self.capacity}: give it a capacity "
                f"of at least {size}."
            )
        leaves = [*pytree.tree_leaves(state["inputs"]), *state["targets"].values()]
        group_of = {slot: group for group, slots in places.items() for slot in slots}
        if set(group_of) != set(range(size)) or any(len(leaf) != size for leaf in leaves if isinstance(leaf, Tensor)):
            raise DataError(f"the saved memory is damaged: it names {size} rows, but does not hold them.")
        self.balanced = bool(state["balanced"])
        self.seen = Counter({(str(name), int(number)): int(count) for name, number, count in state["seen"]})
        self._groups, self._places = [group_of[slot] for slot in range(size)], places
        self._full = {(str(name), int(number)) for name, number in state["full"]}
        self._inputs, self._targets = None, {}
        if size:
            self._make_room(state["inputs"], state["targets"])
            every = torch.arange(size)
            self._store(state["inputs"], state["targets"], every, every)
        self._generator.set_state(state["generator"])

    # -- where a row goes -------------------------------------------------------------------------------------
    def _groups_of(self, targets: Mapping[str, Tensor]) -> list[Group | None]:
        """Return for each row the group that it is counted for; None without a label."""
        present, classes = {}, {}
        for name, target in targets.items():
            task = self._task(name)
            present[name] = task.mask(target).reshape(len(target), -1).any(1).tolist()
            single = isinstance(task, Classification) and target.ndim == 1
            classes[name] = target.tolist() if single else [-1] * len(target)
        found: list[Group | None] = []
        for row in range(max((len(target) for target in targets.values()), default=0)):
            names = [name for name in targets if present[name][row]]
            name = names[self._below(len(names))] if names else ""
            found.append((name, classes[name][row]) if names else None)
        return found

    def _slot(self, group: Group) -> int | None:
        """Return the slot for a row of the stream; None if it is not kept."""
        self.seen[group] += 1
        if len(self) < self.capacity:
            self._groups.append(group)
            self._places.setdefault(group, []).append(len(self) - 1)
            return len(self) - 1
        slot = self._balanced_slot(group) if self.balanced else self._below(self.seen.total())
        if slot is None or slot >= self.capacity:
            return None
        self._move(slot, group)
        return slot

    def _balanced_slot(self, group: Group) -> int | None:
        largest = self._largest()
        self._full.update(largest)
        if group not in self._full:
            return self._one_of([slot for each in largest for slot in self._places[each]])
        own = self._places[group]
        return self._one_of(own) if self._below(self.seen[group]) < len(own) else None

    def _largest(self) -> list[Group]:
        """Return the largest classes of the tasks with most rows."""
        by_task: dict[str, list[int]] = {}
        for (name, _), places in self._places.items():
            by_task.setdefault(name, []).append(len(places))
        most = max(map(sum, by_task.values()))
        size = {name: max(sizes) for name, sizes in by_task.items() if sum(sizes) == most}
        return [group for group, places in self._places.items() if size.get(group[0]) == len(places)]

    def _move(self, slot: int, group: Group) -> None:
        """Give a slot to a group."""
        self._places[self._groups[slot]].remove(slot)
        self._groups[slot] = group
        self._places.setdefault(group, []).append(slot)

    def _one_of(self, places: Sequence[int]) -> int:
        return places[self._below(len(places))]

    def _below(self, bound: int) -> int:
        return int(torch.randint(bound, (), generator=self._generator))

    # -- storage ----------------------------------------------------------------------------------------------
    def _make_room(self, inputs: Any, targets: Mapping[str, Tensor]) -> None:
        if self._inputs is None:
            self._inputs = pytree.tree_map(lambda x: x.new_zeros(self.capacity, *x.shape[1:]), inputs)
        for name, target in targets.items():
            if name not in self._targets:
                shape = (self.capacity, *target.shape[1:])
                self._targets[name] = target.new_full(shape, self.missing(name))
        for new, old in self._pairs(inputs, targets):
            if new.shape[1:] != old.shape[1:] or new.dtype != old.dtype:
                raise DataError(
                    f"the memory holds rows {list(old.shape[1:])} in {old.dtype}, but these are {list(new.shape[1:])} "
                    f"in {new.dtype}: rows of one shape and one dtype can be replayed."
                )

    def _store(self, inputs: Any, targets: Mapping[str, Tensor], slots: Tensor, rows: Tensor) -> None:
        for new, old in self._pairs(inputs, targets):
            old[slots.to(old.device)] = new.detach()[rows.to(new.device)].to(old.device)
        for name in self._targets.keys() - targets.keys():
            self._targets[name][slots.to(self._targets[name].device)] = self.missing(name)

    def _pairs(self, inputs: Any, targets: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return what came and where it is stored, tensor by tensor."""
        leaves = zip(pytree.tree_leaves(inputs), pytree.tree_leaves(self._inputs), strict=True)
        return [*leaves, *((targets[name], self._targets[name]) for name in targets)]

    def _task(self, name: str) -> Task:
        if name not in self.tasks:
            raise ConfigurationError(
                f"the memory knows no task {name!r}; it knows {list(self.tasks)}: tell it with know([task])."
                f"{nearest(name, self.tasks)}"
            )
        return self.tasks[name]
