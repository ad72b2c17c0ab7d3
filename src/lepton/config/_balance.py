"""The section `balance`: made from the balancers' constructors, and the balancer that it describes."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

import lepton.balance
from lepton.balance import VIEWS, Balancer
from lepton.config._schema import Section, argument_texts, arguments_of, section_of, snake_case, tagged
from lepton.errors import ConfigurationError, nearest

__all__ = ["BALANCE", "compositions", "make_balancer", "method_named", "methods", "refuse_unknown_tasks", "wrappers"]

_WHOLE = ("gradients", "shared", "memory_budget")
"""Keys that say something of the whole section."""


# -- names --------------------------------------------------------------------------------------------------------
@functools.cache
def methods() -> dict[str, type[Balancer]]:
    """Return the methods that weigh, by their names in YAML."""
    return {snake_case(kind.__name__): kind for kind in _balancers() if not _is_composition(kind)}


@functools.cache
def compositions() -> dict[str, Any]:
    """Return the balancers that wrap another one, by their names in YAML."""
    return {snake_case(kind.__name__): kind for kind in _balancers() if _is_composition(kind)}


def _balancers() -> list[Any]:
    found = [getattr(lepton.balance, name) for name in lepton.balance.__all__]
    return [kind for kind in found if getattr(kind, "__final__", False)]


def _is_composition(kind: type[Balancer]) -> bool:
    return next(iter(inspect.signature(kind).parameters), "") == "balancer"


def method_named(name: str) -> str:
    """Return a method's name in YAML for one that people may type; an unknown one as it is.

    Upper and lower case, `_`, `-` and spaces do not matter, and a method's `aliases` are taken as well.
    """
    return _spellings().get(_plain(name), name)


@functools.cache
def _spellings() -> dict[str, str]:
    return {_plain(told): name for name, kind in methods().items() for told in (*kind.aliases, name)}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


# -- sections -----------------------------------------------------------------------------------------------------
def _method_models() -> dict[str, type[Section]]:
    """Return the models of the methods, those that are made of other balancers apart."""
    told = {
        name: (Any, Field(None, description=f"{_summary(kind)} true, one number, a list or a mapping of its options."))
        for name, kind in compositions().items()
    }
    words = "Of the view `parameters`: the trunk's modules that are compared, by their names; by default all of it."
    modules = (list[str] | None, Field(None, min_length=1, description=words))
    words = "Of the view `parameters`: the most that all tasks' gradients may take: bytes, or a share of the memory."
    budget = (float | None, Field(None, gt=0, description=words))
    shared = {"shared": modules, "memory_budget": budget, **told}
    plain = {
        name: section_of(kind, extra={"method": (Literal[name], name), "gradients": _view(kind), **shared})
        for name, kind in methods().items()
        if not _of_groups(kind)
    }
    single: Any = Annotated[tagged(list(plain.values()), "method"), BeforeValidator(_long_balance)]
    grouped = {
        name: section_of(
            kind,
            extra={"method": (Literal[name], name), "gradients": _view(kind), **_group_fields(kind, single), **shared},
        )
        for name, kind in methods().items()
        if _of_groups(kind)
    }
    return plain | grouped


def _view(kind: type[Balancer]) -> tuple[Any, Any]:
    """Return the field of the view; a method that knows one only has it by default."""
    default = "fork_layer" if "fork_layer" in kind.views else min(kind.views)
    words = "Which view of a task's gradient is compared; by default `parameters` for methods that follow gradients."
    return Literal[tuple(sorted(VIEWS))], Field(default, description=words)


def _of_groups(kind: type[Balancer]) -> bool:
    return "groups" in inspect.signature(kind).parameters


def _group_fields(kind: type[Balancer], single: Any) -> dict[str, Any]:
    """Return the fields of a method of groups: theirs, and the balancer over them."""
    texts = argument_texts(kind)

    class GroupSection(Section):
        """Tasks that are balanced among each other, and as one against the other groups."""

        tasks: list[str] | Literal["others"] = Field(
            description="Their names; `others` for those that no other group has."
        )
        balance: single = Field(default={"method": "equal"}, validate_default=True, description="How they are weighed.")

    over = Field(default={"method": "equal"}, validate_default=True, description=texts["over"])
    groups = Field(description=texts["groups"])
    return {"groups": (dict[str, GroupSection], groups), "over": (single, over)}


def _balance_union() -> Any:
    union = tagged(list(_method_models().values()), "method")
    return Annotated[union, BeforeValidator(_long_balance), AfterValidator(_buildable)]


def _long_balance(told: Any) -> Any:
    """Return a `balance` section as a mapping with the method's own name; `told` may be the name only."""
    if isinstance(told, str):
        return {"method": method_named(told)}
    if not isinstance(told, Mapping):
        return told
    method = told.get("method", "equal")
    return {**told, "method": method_named(method) if isinstance(method, str) else method}


