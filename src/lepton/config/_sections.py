"""The sections of a configuration, made from the classes that own their options."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeAlias, get_args, get_type_hints

from pydantic import ConfigDict, Field, create_model, field_validator, model_validator
from pydantic_core import PydanticCustomError

import lepton.balance
import lepton.nn
import lepton.tasks
from lepton.balance import VIEWS, Balancer
from lepton.config._schema import Section, argument_texts, content_of, section_of, snake_case
from lepton.data import SEQUENCE_KINDS, Kind, Mixture, SplitRule
from lepton.errors import ConfigurationError
from lepton.tasks import Task
from lepton.train import Trainer

__all__ = [
    "BALANCE",
    "TASK",
    "TRAINING",
    "AdapterSection",
    "Config",
    "Custom",
    "DataSection",
    "InputSection",
    "SourceSection",
    "StartSection",
    "compositions",
    "long_tasks",
    "methods",
    "task_kinds",
    "trunks",
    "without_empty",
]


AUTO: dict[str, Any] = {"type": (Literal["auto"], "auto")}


def _tagged(models: Sequence[type[Section]], tag: str) -> Any:
    return Annotated[functools.reduce(operator.or_, models), Field(discriminator=tag)]


# -- balancing ----------------------------------------------------------------------------------------------------
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


def _balance_union() -> Any:
    wrappers = {
        name: (Any, Field(None, description=f"{_summary(kind)} true, one number, a list or a mapping of its options."))
        for name, kind in compositions().items()
    }
    view = (
        Literal[tuple(sorted(VIEWS))],
        Field("fork_layer", description="Which view of a task's gradient is compared."),
    )
    words = "Of the view `parameters`: the most that all tasks' gradients may take: bytes, or a share of the memory."
    budget = (float | None, Field(None, gt=0, description=words))
    models = [
        section_of(
            kind, extra={"method": (Literal[name], name), "gradients": view, "memory_budget": budget, **wrappers}
        )
        for name, kind in methods().items()
    ]
    return _tagged(models, "method")


def _summary(kind: type) -> str:
    return (inspect.getdoc(kind) or "").split("\n")[0]


# -- tasks --------------------------------------------------------------------------------------------------------
class AdapterSection(Section):
    """How a task reads a trunk that it must not change, or changes for itself only."""

    type: Literal["head", "lora", "adapter"] = Field(
        description="`lora` and `adapter` change the trunk for this task only; `head` reads it as it is, and the head "
        "is computed by itself, so that the other tasks' outputs stay the same bit for bit."
    )
    size: int = Field(8, ge=1, description="Rank of `lora`, features of the bottleneck of `adapter`.")
    alpha: float | None = Field(
        None, gt=0, description="Of `lora`: its change is scaled by alpha / size; by default 1."
    )
    targets: list[str] | None = Field(
        None, description="Names of the layers that are adapted, whole or their last parts; by default all that can be."
    )

    @model_validator(mode="after")
    def _refuse_alpha(self) -> AdapterSection:
        if self.type != "lora" and self.alpha is not None:
            _refuse(f"alpha scales lora; {self.type!r} has none", "alpha")
        return self


@functools.cache
def task_kinds() -> dict[str, type[Task]]:
    """Return the kinds of task, by their names in YAML."""
    found = [getattr(lepton.tasks, name) for name in lepton.tasks.__all__]
    kinds = [kind for kind in found if inspect.isclass(kind) and issubclass(kind, Task) and kind is not Task]
    return {snake_case(kind.__name__): kind for kind in kinds}


class Custom(Section):
    """A class of your own, by its import path; needs the trust flag."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    type: Literal["custom"] = "custom"
    class_: str = Field(alias="class", description="`package.module:Class`.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="Its keyword arguments.")


def _not_told(kind: str) -> tuple[str, ...]:
    """Return the arguments of a kind of task that the data decides; of tokens, also what marks a missing label."""
    return ("name", "vocabulary", "characters", "mels", *(("missing",) if kind in SEQUENCE_KINDS else ()))


def _task_union() -> Any:
    extra: dict[str, Any] = {
        "column": (str | None, Field(None, description="The column of the labels; the task's name by default.")),
        "columns": (list[str] | None, Field(None, description="Several columns, one for each label or output.")),
        "min_share": (
            float,
            Field(0.0, ge=0, le=1, description="Labels from masks: share of the pixels from which a class is there."),
        ),
        "head": (Custom | None, Field(None, description="A head of your own.")),
        "adapter": (
            AdapterSection | None,
            Field(None, description="What of the trunk is this task's own; by default nothing."),
        ),
    }
    models = []
    for name, kind in task_kinds().items():
        told = dict(extra)
        for parameter in ("classes", "labels"):
            if parameter in inspect.signature(kind).parameters:
                text = "Their names, or their number; by default found in the data."
                told[parameter] = (list[str] | int | None, Field(None, description=text))
        if name == "speech_synthesis":
            told["voice"] = (str | None, Field(None, description="The column that says whose voice is heard."))
        models.append(section_of(kind, skip=_not_told(name), extra={"type": (Literal[name], name), **told}))
    kind, *others = task_kinds().values()
    parameters = inspect.signature(kind).parameters
    shared = {name for name in parameters if all(name in inspect.signature(other).parameters for other in others)}
    not_shared = [*(parameters.keys() - shared), "name", "missing"]
    common = section_of(kind, name="Common", skip=not_shared, extra={**AUTO, **extra})
    auto = create_model("AutoTask", __base__=common, __doc__="The kind is inferred from the column.")
    return _tagged([*models, auto], "type")


# -- trunk --------------------------------------------------------------------------------------------------------
FROM_DATA = (
    *("knots", "categories", "texts", "text_buckets", "table", "image", "text", "images", "channels"),
    *("readers", "vocabulary", "characters", "padding", "config", "sample_rate"),
)
"""Arguments of trunks that the data decides."""


@functools.cache
def trunks() -> dict[str, type]:
    """Return the trunks, by their names in YAML."""
    found = {name: getattr(lepton.nn, name) for name in lepton.nn.__all__ if name.endswith(("Trunk", "Net"))}
    # One around another trunk is made from a trained model, not from a configuration.
    made = {name: kind for name, kind in found.items() if "trunk" not in inspect.signature(kind).parameters}
    return {snake_case(name).removesuffix("_trunk"): kind for name, kind in made.items()}


def _trunk_type(kind: type, parameter: str) -> type | None:
    hint = get_type_hints(kind.__init__)[parameter]  # type: ignore[misc]
    return next((part for part in (hint, *get_args(hint)) if part in trunks().values()), None)


def _part_of_trunk(kind: type, part: type, parameter: inspect.Parameter) -> Any:
    """Return the field of a trunk inside of another one; one that is None by default is not there unless told."""
    section = section_of(part, name=f"{kind.__name__}{part.__name__}", skip=FROM_DATA)
    if parameter.default is None:
        return section | None, Field(None, description=argument_texts(kind)[parameter.name])
    return section, Field(section(), description=section.__doc__)


def _trunk_union() -> Any:
    sections = {
        name: section_of(kind, skip=FROM_DATA, extra={"type": (Literal[name], name)}) for name, kind in trunks().items()
    }
    for name, kind in trunks().items():
        # A trunk made of other trunks takes their options as sections.
        nested = {
            parameter.name: _part_of_trunk(kind, part, parameter)
            for parameter in inspect.signature(kind).parameters.values()
            if (part := _trunk_type(kind, parameter.name)) is not None
        }
        if nested:
            sections[name] = section_of(kind, skip=FROM_DATA, extra={"type": (Literal[name], name), **nested})
    auto = create_model("AutoTrunk", __base__=Section, __doc__="By the inputs.", **AUTO)
    return _tagged([*sections.values(), Custom, auto], "type")


# -- training -----------------------------------------------------------------------------------------------------
def _training_section() -> type[Section]:
    by_rows = "by default by the number of rows"
    by_trunk = "by default 0.002 for tables, 0.001 with pictures or texts as tokens"
    return section_of(
        Trainer,
        name="Training",
        skip=("folder", "callbacks", "model", "resume_from_checkpoint", "progress"),
        extra={
            "batch_size": (int | None, Field(None, ge=1, description=f"Rows per micro-batch; {by_rows}.")),
            "max_epochs": (int | None, Field(None, ge=1, description=f"Passes over the training rows; {by_rows}.")),
            "patience": (int | None, Field(None, ge=1, description=f"Epochs without a better value; {by_rows}.")),
            "learning_rate": (float | None, Field(None, gt=0, description=f"Peak learning rate; {by_trunk}.")),
            "num_workers": (int, Field(2, ge=0, description="Processes that decode pictures; tables need none.")),
        },
    )


if TYPE_CHECKING:  # made at run time: a checker cannot know their fields
    BALANCE: TypeAlias = Any
    MIXTURE: TypeAlias = Any
    SPLIT: TypeAlias = Any
    TASK: TypeAlias = Any
    TRAINING: TypeAlias = Any
    TRUNK: TypeAlias = Any
else:
    MIXTURE = section_of(
        Mixture,
        name="MixtureSection",
        skip=("loaders", "batch_size", "weights", "seed", "drop_last", "missing", "tasks"),
    )
    SPLIT = section_of(SplitRule, name="SplitSection", skip=("targets", "date_format"))
    BALANCE, TASK, TRUNK, TRAINING = _balance_union(), _task_union(), _trunk_union(), _training_section()


# -- data ---------------------------------------------------------------------------------------------------------
class InputSection(Section):
    """One input column, and what it holds."""

    kind: Kind = Field(description="What the column holds.")


class SourceSection(Section):
    """One of several data sets."""

    source: str = Field(description="A table or a folder; see `lepton.data.read_table`.")
    tasks: list[str] | None = Field(
        None, description="The tasks that it has labels of; by default those whose columns it has."
    )
    weight: float = Field(1.0, gt=0, description="Factor on the probability of its rows.")


class DataSection(Section):
    """Where the rows are, which columns are read, and how the rows are divided."""

    source: str | None = Field(None, description="A table or a folder; see `lepton.data.read_table`.")
    sources: dict[str, SourceSection] | None = Field(
        None, description="Several sources in place of one, by their names, with labels for different tasks."
    )
    mixture: MIXTURE | None = Field(None, description="How the rows of several sources are mixed in training.")
    val: str | None = Field(None, description="Another source for validation, instead of a share of the rows.")
    test: str | None = Field(None, description="Another source for the test, instead of a share of the rows.")
    inputs: dict[str, InputSection] | None = Field(None, description="Column -> kind; by default all but the targets.")
    ignore: list[str] = Field(default_factory=list, description="Columns that are not read.")
    limit: int | None = Field(None, ge=1, description="Read only so many rows of each source, to try something out.")
    stream: bool | Literal["auto"] = Field(
        "auto", description="Whether rows are read while training; auto: where they are larger than half the memory."
    )
    window: int | None = Field(
        None, ge=1, description="Streamed rows that are shuffled together; by default 65536, with pictures 512."
    )
    max_bad_rows: float = Field(0.01, ge=0, le=1, description="Share of streamed rows that may be unusable.")
    kinds: dict[str, Kind] = Field(default_factory=dict, description="Column -> kind where inference is wrong.")
    date_formats: dict[str, str] = Field(
        default_factory=dict,
        description="Column -> what its dates look like, such as `%d/%m/%Y`; by default found out.",
    )
    split: SPLIT = Field(default={}, validate_default=True, description="How the rows are divided.")
    replay: int = Field(
        1000,
        ge=0,
        description="Rows of each part that the run keeps in its folder, so that `lepton continue` can go on when the "
        "source is gone; 0 for none.",
    )
    image_size: tuple[int, int] | None = Field(None, description="Height and width that pictures are resized to.")
    augment: bool | dict[str, Any] = Field(
        True, description="Augmentation of pictures and recordings in training; or its options."
    )
    sample_rate: int | None = Field(
        None, ge=1000, description="Samples a second that recordings are brought to; by default most have it already."
    )
    max_seconds: float = Field(20.0, gt=0, description="Longest recording, in seconds; longer ones are cut.")
    trim: bool = Field(False, description="Whether the silence around recordings is cut off.")
    vocabulary: int = Field(
        8000, ge=300, description="Entries of the vocabulary learned from texts that are sequences."
    )
    max_length: int = Field(256, ge=4, description="Tokens of a text that is a sequence; longer ones are cut.")

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, given: Any) -> Any:
        return without_empty(given)

    @field_validator("inputs", mode="before")
    @classmethod
    def _short_inputs(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            return {name: {"kind": value} if isinstance(value, str) else value for name, value in given.items()}
        return given

    @field_validator("sources", mode="before")
    @classmethod
    def _short_sources(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            return {name: {"source": value} if isinstance(value, str) else value for name, value in given.items()}
        return given

    @model_validator(mode="after")
    def _refuse_two_sources(self) -> DataSection:
        if self.sources is None:
            if self.mixture is not None:
                _refuse("a mixture needs several sources: give them as sources", "mixture")
            return self
        both = [key for key in ("source", "val", "test") if getattr(self, key) is not None]
        if both:
            _refuse(f"{both[0]} and sources cannot both be given: the rows of each of the sources are divided", both[0])
        if not self.sources:
            _refuse("sources names no source", "sources")
        return self

    @field_validator("split", mode="before")
    @classmethod
    def _short_split(cls, given: Any) -> Any:
        return {"method": given} if isinstance(given, str) else given


class StartSection(Section):
    """What the trunk begins with, how much of it learns, and how fast."""

    run: str | None = Field(
        None,
        description="The folder of a run: its rules of the inputs, its trunk, and its heads of tasks that are alike.",
    )
    checkpoint: str = Field("best", description="Which weights of the run: `best`, `last`, or `best-TASK`.")
    weights: str | None = Field(
        None, description="Instead of a run: a file of tensors by their names, `.safetensors`, `.pt` or `.pth`."
    )
    freeze: Annotated[int, Field(ge=0)] | Literal["all"] | None = Field(
        None,
        description="Blocks of the trunk, from the inputs on, that do not learn; or `all`. By default none, but all of "
        "them with an `adapter`.",
    )
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="Factor of the learning rate from a block to the one below it."
    )
    adapter: Literal["lora", "adapter"] | None = Field(
        None, description="Small changes of the trunk that learn in its place, the same for all tasks."
    )
    size: int = Field(8, ge=1, description="Rank of `lora`, features of the bottleneck of `adapter`.")
    alpha: float | None = Field(
        None, gt=0, description="Of `lora`: its change is scaled by alpha / size; by default 1."
    )
    targets: list[str] | None = Field(
        None, description="Names of the layers that are adapted, whole or their last parts; by default all that can be."
    )

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> StartSection:
        if self.run is not None and self.weights is not None:
            _refuse("run and weights are two beginnings: give one of them", "run")
        idle = [key for key in ("alpha", "targets") if getattr(self, key) is not None]
        if self.adapter is None and idle:
            _refuse(f"{idle[0]} is an option of an adapter: give adapter: lora or adapter: adapter as well", idle[0])
        if self.adapter == "adapter" and self.alpha is not None:
            _refuse("alpha scales lora; the adapter 'adapter' has none", "alpha")
        return self


def _refuse(words: str, key: str) -> NoReturn:
    raise PydanticCustomError("start", "{words}", {"words": words, "key": key})


class Config(Section):
    """Everything about a run.

    Example:
        >>> config = Config.model_validate({"data": {"source": "a.csv"}, "tasks": ["price"]})
        >>> config.tasks["price"].type, config.balance.method, config.training.max_grad_norm
        ('auto', 'equal', 1.0)
    """

    data: DataSection = Field(description="Rows, columns and split.")
    tasks: dict[str, TASK] = Field(description="Name -> kind and options; a list of columns is enough.")
    trunk: TRUNK = Field(default={"type": "auto"}, validate_default=True, description="The shared part.")
    start: StartSection | None = Field(
        None, description="Where the trunk's weights come from; by default from the seed."
    )
    balance: BALANCE = Field(default={"method": "equal"}, validate_default=True, description="How tasks are weighed.")
    training: TRAINING = Field(default={}, validate_default=True, description="The training loop.")
    seed: int = Field(0, ge=0, lt=2**32, description="Fixes initial weights, order and draws.")
    output: Path | None = Field(None, description="The run's folder; by default runs/ and the source's name.")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        found = long_tasks(without_empty(given))
        found |= {"trunk": _long_trunk(found["trunk"])} if "trunk" in found else {}
        for section, key, default in (("trunk", "type", "auto"), ("balance", "method", "equal")):
            value = found.get(section)
            if isinstance(value, str):
                found[section] = {key: value}
            elif isinstance(value, Mapping) and key not in value:
                found[section] = {key: "custom" if "class" in value else default, **value}
        return found

    def __reduce__(self) -> Any:
        # The sections' classes are made at run time, where pickling cannot find them by name.
        return Config.model_validate, (content_of(self),)

    @property
    def has_source(self) -> bool:
        """Whether it says where the rows are; otherwise they are in memory."""
        return self.data.source is not None or self.data.sources is not None

    def require_source(self) -> str:
        """Return the source; of several, in words.

        Raises:
            ConfigurationError: the rows were in memory.
        """
        if self.data.sources is not None:
            return ", ".join(told.source for told in self.data.sources.values())
        if self.data.source is None:
            raise ConfigurationError("data.source is not set: this run was trained on rows in memory; give a file.")
        return self.data.source


def long_tasks(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file with its tasks as a mapping from names to options."""
    found = dict(given)
    tasks = found.get("tasks")
    if isinstance(tasks, (list, tuple, Mapping)):
        _check_names(tasks)
    if isinstance(tasks, (list, tuple)):
        found["tasks"] = {str(name): {"type": "auto"} for name in tasks}
    elif isinstance(tasks, Mapping):
        found["tasks"] = {str(name): _long_task(value) for name, value in tasks.items()}
    return found


def without_empty(given: Any) -> Any:
    """Leave out sections whose every line is commented out: they are as if not there."""
    return {key: value for key, value in given.items() if value is not None} if isinstance(given, Mapping) else given


def _check_names(tasks: Collection[Any]) -> None:
    names = list(tasks)
    words = "" if names else "names no task: there is nothing to learn"
    for name in names:
        if not isinstance(name, (str, int)) or isinstance(name, bool):
            words = f"a task's name must be a word, but it is {name!r}: put it in quotes"
            break
        if names.count(name) > 1:
            words = f"the task {name!r} is there more than once"
    if words:
        raise PydanticCustomError("names", "{words}", {"words": words, "key": "tasks"})


def _long_trunk(value: Any) -> Any:
    if not isinstance(value, Mapping) or "hf" not in value or "type" in value or "folder" in value:
        return value
    options = {key: option for key, option in value.items() if key != "hf"}
    return {"type": "hugging_face", "folder": value["hf"], **options}


def _long_task(value: Any) -> Any:
    if value is None:
        return {"type": "auto"}
    if isinstance(value, str):
        return {"type": value}
    if isinstance(value, Mapping) and "type" not in value:
        return {"type": "auto", **value}
    return value
