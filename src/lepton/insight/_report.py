from __future__ import annotations

import base64
import contextlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from lepton.errors import DataError
from lepton.insight._style import THEME, svg_of
from lepton.insight._tables import Table, TableCell, TableRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Block", "Chart", "Picture", "Points", "Section", "write_report"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Chart:
    """A matplotlib figure; it becomes inline SVG that follows the reader's light or dark scheme.

    Args:
        figure: as the `plot_...` functions return it.
        alt: what it shows, for those who cannot see it.
        caption: one sentence that says how to read it.
    """

    figure: Figure
    alt: str
    caption: str


@dataclass(frozen=True)
class Picture:
    """A PNG image.

    Args:
        png: the bytes of the file.
        alt: what it shows, for those who cannot see it.
        caption: one sentence that says how to read it.
    """

    png: bytes
    alt: str
    caption: str


@dataclass(frozen=True)
class Points:
    """A list of short statements.

    Args:
        items: each a line of plain text.
    """

    items: tuple[str, ...]


Block = str | Points | Table | Chart | Picture
"""What a section is made of; a string is a paragraph of plain text."""


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        heading: its title, also in the table of contents. Empty for the words that open the page.
        blocks: what it holds, in order.
    """

    heading: str
    blocks: tuple[Block, ...]


def write_report(path: str | os.PathLike[str], title: str, sections: Sequence[Section]) -> Path:
    """Write one self-contained HTML page: styles, figures and pictures inside, no script, nothing fetched.

    All text is escaped. The file appears at once and whole: a reader of an older one never sees half of a page.

    Args:
        path: of the file; its folder is made if it does not exist.
        title: of the page.
        sections: in their order; the first one may have no heading.

    Returns:
        The path.

    Raises:
        DataError: for a picture that is no PNG.
        MissingExtraError: if there is a `Chart` and matplotlib is not installed.
        OSError: if the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = write_report(pathlib.Path(folder, "report.html"), "a < b", [Section("", ("Hello.",))])
        ...     "<h1>a &lt; b</h1>" in page.read_text(encoding="utf-8")
        True
    """
    target = Path(path)
    page = _page(title, sections)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(page)
        Path(name).chmod(0o644)  # mkstemp lets only the owner read
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    return target


def _page(title: str, sections: Sequence[Section]) -> str:
    counter = itertools.count(1)
    anchors = [f"part-{i}" for i in range(1, len(sections) + 1)]
    contents = "".join(
        f'<li><a href="#{anchor}">{escape(section.heading)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
        if section.heading
    )
    opening = sections[:1] if sections and not sections[0].heading else []
    bodies = [_section(section, anchor, counter) for section, anchor in zip(sections, anchors, strict=True)]
    navigation = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>' if contents else ""
    parts = [*bodies[: len(opening)], navigation, *bodies[len(opening) :]]
    return _frame(title, "\n".join(part for part in parts if part))


def _frame(title: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{_styles()}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<main id="content">
<h1>{escape(title)}</h1>
{body}
<footer>Written by Lepton. This page is one file; it loads nothing from elsewhere.</footer>
</main>
</body>
</html>
"""


def _styles() -> str:
    light = " ".join(f"--{name}: {colour.light};" for name, colour in THEME.items())
    dark = " ".join(f"--{name}: {colour.dark};" for name, colour in THEME.items())
    rules = files("lepton.insight").joinpath("_report.css").read_text(encoding="utf-8")
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{rules}"


def _section(section: Section, anchor: str, counter: Iterator[int]) -> str:
    blocks = "\n".join(_block(block, counter) for block in section.blocks)
    if not section.heading:
        return f'<div id="{anchor}">\n{blocks}\n</div>'
    heading = f'<h2 id="{anchor}">{escape(section.heading)}</h2>'
    return f'<section aria-labelledby="{anchor}">\n{heading}\n{blocks}\n</section>'


def _block(block: Block, counter: Iterator[int]) -> str:
    match block:
        case str():
            return f"<p>{_typeset(block)}</p>"
        case Points():
            return "<ul>" + "".join(f"<li>{_typeset(item)}</li>" for item in block.items) + "</ul>"
        case Table():
            return _table(block)
        case Chart():
            svg = svg_of(block.figure, f"figure{next(counter)}")
            drawn = svg.replace("<svg", f'<svg role="img" aria-label="{escape(block.alt)}"', 1)
            return _figure(drawn, block.alt, block.caption)
        case Picture():
            return _figure(_image(block), block.alt, block.caption)


def _image(picture: Picture) -> str:
    if not picture.png.startswith(_PNG):
        raise DataError(f"Picture: png must be the bytes of a PNG file, but they begin with {picture.png[:8]!r}.")
    data = base64.b64encode(picture.png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(picture.alt)}">'


def _figure(drawn: str, alt: str, caption: str) -> str:
    # Focusable, so that the arrow keys scroll it where the screen is narrow.
    box = f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(alt)}">{drawn}</div>'
    return f"<figure>\n{box}\n<figcaption>{_typeset(caption)}</figcaption>\n</figure>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    bodies = "".join(f"<tbody>{''.join(map(_row, group))}</tbody>\n" for group in _groups(table.rows))
    notes = "".join(f"<p>{_typeset(note)}</p>" for note in table.footnotes)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(table.title)}"><table>\n'
        f"<caption>{escape(table.title)}</caption>\n<thead><tr><td></td>{head}</tr></thead>\n{bodies}</table></div>\n"
        + (f'<div class="notes">{notes}</div>' if notes else "")
    )


def _groups(rows: Sequence[TableRow]) -> list[list[TableRow]]:
    groups: list[list[TableRow]] = [[]]
    for row in rows:
        if row.new_group and groups[-1]:
            groups.append([])
        groups[-1].append(row)
    return groups


def _row(row: TableRow) -> str:
    cells = "".join(f"<td>{_cell(cell)}</td>" for cell in row.cells)
    return f'<tr><th scope="row">{_cell(row.name)}</th>{cells}</tr>\n'


def _cell(cell: TableCell) -> str:
    remark = f'<small class="{cell.tone}">{_typeset(cell.remark)}</small>' if cell.remark else ""
    return _typeset(cell.value) + remark


def _typeset(text: str) -> str:
    """Return escaped text with true minus signs, and no line break around ±, → and before %."""
    text = re.sub(r"(?<!\w)-(?=[\d.])", "−", text)
    return escape(re.sub(r" (?=[±→%])|(?<=[±→]) ", "\u00a0", text))
