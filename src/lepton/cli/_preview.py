"""The first rows of a table for a terminal: what matters first, and no heading cut off."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

__all__ = ["preview"]

ROWS = 20
LONGEST = 32
"""Letters of a value that are shown."""

FRAME = 3
"""Letters beside a column: a line and two spaces."""


def preview(table: pa.Table, width: int, last: Collection[str] = ()) -> Table:
    """Return the first rows and as many columns as fit, with headings folded at `_`, and below it what is left out.

    Args:
        table: the rows.
        width: letters of a line.
        last: columns that give way where not all fit.
    """
    from rich.table import Table
    from rich.text import Text

    columns = {name: _words(table.column(name)) for name in table.column_names}
    widths = {name: max(map(len, [*words, *_pieces(name)])) for name, words in columns.items()}
    fitting = set(_fitting(widths, width, last))
    shown = Table(title=f"{table.num_rows} rows", title_justify="left", caption_justify="left")
    for name in columns:
        if name in fitting:
            shown.add_column(Text("\n".join(_lines(name, widths[name]))), overflow="fold")
    for row in zip(*(words for name, words in columns.items() if name in fitting), strict=True):
        shown.add_row(*map(Text, row))
    shown.caption = Text(_left_out(table.num_rows, [name for name in columns if name not in fitting]))
    return shown


def _words(column: pa.ChunkedArray) -> list[str]:
    values = column.slice(0, ROWS).to_pylist()
    words = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    return [word if len(word) <= LONGEST else f"{word[: LONGEST - 1]}…" for word in words]


def _fitting(widths: dict[str, int], width: int, last: Collection[str]) -> Iterator[str]:
    """Yield the first column, and those that still have room."""
    room: int | None = None
    for name in sorted(widths, key=lambda name: name in last):  # which keeps their order otherwise
        left = (width - 1 if room is None else room) - widths[name] - FRAME
        if room is None or left >= 0:
            room = left
            yield name


def _pieces(name: str) -> list[str]:
    return re.findall(r"[^_\s]*[_\s]*", name)[:-1] or [name]


def _lines(name: str, width: int) -> list[str]:
    lines = [""]
    for piece in _pieces(name):
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return lines


def _left_out(n_rows: int, columns: Sequence[str]) -> str:
    found = [f"{n_rows - ROWS} more rows"] if n_rows > ROWS else []
    if columns:
        found.append(f"{len(columns)} more column{'s' if len(columns) > 1 else ''}, such as {columns[0]}")
    return f"and {' and '.join(found)}: write all with --output" if found else ""
