"""A bounded number of rows from all shards: what rules are fitted on, and what a report shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton.data._loading import Batch
from lepton.data.stream._blocks import parted
from lepton.data.stream._reading import Choice, Encode
from lepton.data.stream._shards import Shards
from lepton.errors import LeptonError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SAMPLE", "sampled", "usable_rows"]

SAMPLE = 50_000
"""Rows that rules are fitted on."""

PLACES = 4
"""Groups of a shard that are looked at: rows are often sorted."""


def sampled(shards: Shards, choice: Choice | None = None, rows: int = SAMPLE) -> pa.Table:
    """Return rows of all shards, as many of each, spread over four of its groups; all rows where they are few.

    Args:
        shards: the source.
        choice: which rows are wanted; None for all.
        rows: how many are taken at most, before the choice, where there are fewer shards than that.

    Returns:
        The rows in the order of the shards. The same for the same shards, always.
    """
    import pyarrow as pa

    by_shard: dict[int, list[int]] = {}
    for number, group in enumerate(shards.groups):
        by_shard.setdefault(group.shard, []).append(number)
    everything = len(shards) <= rows
    tables = [shards.schema.empty_table()]
    for groups in by_shard.values():
        places = groups if everything else _spread(groups, PLACES)
        quota = rows if everything else max(1, rows // (len(by_shard) * len(places)))
        tables += [_some(shards, number, quota, choice) for number in places]
    return pa.concat_tables(tables).combine_chunks()


def usable_rows(table: pa.Table, encode: Encode) -> pa.Table:
    """Return the rows of a table that can be made into inputs and targets.

    Args:
        table: the rows.
        encode: makes them.

    Example:
        >>> import pyarrow
        >>> def halves(table):
        ...     if 3 in table.column("n").to_pylist():
        ...         raise ValueError("three has no half")
        >>> usable_rows(pyarrow.table({"n": [1, 2, 3, 4]}), halves).column("n").to_pylist()
        [1, 2, 4]
    """
    import pyarrow as pa

    def use(start: int, stop: int) -> Batch:
        return encode(table.slice(start, stop - start))

    tried = parted(use, 0, table.num_rows, (LeptonError, OSError, ValueError))
    kept = [table.slice(start, stop - start) for start, stop, found in tried if not isinstance(found, Exception)]
    return pa.concat_tables([table.slice(0, 0), *kept]).combine_chunks()


def _spread(items: list[int], number: int) -> list[int]:
    return [items[place] for place in sorted(set(np.linspace(0, len(items) - 1, number).round().astype(int).tolist()))]


def _some(shards: Shards, number: int, quota: int, choice: Choice | None) -> pa.Table:
    """Return rows of a group, spread over what is read of it first."""
    import pyarrow as pa

    group = shards.groups[number]
    name, first = shards.names[group.shard], group.extent.first
    found, held = [shards.schema.empty_table()], 0
    for block in shards.blocks(number, rows=quota):
        table, numbers = block.table, block.numbers
        places = np.arange(table.num_rows)
        if table.num_rows > quota - held:
            places = np.linspace(0, table.num_rows - 1, quota - held).round().astype(int)
        table, numbers = table.take(places), numbers[places]
        held += len(places)
        kept = np.ones(len(numbers), bool) if choice is None else choice(name, first + numbers, table)
        found.append(table.filter(kept))
        if held >= quota:
            break
    return pa.concat_tables(found)
