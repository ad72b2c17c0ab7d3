"""Several sources whose rows are read while a model trains."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from lepton.config import Config
from lepton.data import PARTS, Encoder, LabelRule, Rows, StreamSets
from lepton.errors import DataError
from lepton.run._encoding import pads_of
from lepton.run._sets import joined_tables, joint_table, label_columns, missing_pixels, set_tasks
from lepton.run._streaming import StreamSource, open_streams

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SetSources", "Streams", "opened_parts", "streamed_rows"]


@dataclasses.dataclass(frozen=True)
class SetSources:
    """The rows of one part of several sources.

    Attributes:
        sets: name of the source -> its rows of the part.
        tasks: name of the source -> tasks that it has labels of.
        config: says how they go together.
        like: the training rows, whose columns all parts have; None where it is these.
    """

    sets: Mapping[str, StreamSource]
    tasks: Mapping[str, list[str]]
    config: Config
    like: SetSources | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sets.values()))

    @cached_property
    def sample(self) -> pa.Table:
        """Some of the rows of each source, in one table."""
        own = joint_table(self.config, {name: opened.sample for name, opened in self.sets.items()})
        return own if self.like is None else joined_tables([self.like.sample.slice(0, 0), own], list(self.sets))

    @property
    def fingerprint(self) -> str:
        """What a position in the rows depends on."""
        words = [(name, opened.fingerprint) for name, opened in self.sets.items()]
        return hashlib.sha256(repr(words).encode()).hexdigest()[:16]

    def words(self) -> str:
        """Return how many rows there are in how many shards."""
        return "; ".join(f"{name}: {opened.words()}" for name, opened in self.sets.items())


Streams: TypeAlias = "Mapping[str, StreamSource] | Mapping[str, SetSources]"
"""Part -> its rows, of one source or of several."""


def opened_parts(config: Config, source: Any = None) -> tuple[Streams, str]:
    """Return the rows of each part, of one source or several, and in words how they were divided.

    Args:
        config: the configuration.
        source: a path or URL, instead of what the configuration names.
    """
    if source is None and config.data.sources is not None:
        return _open_sets(config)
    return open_streams(config, source)


def _open_sets(config: Config) -> tuple[dict[str, SetSources], str]:
    """Return the rows of each part, and in words how they were divided.

    Args:
        config: the configuration, with several sources.

    Raises:
        ConfigurationError: rows that are streamed cannot be divided in the way that is told.
        DataError: a source cannot be read or has no training rows, or two do not go together.
    """
    assert config.data.sources is not None
    told, how = set_tasks(config), ""
    opened: dict[str, dict[str, StreamSource]] = {}
    for name, source in config.data.sources.items():
        opened[name], how = open_streams(config, source.source, name)
    tasks = {}
    for name, parts in opened.items():
        there = parts["train"].shards.schema.names
        tasks[name] = [task for task in told[name] if set(label_columns(config, task)) <= set(there)]
    found: dict[str, SetSources] = {}
    for part in PARTS:
        sets = {name: parts[part] for name, parts in opened.items() if part in parts}
        if sets:
            found[part] = SetSources(sets, {name: tasks[name] for name in sets}, config, found.get("train"))
    _widen(opened)
    return found, how


def _widen(opened: Mapping[str, Mapping[str, StreamSource]]) -> None:
    """Give every source the columns of all, those that it lacks without values."""
    import pyarrow as pa

    shards = [one.shards for parts in opened.values() for one in parts.values()]
    try:
        schema = pa.unify_schemas([one.schema for one in shards], promote_options="permissive")
    except pa.ArrowException as error:
        words = str(error).split("\n")[0]
        raise DataError(
            f"the sources {list(opened)} have a column of one name and different types: {words}."
        ) from error
    for one in {id(one): one for one in shards}.values():
        one.widen(schema)


def streamed_rows(
    config: Config,
    encoder: Encoder,
    rules: Sequence[LabelRule],
    streams: Streams,
    samples: Mapping[str, Rows],
) -> dict[str, Rows]:
    """Return the rows of each part as what a loader cuts into batches.

    Args:
        config: resolved.
        encoder: fitted rules of the inputs.
        rules: rules of the labels.
        streams: where the rows are.
        samples: part -> encoded rows of its sample.
    """
    found: dict[str, Rows] = {}
    for part, opened in streams.items():
        if isinstance(opened, StreamSource):
            found[part] = opened.rows(config, encoder, rules, samples[part])
            continue
        sets = {}
        for name, one in opened.sets.items():
            own = [rule for rule in rules if rule.task in opened.tasks[name]]
            sets[name] = one.rows(config, encoder, own, samples[part])
        found[part] = StreamSets(sets, opened.tasks, samples[part], missing_pixels(rules), pads_of(encoder))
    return found
