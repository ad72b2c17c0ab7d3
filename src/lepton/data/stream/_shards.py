"""`Shards`: the groups of rows of a source that need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from lepton.data._source import read_table
from lepton.data.stream._blocks import Block, Extent, Format, Found, common_schema, first_line
from lepton.data.stream._columnar import ArrowFormat, ParquetFormat
from lepton.data.stream._lines import CsvFormat, JsonFormat
from lepton.data.stream._places import SHARD_SUFFIXES, Place, find_places, is_url
from lepton.data.stream._quarantine import BadRows
from lepton.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Group", "Shards"]

_FORMATS: dict[str, Callable[[], Format]] = {
    ".parquet": ParquetFormat,
    ".arrow": ArrowFormat,
    ".feather": ArrowFormat,
    ".csv": CsvFormat,
    ".tsv": CsvFormat,
    ".txt": CsvFormat,
    ".jsonl": JsonFormat,
    ".ndjson": JsonFormat,
    ".json": JsonFormat,
}

HELD = 1 << 12
"""Rows of a group where the source is a table or a Dataset in memory."""


@dataclass(frozen=True)
class Group:
    """Rows that are read together.

    Attributes:
        shard: its place among the shards.
        extent: where it lies there.
    """

    shard: int
    extent: Extent


class Shards:
    """The rows of a source that is read piece by piece, as often as needed, and never as a whole.

    What is read at once, when this is made: the ends of Parquet and Arrow files; text once from beginning to end, to
    count its rows and to find where they are, so that any of them can be read first.

    Args:
        source: a file in Parquet, Arrow or Feather, CSV or TSV, JSON lines (text also `.gz`); a folder of such shards,
            not necessarily with the same columns: one that a shard lacks is missing in its rows; a URL of either that
            fsspec opens, such as `s3://bucket/rows/`; a list of files and URLs; a folder of pictures or recordings, as
            for `read_table`, whose paths are kept in memory; a table in memory; or a `torch.utils.data.Dataset` with a
            length, whose rows are pairs (inputs, targets).
        limit: take only so many rows, the first ones; None for all.

    Attributes:
        names: of the shards.
        groups: the groups of rows.
        schema: names and types of all columns; whole numbers in text count as fractions.
        bad: shards that cannot be read, and ends that are missing.

    Raises:
        DataError: there is nothing that can be read.

    Example:
        >>> for name in ("a", "b"):
        ...     _ = Path(f"{name}.csv").write_text("size,price\\n1,2\\n3,4\\n")
        >>> shards = Shards(["a.csv", "b.csv"])
        >>> len(shards), shards.schema.names
        (4, ['size', 'price'])
    """

    def __init__(self, source: Any, *, limit: int | None = None) -> None:
        self.dataset: Dataset[Any] | None = source if isinstance(source, Dataset) else None
        self.table: pa.Table | None = None
        self.places: list[Place] = []
        self.names: list[str] = []
        self.groups: tuple[Group, ...] = ()
        self.bad: list[BadRows] = []
        if self.dataset is not None:
            self._hold(_length(self.dataset), type(source).__name__)
        elif _is_path(source) and not _is_media(source):
            self._look(find_places(source))
        else:
            self.table = read_table(source)
            self.schema = self.table.schema
            self._hold(self.table.num_rows, str(source) if isinstance(source, (str, Path)) else type(source).__name__)
        if limit is not None:
            self.groups = tuple(_first(self.groups, limit))

    def _hold(self, n_rows: int, name: str) -> None:
        import pyarrow as pa

        self.names = [name]
        firsts = range(0, n_rows, HELD)
        self.groups = tuple(Group(0, Extent(min(HELD, n_rows - first), first)) for first in firsts)
        if self.table is None:
            self.schema = pa.schema([("row", pa.int64())])

    def _look(self, places: Sequence[Place]) -> None:
        import pyarrow as pa

        self.places = list(places)
        self.names = [place.name for place in places]
        found: list[Found | None] = []
        lost: list[tuple[str, str]] = []
        for place in places:
            try:
                found.append(_format(place).look(place))
            except (pa.ArrowException, OSError, EOFError) as error:
                found.append(None)
                lost.append((place.name, first_line(error)))
        seen = [one for one in found if one is not None and one.extents]
        if not seen:
            words = f": {lost[0][0]} cannot be read: {lost[0][1]}" if lost else ""
            raise DataError(f"none of the {len(places)} shards holds a row{words}.")
        rows = [sum(extent.rows for extent in one.extents) for one in seen]
        # How many rows a lost shard had nobody knows: about as many as the others.
        self.bad = [
            BadRows(name, None, f"cannot be read: {why}", "", round(sum(rows) / len(rows))) for name, why in lost
        ]
        self.bad += [bad for one in found if one is not None for bad in one.bad]
        shown = [name for name, one in zip(self.names, found, strict=True) if one is not None and one.extents]
        self.schema = common_schema([one.schema for one in seen], shown)
        self.groups = tuple(
            Group(shard, extent) for shard, one in enumerate(found) if one is not None for extent in one.extents
        )

    def __len__(self) -> int:
        return sum(group.extent.rows for group in self.groups)

    @property
    def all_rows(self) -> int:
        """How many rows there are, those included that are known to be lost."""
        return len(self) + sum(bad.rows for bad in self.bad)

    @property
    def fingerprint(self) -> str:
        """A short hash of names, groups and columns: what a position in them depends on."""
        import hashlib

        names = [name.rpartition("/")[2] for name in self.names]
        about = [names, [(g.shard, g.extent.rows) for g in self.groups], [str(one) for one in self.schema]]
        return hashlib.sha256(repr(about).encode()).hexdigest()[:16]

    def check_columns(self, names: Sequence[str]) -> None:
        """Refuse columns that no shard has.

        Raises:
            DataError: there is none of that name; the nearest one is offered.
        """
        for name in names:
            if name not in self.schema.names:
                raise DataError(
                    f"there is no column {name!r} in the shards; they have {self.schema.names[:12]}."
                    f"{nearest(name, self.schema.names)}"
                )

    def blocks(self, number: int, columns: Sequence[str] | None = None, rows: int = HELD) -> Iterator[Block]:
        """Read a group.

        Args:
            number: its place among the groups.
            columns: those that are wanted, by default all.
            rows: how many are read at a time where the group is large.
        """
        import pyarrow as pa

        group = self.groups[number]
        extent = group.extent
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        if self.places:
            place = self.places[group.shard]
            yield from _format(place).blocks(place, extent, schema, rows)
            return
        if self.table is not None:
            table = self.table.slice(extent.first, extent.rows).select(schema.names)
        else:
            table = pa.table({"row": np.arange(extent.first, extent.first + extent.rows)}, schema=schema)
        yield Block(table, np.arange(extent.rows), extent.rows)


def _first(groups: Sequence[Group], limit: int) -> Iterator[Group]:
    """Yield the groups that hold the first rows; the last one is cut."""
    for group in groups:
        if limit <= 0:
            return
        extent = group.extent
        yield replace(group, extent=replace(extent, rows=min(extent.rows, limit)))
        limit -= extent.rows


def _is_path(source: Any) -> bool:
    paths = isinstance(source, (list, tuple)) and bool(source) and all(isinstance(one, (str, Path)) for one in source)
    return isinstance(source, (str, Path)) or paths


def _is_media(source: Any) -> bool:
    """Whether it is a folder of pictures or recordings, which one table describes."""
    if not isinstance(source, (str, Path)) or is_url(str(source)) or not Path(source).is_dir():
        return False
    names = [child.name for child in Path(source).iterdir() if child.is_file()]
    if any(name.startswith("metadata.") for name in names):
        return True
    return not any(Place(name).suffix in SHARD_SUFFIXES for name in names)


def _format(place: Place) -> Format:
    return _FORMATS[place.suffix]()


def _length(dataset: Dataset[Any]) -> int:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise DataError(
            f"a {type(dataset).__name__} has no length and no order of its own: give a Dataset with __len__ and "
            "__getitem__, or the files that it reads."
        )
    return len(dataset)