def _buildable(section: Any) -> Any:
    """Refuse what a constructor refuses, while the line is still known."""
    try:
        make_balancer(section).check_view(section.gradients)
        if section.memory_budget is not None and section.gradients != "parameters":
            words = f"memory_budget is of the view parameters, but gradients is {section.gradients!r}: leave it out"
            raise ConfigurationError(words, where=("memory_budget",))
    except ConfigurationError as error:
        found = {"words": str(error).removesuffix("."), "key": list(error.where) or ["method"]}
        raise PydanticCustomError("balance", "{words}", found) from None
    return section


def refuse_unknown_tasks(section: Any, names: Sequence[str]) -> None:
    """Refuse groups of tasks that there are not.

    Args:
        section: a `balance` section.
        names: of all tasks.
    """
    for group, told in (getattr(section, "groups", None) or {}).items():
        for place, task in enumerate([] if told.tasks == "others" else told.tasks):
            if task not in names:
                words = f"there is no task {task!r}; the tasks are {list(names)}.{nearest(task, names)}".rstrip(".")
                key = ["balance", "groups", group, "tasks", place]
                raise PydanticCustomError("balance", "{words}", {"words": words, "key": key})


def _summary(kind: type) -> str:
    return (inspect.getdoc(kind) or "").split("\n")[0]


if TYPE_CHECKING:  # made at run time: a checker cannot know its fields
    BALANCE: TypeAlias = Any
else:
    BALANCE = _balance_union()


# -- objects ------------------------------------------------------------------------------------------------------
def make_balancer(section: Any) -> Balancer:
    """Return the balancer of a `balance` section; compositions wrap it in the order of their `nesting`.

    Raises:
        ConfigurationError: an option that the method or composition does not take.

    Example:
        >>> from lepton.config import check_config
        >>> config = check_config({"data": {}, "tasks": ["a"], "balance": {"method": "mgda", "log": True, "every": 4}})
        >>> make_balancer(config.balance)
        Every(
          n=4
          (balancer): Log(
            (balancer): MGDA(normalization='none', iterations=200)
          )
        )
    """
    kind = methods()[section.method]
    balancer = kind(**{name: _built(value, name) for name, value in arguments_of(kind, section).items()})
    for name, wrapper, told in wrappers(section):
        with _at(name):
            balancer = _wrap(name, wrapper, balancer, told)
    return balancer


def wrappers(section: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the compositions that a `balance` section has, innermost first: name, class, and what was told of it."""
    for name, wrapper in sorted(compositions().items(), key=lambda item: item[1].nesting):
        told = getattr(section, name)
        if told is not None and told is not False:
            yield name, wrapper, told


class _at:
    """Adds a key in front of where an error is."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, ConfigurationError):
            error.where = (*self.keys, *error.where)


def _built(value: Any, *keys: str) -> Any:
    """Return what a constructor takes for a value of a section: sections of balancers become balancers."""
    if isinstance(value, Mapping) and all(isinstance(item, Section) for item in value.values()):
        return {name: _group(told, *keys, name) for name, told in value.items()}
    return _inner(value, *keys) if isinstance(value, Section) else value


def _group(told: Any, *keys: str) -> tuple[Any, Balancer]:
    return ... if told.tasks == "others" else told.tasks, _inner(told.balance, *keys, "balance")


def _inner(section: Any, *keys: str) -> Balancer:
    with _at(*keys):
        for key in _WHOLE:
            if getattr(section, key) != type(section).model_fields[key].default:
                words = f"{key} holds for the whole section balance: write it beside its method."
                raise ConfigurationError(words, where=(key,))
        return make_balancer(section)


def _wrap(name: str, kind: Any, balancer: Balancer, told: Any) -> Balancer:
    allowed = list(inspect.signature(kind).parameters)[1:]
    if isinstance(told, Mapping):
        for key in told:
            if key not in allowed:
                raise ConfigurationError(
                    f"unknown option {key!r} of {name}.{nearest(str(key), allowed)} Allowed: {allowed}."
                )
        return kind(balancer, **told)  # type: ignore[no-any-return]
    values = [] if told is True else list(told) if isinstance(told, (list, tuple)) else [told]
    if len(values) > len(allowed):
        raise ConfigurationError(f"{name} takes at most {len(allowed)} values, {allowed}, but got {told!r}.")
    return kind(balancer, *values)  # type: ignore[no-any-return]
