"""What `lepton add-task` reads: the new rows, the new tasks, and how they are learned."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from lepton.config._balance import BALANCE
from lepton.config._read import checked, found_beside
from lepton.config._schema import Section, section_of
from lepton.config._sections import TASK, TRAINING, DataSection, long_tasks, without_empty
from lepton.config._yaml import Source, parse_yaml
from lepton.errors import ConfigurationError
from lepton.transfer import AGEM, EWC, LwF, Replay

__all__ = ["AddedTasks", "added_methods", "check_added", "read_added"]


class _Plain(Section):
    """Everything learns, from the new rows alone, and nothing holds on to the old tasks."""

    type: Literal["none"] = "none"


class _Head(Section):
    """Only the new heads learn; the old outputs stay the same bit for bit."""

    type: Literal["head"] = "head"


class _Lora(Section):
    """Low-rank changes of the trunk for each new task, and its head, learn; the old outputs stay the same."""

    type: Literal["lora"] = "lora"
    size: int = Field(8, ge=1, description="Rank of the changes.")
    alpha: float | None = Field(None, gt=0, description="They are scaled by alpha / size; by default 1.")
    targets: list[str] | None = Field(
        None, description="Names of the linear layers and convolutions that get one; by default all."
    )


class _Adapter(Section):
    """Bottlenecks in the trunk for each new task, and its head, learn; the old outputs stay the same."""

    type: Literal["adapter"] = "adapter"
    size: int = Field(8, ge=1, description="Features of a bottleneck.")
    targets: list[str] | None = Field(None, description="Names of the blocks that get one; by default all.")


def _tagged(owner: Any, name: str, **extra: Any) -> type[Section]:
    skip = ("model", "tasks", "replay", "seed")
    return section_of(owner, name=f"{owner.__name__}Method", skip=skip, extra={"type": (Literal[name], name), **extra})


def _memory() -> dict[str, Any]:
    return {
        "capacity": (int, Field(1000, ge=1, description="Old training rows that are remembered.")),
        "balanced": (
            bool,
            Field(True, description="Whether tasks, and the classes of each, share the memory equally."),
        ),
    }


@functools.cache
def added_methods() -> dict[str, type[Section]]:
    """Return the methods of `lepton add-task`, by their names in YAML."""
    strength = (float, Field(10_000.0, gt=0, description="Lambda of the paper; compare several."))
    looked_at = (int | None, Field(1000, ge=1, description="Old training rows that are looked at; null for all."))
    labels = (
        Literal["model", "data"],
        Field("model", description="Where the labels come from: as in the paper, or of the rows."),
    )
    drawn = (int, Field(256, ge=1, description="Old rows drawn for their gradient in each step."))
    behind = (int, Field(32, ge=1, description="Old rows behind the new ones in each batch."))
    return {
        "head": _Head,
        "lora": _Lora,
        "adapter": _Adapter,
        "lwf": _tagged(LwF, "lwf"),
        "ewc": _tagged(EWC, "ewc", strength=strength, rows=looked_at, labels=labels),
        "replay": _tagged(Replay, "replay", rows=behind, **_memory()),
        "agem": _tagged(AGEM, "agem", rows=drawn, **_memory()),
        "none": _Plain,
    }


if TYPE_CHECKING:  # made at run time: a checker cannot know their fields
    METHOD: TypeAlias = Any
else:
    METHOD = Annotated[functools.reduce(operator.or_, added_methods().values()), Field(discriminator="type")]


class AddedTasks(Section):
    """Tasks that a trained run gets, and how they are learned.

    Example:
        >>> added = AddedTasks.model_validate({"data": {"source": "new.csv"}, "tasks": ["churn"], "method": "lora"})
        >>> added.method.type, added.method.size, list(added.tasks)
        ('lora', 8, ['churn'])
    """

    data: DataSection = Field(default={}, validate_default=True, description="The new rows, and how they are divided.")
    tasks: dict[str, TASK] = Field(description="The new tasks: name -> kind and options; a list of columns is enough.")
    method: METHOD = Field(description="How they are learned: a name, or a mapping with `type` and its options.")
    balance: BALANCE = Field(default={"method": "equal"}, validate_default=True, description="How tasks are weighed.")
    training: TRAINING = Field(default={}, validate_default=True, description="The training loop.")
    seed: int = Field(0, ge=0, lt=2**32, description="Fixes new weights, order and draws.")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, given: Any) -> Any:
        found = without_empty(given)
        if not isinstance(found, Mapping):
            return found
        found = long_tasks(found)
        if isinstance(found.get("method"), str):
            found["method"] = {"type": found["method"]}
        return found

    @field_validator("tasks")
    @classmethod
    def _no_adapters(cls, tasks: Any) -> Any:
        for name, section in tasks.items():
            if section.adapter is not None:
                words = f"task {name!r} has an adapter of its own: here the section method says it, for all new tasks"
                raise PydanticCustomError("adapter", "{words}", {"words": words, "key": name})
        return tasks


def read_added(path: Path | str, overrides: Sequence[str] = ()) -> AddedTasks:
    """Read the YAML file of `lepton add-task`.

    A source with a relative path is looked for in the current folder, and if it is not there, beside the file.

    Args:
        path: the file.
        overrides: `section.key=value`, the later ones win.

    Raises:
        ConfigurationError: with file and line, the wrong key or value, and the nearest right one.
    """
    source = parse_yaml(Path(path))
    for assignment in overrides:
        source.override(assignment)
    return check_added(found_beside(source.content, Path(path).parent), source)


def check_added(content: Mapping[str, Any], source: Source | None = None) -> AddedTasks:
    """Return the checked content of such a file.

    Args:
        content: nested mappings, as in YAML.
        source: where they were read, for messages.

    Raises:
        ConfigurationError: every fault, each with its place.
    """
    if not content.get("tasks"):
        place = "the configuration" if source is None else source.name
        raise ConfigurationError(f"{place} names no new task: give one, as in  tasks: {{churn: classification}}.")
    if "method" not in content:
        place = "the configuration" if source is None else source.name
        raise ConfigurationError(
            f"{place} does not say how the new tasks are learned: give method, one of {list(added_methods())}."
        )
    return checked(AddedTasks, content, source)
