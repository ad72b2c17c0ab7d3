"""Rows that are read while a model trains: what `prepare` does for a table in memory, from a bounded sample of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lepton.config import Config
from lepton.data import (
    PARTS,
    Encoder,
    LabelRule,
    PartByColumn,
    PartByPlace,
    Quarantine,
    Rows,
    Shards,
    StreamRows,
    StreamSets,
    is_url,
    sampled,
)
from lepton.errors import ConfigurationError, DataError
from lepton.run._encoding import stream_encode
from lepton.run._own_parts import HeldOut, held_out

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "QUARANTINE",
    "StreamSource",
    "is_streamed",
    "keep_quarantine",
    "open_streams",
    "quarantine_note",
    "stream_note",
]

SHARE = 0.5
"""Share of the memory beyond which a source is streamed: read as a table, it takes several times its size."""

QUARANTINE = "quarantine.jsonl"

WINDOW = 1 << 16
"""Rows that are shuffled together: some dozen megabytes of numbers, of texts or of paths."""


@dataclasses.dataclass(frozen=True)
class StreamSource:
    """The rows of one part.

    Attributes:
        shards: where they are.
        choice: which of them; None for all.
        sample: some of them.
        quarantine: where those are kept that cannot be used.
    """

    shards: Shards
    choice: PartByColumn | PartByPlace | None
    sample: pa.Table
    quarantine: Quarantine

    @property
    def fingerprint(self) -> str:
        """What a position in the rows depends on."""
        return self.shards.fingerprint

    def words(self) -> str:
        """Return how many rows there are in how many shards."""
        return f"{len(self.shards)} rows of {len(self.shards.names)} shard(s)"

    def __len__(self) -> int:
        """Return how many rows of the part there are, unusable ones included."""
        if self.choice is None:
            return len(self.shards)
        groups = range(len(self.shards.groups))
        return sum(sum(self.choice.count(self.shards, g, [(0, self.shards.groups[g].extent.rows)])) for g in groups)

    def rows(self, config: Config, encoder: Encoder, rules: Sequence[LabelRule], sample: Rows) -> StreamRows:
        """Return the rows as what a loader cuts into batches.

        Args:
            config: resolved.
            encoder: fitted rules of the inputs.
            rules: rules of the labels that these rows have.
            sample: encoded rows of the part.
        """
        encode = stream_encode(config, encoder, rules)
        return StreamRows(self.shards, encode, sample, self.choice, config.data.window or WINDOW, self.quarantine)


def is_streamed(config: Config, source: Any = None) -> bool:
    """Return whether the rows of a configuration are read while it trains.

    Args:
        config: whose `data.stream` says so; `auto` where the source is larger than half of the memory, or a URL.
        source: rows in memory, instead of `config.data.source`.
    """
    told = config.data.stream
    if source is not None and not isinstance(source, (str, Path)):
        if told is True:
            raise ConfigurationError("data.stream is on, but the rows are in memory already: leave it out.")
        return False
    if told != "auto":
        return bool(told)
    several = config.data.sources if source is None else None
    places = [one.source for one in several.values()] if several else [str(source or config.require_source())]
    return any(map(is_url, places)) or sum(_size(Path(place)) for place in places) > SHARE * _memory()


def _size(path: Path) -> int:
    """Return how many bytes a file, or the files of a folder that could be shards, have on disk."""
    if path.is_dir():
        return sum(child.stat().st_size for child in path.iterdir() if child.is_file())
    return path.stat().st_size if path.exists() else 0


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 33


def open_streams(config: Config, source: Any = None, name: str | None = None) -> tuple[dict[str, StreamSource], str]:
    """Return the rows of each part, and in words how they were divided.

    Args:
        config: the configuration.
        source: a path or URL, instead of `config.data.source`.
        name: of one of several sources.

    Raises:
        ConfigurationError: rows that are streamed cannot be divided in the way that is told.
        DataError: nothing can be read, or a part is empty.
    """
    shards = Shards(config.require_source() if source is None else source, limit=config.data.limit)
    split = config.data.split
    if split.method in ("group", "time"):
        raise ConfigurationError(
            f"split: method {split.method!r} needs all rows at once, but they are streamed: choose random, which goes "
            "by each row's place, or column."
        )
    told = held_out(config, name)
    choices, how = _choices(config, told)
    cap = config.data.max_bad_rows
    quarantine = Quarantine(cap=cap)
    found = {part: _opened(part, shards, choice, quarantine) for part, choice in choices.items()}
    for part, other in told.others.items():
        found[part] = _opened(part, Shards(other, limit=config.data.limit), None, Quarantine(cap=cap))
    return {part: opened for part in PARTS if (opened := found.get(part)) is not None}, how


def _choices(config: Config, told: HeldOut) -> tuple[dict[str, PartByColumn | PartByPlace], str]:
    split = config.data.split
    if split.method == "column":
        counts: dict[tuple[int, int, int], dict[str, int]] = {}
        parts = [part for part in PARTS if part not in told.others]
        return {part: PartByColumn(part, split.column, counts) for part in parts}, "column"
    parts = ["train", *(part for part, share in told.shares.items() if share > 0)]
    return {part: PartByPlace(part, seed=split.seed, **told.shares) for part in parts}, "a hash of each row's place"


def _opened(
    part: str, shards: Shards, choice: PartByColumn | PartByPlace | None, quarantine: Quarantine
) -> StreamSource | None:
    sample = sampled(shards, choice)
    if not sample.num_rows:
        if isinstance(choice, PartByColumn) and part != "train":
            return None
        raise DataError(f"no row that was looked at belongs to the part {part!r}: give it a larger share of the rows.")
    return StreamSource(shards, choice, sample, quarantine)


class Opened(Protocol):
    """The rows of one part, of one source or several."""

    def words(self) -> str:
        """Return how many rows there are in how many shards."""


def stream_note(train: Opened, samples: Mapping[str, pa.Table]) -> str:
    """Return in words what a streamed run knows of its rows before it reads them.

    Args:
        train: the training rows.
        samples: part -> the rows that were looked at.
    """
    looked = ", ".join(f"{table.num_rows} {part}" for part, table in samples.items())
    return (
        f"the {train.words()} are read while the model trains; columns, classes, "
        f"scales and what is shown of the data come from a sample of them: {looked} rows."
    )


def keep_quarantine(data: Mapping[str, Rows], folder: Path) -> None:
    """Write rows that cannot be used into a run's folder, one file for each source."""
    kept: list[Quarantine] = []
    for about, rows in _sources(data):
        if not any(rows.quarantine is one for one in kept):
            kept.append(rows.quarantine)
            name = QUARANTINE if len(kept) == 1 else f"quarantine-{about}.jsonl"
            rows.quarantine.keep(folder / name)


def _sources(data: Mapping[str, Rows]) -> Iterator[tuple[str, StreamRows]]:
    """Yield what is streamed of each part; of several sources each."""
    for part, rows in data.items():
        if isinstance(rows, StreamRows):
            yield part, rows
        elif isinstance(rows, StreamSets):
            yield from ((name if part == "train" else f"{name}-{part}", one) for name, one in rows.sets.items())


def quarantine_note(data: Mapping[str, Rows]) -> str:
    """Return how many rows could not be used, in words; nothing if all could."""
    sources = {id(rows.quarantine): rows for _, rows in _sources(data)}
    bad = sum(rows.quarantine.rows for rows in sources.values())
    every = sum(rows.shards.all_rows for rows in sources.values())
    return f"{bad} of {every} rows could not be used: {QUARANTINE} lists them." if bad else ""
