"""Tables as data: for a terminal, and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table as RichTable

__all__ = ["Table", "TableCell", "TableRow", "Tone"]

Tone = Literal["plain", "muted", "better", "worse"]
_STYLES: dict[Tone, str] = {"plain": "", "muted": "dim", "better": "cyan", "worse": "bold yellow"}


@dataclass(frozen=True)
class TableCell:
    """What stands in one cell: a value, and a smaller remark below it.

    Args:
        value: first line.
        remark: second line, or nothing.
        tone: colour of the remark. Colour never says anything that the words do not say.
        bars: heights of a small histogram that a page shows in place of the value, which describes it.
    """

    value: str
    remark: str = ""
    tone: Tone = "muted"
    bars: tuple[float, ...] = ()


@dataclass(frozen=True)
class TableRow:
    """A named row of a table.

    Args:
        name: what the row is about, and in its remark the unit or direction.
        cells: one per column of the table.
        new_group: whether a rule is drawn above it.
    """

    name: TableCell
    cells: tuple[TableCell, ...]
    new_group: bool = False


@dataclass(frozen=True)
class Table:
    """A table as data: printed by rich (`console.print(table)`), or written into a page by `write_report`.

    In a terminal too narrow for all columns it is printed in several parts, each with the first column again.

    Args:
        title: what it shows.
        columns: their headings; the first is the one that others are compared with.
        rows: each with as many cells as there are columns.
        footnotes: sentences that explain the marks.
        words_last: whether the last column holds words, which a page sets to the left and may wrap.

    Example:
        >>> row = TableRow(TableCell("digit"), (TableCell("0.91"), TableCell("0.88", "worse -0.03")))
        >>> table = Table("Accuracy", ("alone", "equal"), (row,))
        >>> {name: cell.value for name, cell in zip(table.columns, table.rows[0].cells)}
        {'alone': '0.91', 'equal': '0.88'}
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    footnotes: tuple[str, ...] = ()
    words_last: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield what rich prints: as many columns at a time as fit."""
        from rich.padding import Padding
        from rich.text import Text

        yield Text(self.title, style="bold")
        for part in self._parts(options.max_width):
            yield Text("")
            yield self._draw(part)
        for note in self.footnotes:
            yield Padding(Text(note, style="dim"), (1, 1, 0, 1))

    def _parts(self, width: int) -> Iterator[tuple[int, ...]]:
        """Yield the indices of the columns that are printed side by side."""
        widths = [self._column_width(i) + 2 for i in range(len(self.columns))]
        sticky = max(_width(row.name) for row in self.rows) + 2 + widths[0]
        part, used = [0], sticky
        for i, needed in enumerate(widths[1:], start=1):
            if used + needed > width and len(part) > 1:
                yield tuple(part)
                part, used = [0], sticky
            part.append(i)
            used += needed
        yield tuple(part)

    def _column_width(self, i: int) -> int:
        longest_word = max(map(len, self.columns[i].split()), default=0)
        return max(longest_word, *(_width(row.cells[i]) for row in self.rows))

    def _draw(self, part: Sequence[int]) -> RichTable:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        table.add_column("", no_wrap=False)
        for i in part:
            table.add_column(Text(self.columns[i]), width=self._column_width(i), vertical="top")
        for row, following in zip(self.rows, [*self.rows[1:], None], strict=True):
            ends = following is not None and following.new_group
            cells = (_rich_text(cell) for cell in (row.name, *(row.cells[i] for i in part)))
            table.add_row(*cells, end_section=ends)
        return table


def _width(cell: TableCell) -> int:
    return max(len(cell.value), len(cell.remark))


def _rich_text(cell: TableCell) -> RenderableType:
    from rich.text import Text

    text = Text(cell.value)
    return text.append(f"\n{cell.remark}", style=_STYLES[cell.tone]) if cell.remark else text
