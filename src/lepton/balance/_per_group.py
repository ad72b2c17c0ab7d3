from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any, final

import torch
from torch import Tensor, nn

from lepton.balance._equal import Equal
from lepton.balance.base import Balancer
from lepton.errors import ConfigurationError, nearest, require

__all__ = ["Members", "PerGroup"]

Members = Sequence[str | int] | EllipsisType
"""The tasks of a group: their names or their places among the tasks; `...` for those that no other group has."""


@final
class PerGroup(Balancer):
    r"""A balancer for each group of tasks, and one over the groups, which sees each group as one task.

    The balancer of a group S gives the weights w of the gradients g_k of its tasks, the one over the groups v:

        h_S = sum_{k in S} w_k g_k,    v from the Gramian <h_S, h_R> of all groups,    the trunk gets sum_S v_S h_S

    Balancers of losses go together likewise: what the balancer of a group makes of the losses of its tasks is the loss
    of the group, and the one over the groups weighs these. Balancers of both kinds may be mixed. This library.

    - `loss_weight`: as in the group's balancer within the group, as in the one over the groups between them.
    - The weights are the products w_k v_S. With balancers whose weights sum to one they do, too.
    - A balancer over the groups that follows losses, as `DynamicWeightAverage` or `FAMO` do, is shown the mean of the
      losses of each group's present tasks.
    - A group of which no task is present is absent, as a task would be.
    - One that needs the gradients themselves (`GradDrop` and those that follow gradients over time) fits into no group.

    Args:
        groups: group -> its tasks and their balancer. The tasks are names, or places among the tasks; `...`, in YAML
            `others`, stands for all tasks that no other group has.
        over: the balancer over the groups; `Equal()` by default.

    Raises:
        ConfigurationError: a task is in no group or in two, is not known, or balancers do not go together.

    Example:
        >>> import torch
        >>> from lepton.balance import MGDA
        >>> balancer = PerGroup({"vision": (["seg", "depth"], MGDA()), "text": (["tags"], Equal())}, over=MGDA())
        >>> gramian = torch.diag(torch.tensor([1.0, 3.0, 2.25]))
        >>> balancer.bind(3, ["seg", "depth", "tags"]).weights(gramian)  # vision as one task has the norm 0.75
        tensor([0.5625, 0.1875, 0.2500])
    """

    _group_of: Tensor
    _place_in: Tensor

    def __init__(self, groups: Mapping[str, tuple[Members, Balancer]], over: Balancer | None = None) -> None:
        super().__init__()
        self._members = _checked_groups(groups)
        self.over = Equal() if over is None else over
        require(isinstance(self.over, Balancer), "PerGroup", "over", over, "a balancer, such as MGDA()")
        for name, (_, balancer) in groups.items():
            self.add_module(_key(name), balancer)
        inner = {name: balancer for name, (_, balancer) in groups.items()}
        _refuse_what_does_not_nest(inner, self.over)
        every = [self.over, *inner.values()]
        self.wants_losses = any(balancer.wants_losses for balancer in every)
        self.reevaluates = any(balancer.reevaluates for balancer in every)
        self.logarithmic = any(balancer.logarithmic for balancer in every)
        self.views = frozenset.intersection(*(balancer.views for balancer in every))
        self._used: tuple[str, ...] = ()

    @property
    def uses_gramian(self) -> bool:
        """Whether a group's balancer or the one over the groups uses it."""
        return self.over.uses_gramian or any(self._balancer(name).uses_gramian for name in self._members)

    def _balancer(self, group: str) -> Balancer:
        found = getattr(self, _key(group))
        assert isinstance(found, Balancer)
        return found

    def _build(self, n_tasks: int) -> None:
        members = _resolved(self._members, n_tasks, self.task_names)
        self._used = tuple(members)
        for name, places in members.items():
            self._balancer(name).bind(len(places), [self.task_names[place] for place in places if self.task_names])
        self.over.bind(len(members), self._used)
        order = [place for places in members.values() for place in places]
        group_of = {place: number for number, places in enumerate(members.values()) for place in places}
        back = [order.index(task) for task in range(n_tasks)]
        self.register_buffer("_group_of", torch.tensor([group_of[task] for task in range(n_tasks)]), persistent=False)
        self.register_buffer("_place_in", torch.tensor(back), persistent=False)
        for number, places in enumerate(members.values()):
            self.register_buffer(f"_places_{number}", torch.tensor(places), persistent=False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # No number of tasks is read off the state: that of the groups' balancers is smaller.
        nn.Module._load_from_state_dict(self, state_dict, prefix, *args)

    def _groups(self) -> Iterator[tuple[Balancer, Tensor]]:
        """Yield each group's balancer and the places of its tasks."""
        for number, name in enumerate(self._used):
            yield self._balancer(name), getattr(self, f"_places_{number}")

    def _in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """Return [T] from what each group has of its tasks."""
        return torch.cat(list(parts))[self._place_in]

    def _of_groups(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of each group's present tasks, and which groups are present."""
        zeros = losses.new_zeros(len(self._used))
        counts = zeros.index_add(0, self._group_of, present.to(losses))
        sums = zeros.index_add(0, self._group_of, torch.where(present, losses, 0.0))
        return sums / counts.clamp_min(1), counts > 0

    def takes_logarithms(self, present: Tensor) -> Tensor:
        """Return those of the groups that take them, or all; see `Balancer.takes_logarithms`."""
        if self.over.logarithmic:
            return present
        return self._in_order([balancer.takes_logarithms(present[places]) for balancer, places in self._groups()])

    def task_weights(self) -> Tensor:
        """Return each task's weight in its group times that of the group [T]; see `Balancer.task_weights`."""
        within = self._in_order([balancer.task_weights() for balancer, _ in self._groups()])
        return within * self.over.task_weights()[self._group_of]

    def combine(self, losses: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        """Return the scalar loss of the groups' scalar losses; see `Balancer.combine`."""
        shares = self.over.task_weights()
        each = shares[self._group_of]
        within = torch.where(each != 0, weights / torch.where(each != 0, each, 1.0), 0.0)
        totals, there = [], []
        for balancer, places in self._groups():
            total = balancer.combine(losses[places], within[places], present[places])
            there.append(present[places].any())
            totals.append(torch.where(there[-1], total, 0.0))  # without the penalty that a method may add
        return self.over.combine(torch.stack(totals), shares, torch.stack(there))

    def observe(self, losses: Tensor, present: Tensor) -> None:
        """Show the groups' balancers their losses, and the one over them the means; see `Balancer.observe`."""
        for balancer, places in self._groups():
            balancer.observe(losses[places], present[places])
        self.over.observe(*self._of_groups(losses, present))

    def reobserve(self, losses: Tensor, present: Tensor) -> None:
        """As `observe`, after the step; see `Balancer.reobserve`."""
        for balancer, places in self._groups():
            balancer.reobserve(losses[places], present[places])
        self.over.reobserve(*self._of_groups(losses, present))

    def weights(self, gramian: Tensor, *, losses: Tensor | None = None) -> Tensor:
        """Return each task's weight in its group times that of the group [T]; see `Balancer.weights`."""
        present = torch.diagonal(gramian) > 0
        parts = []
        for balancer, places in self._groups():
            own = None if losses is None else losses[places]
            parts.append(balancer.weights(gramian[places][:, places], losses=own))
        within = torch.where(present, self._in_order(parts), 0.0)
        if not self.over.uses_gramian:
            return within
        mixture = gramian.new_zeros(len(within), len(self._used), dtype=torch.float64)
        mixture.scatter_(1, self._group_of[:, None], within.double()[:, None])
        of_groups = (mixture.mT @ gramian.double() @ mixture).to(gramian.dtype)
        means = None if losses is None else self._of_groups(losses, present)[0]
        return within * self.over.weights(of_groups, losses=means)[self._group_of]

    def extra_repr(self) -> str:
        """Return the groups."""
        return ", ".join(f"{name}: {list(told) if told is not ... else '...'}" for name, told in self._members.items())


def _key(group: str) -> str:
    """Return the name of a group's balancer among the modules."""
    return f"group_{group}"


def _checked_groups(groups: Any) -> dict[str, tuple[str | int, ...] | EllipsisType]:
    """Return the tasks of each group, refusing what is no mapping from groups to tasks and balancers."""
    allowed = 'a mapping such as {"vision": (["seg", "depth"], MGDA()), "others": (..., Equal())}'
    require(isinstance(groups, Mapping) and len(groups) > 0, "PerGroup", "groups", groups, allowed)
    found: dict[str, tuple[str | int, ...] | EllipsisType] = {}
    for name, told in groups.items():
        named = isinstance(name, str) and name != "" and "." not in name
        require(named, "PerGroup", "the name of a group", name, "a word without a dot")
        pair = isinstance(told, (tuple, list)) and len(told) == 2 and isinstance(told[1], Balancer)
        require(pair, "PerGroup", f"groups[{name!r}]", told, 'tasks and a balancer, such as (["seg"], MGDA())')
        tasks = told[0]
        words = "a list of names or places of tasks, or ... for those that no other group has"
        listed = tasks is ... or (isinstance(tasks, (tuple, list)) and all(_is_task(task) for task in tasks))
        require(listed and tasks not in ((), []), "PerGroup", f"the tasks of {name!r}", tasks, words)
        found[name] = tasks if tasks is ... else tuple(tasks)
    rest = [name for name, tasks in found.items() if tasks is ...]
    require(len(rest) < 2, "PerGroup", "groups", rest, "such that at most one of them has the tasks of no other, `...`")
    return found


def _is_task(task: object) -> bool:
    return isinstance(task, (str, int)) and not isinstance(task, bool)


def _refuse_what_does_not_nest(inner: Mapping[str, Balancer], over: Balancer) -> None:
    for group, balancer in [*inner.items(), (None, over)]:
        where = "over" if group is None else f"group {group!r}"
        keys = ("over",) if group is None else ("groups", group)
        if balancer.uses_signs or balancer.uses_jacobian:
            raise ConfigurationError(
                f"PerGroup, {where}: {type(balancer).__name__} needs the gradients themselves, and groups are weighed "
                "by their products: use it for all tasks, without groups.",
                where=keys,
            )
        if balancer is not over and over.logarithmic and balancer.logarithmic:
            raise ConfigurationError(
                f"PerGroup, {where}: {type(balancer).__name__} takes the logarithms of its tasks' losses, and "
                f"{type(over).__name__} over the groups would take that of their sum, which may be negative: leave one "
                "of the two out.",
                where=keys,
            )
    if len({id(balancer) for balancer in (over, *inner.values())}) <= len(inner):
        raise ConfigurationError("PerGroup: two groups have the same balancer object: create one for each.")


def _resolved(
    members: Mapping[str, tuple[str | int, ...] | EllipsisType], n_tasks: int, names: Sequence[str]
) -> dict[str, list[int]]:
    """Return the places of each group's tasks among all tasks; a group of the others that has none is left out."""
    owner: dict[int, str] = {}
    for group, tasks in members.items():
        for task in () if tasks is ... else tasks:
            place = _place(group, task, n_tasks, names)
            if place in owner:
                raise ConfigurationError(f"PerGroup: the task {task!r} is in {owner[place]!r} and in {group!r}.")
            owner[place] = group
    others = next((group for group, tasks in members.items() if tasks is ...), None)
    left = [place for place in range(n_tasks) if place not in owner]
    if left and others is None:
        raise ConfigurationError(
            f"PerGroup: the tasks {[names[place] if names else place for place in left]} are in no group: add them to "
            'one, or give a group for all others, "others": (..., Equal()).'
        )
    owner |= {place: others for place in left if others is not None}
    found = {group: [place for place in range(n_tasks) if owner[place] == group] for group in members}
    return {group: places for group, places in found.items() if places}


def _place(group: str, task: str | int, n_tasks: int, names: Sequence[str]) -> int:
    if isinstance(task, int):
        if 0 <= task < n_tasks:
            return task
        raise ConfigurationError(
            f"PerGroup: {group!r} has the task {task}, but the {n_tasks} tasks are counted from 0."
        )
    if task in names:
        return list(names).index(task)
    known = f"the tasks are {list(names)}." if names else "the tasks have no names here: give their places."
    raise ConfigurationError(f"PerGroup: {group!r} names {task!r}, but {known}{nearest(task, names)}")
