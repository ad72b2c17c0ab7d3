"""Blocks to HTML. Every text is escaped here, and nowhere else."""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from html import escape

from lepton.errors import DataError
from lepton.insight._edits import edits
from lepton.insight.page._blocks import (
    Block,
    Card,
    Chart,
    Code,
    Flag,
    Fold,
    Gallery,
    Grid,
    Heading,
    Matrix,
    Picture,
    Plot,
    Points,
    Trace,
)
from lepton.insight.page._sound import SpeechExample, wav_of
from lepton.insight.page._sound_svg import sound_svg
from lepton.insight.page._style import svg_of
from lepton.insight.page._svg import histogram_svg, plot_svg
from lepton.insight.page._tables import Table, TableCell, TableRow

__all__ = ["Renderer"]

_PNG = b"\x89PNG\r\n\x1a\n"
_SIGNIFICANT = 5
"""Digits of a number in a plot: more cannot be seen, and they would be half of the page's size."""


class Renderer:
    """Turns blocks into HTML and numbers the figures of one page."""

    def __init__(self) -> None:
        self._figures: Iterator[int] = itertools.count(1)

    def block(self, block: Block) -> str:
        """Return the HTML of one block."""
        match block:
            case str():
                return f"<p>{_typeset(block)}</p>"
            case Points():
                return "<ul>" + "".join(f"<li>{_typeset(item)}</li>" for item in block.items) + "</ul>"
            case Table():
                return _table(block)
            case Chart():
                return self._chart(block)
            case Picture():
                return _figure(_image(block.png, block.alt), block.alt, block.caption)
            case Plot():
                return _plot(block)
            case Matrix():
                return _matrix(block)
            case Gallery():
                cards = "".join(f"<li>{_card(card)}</li>" for card in block.cards)
                return f'<ul class="gallery {block.size}" aria-label="{escape(block.title)}">{cards}</ul>'
            case Fold():
                inside = self.blocks(block.blocks)
                return f"<details>\n<summary>{_typeset(block.summary)}</summary>\n{inside}\n</details>"
            case Grid():
                return f'<div class="pair">{self.blocks(block.blocks)}</div>'
            case Heading():
                return f"<h3>{_typeset(block.text)}</h3>"
            case Code():
                return f'<pre tabindex="0" aria-label="{escape(block.label)}">{escape(block.text)}</pre>'
            case Flag():
                return f'<p class="flag">{_typeset(block.text)}</p>'
            case SpeechExample():
                return _speech(block)

    def blocks(self, blocks: Sequence[Block]) -> str:
        """Return the HTML of several blocks."""
        return "\n".join(self.block(block) for block in blocks)

    def _chart(self, chart: Chart) -> str:
        svg = svg_of(chart.figure, f"figure{next(self._figures)}")
        drawn = svg.replace("<svg", f'<svg role="img" aria-label="{escape(chart.alt)}"', 1)
        return _figure(drawn, chart.alt, chart.caption)


def _typeset(text: str) -> str:
    """Return escaped text with true minus signs, and no line break around ±, → and before %."""
    text = re.sub(r"(?<!\w)-(?=[\d.])", "−", text)
    return escape(re.sub(r" (?=[±→%])|(?<=[±→]) ", "\u00a0", text))


def _image(png: bytes, alt: str) -> str:
    if not png.startswith(_PNG):
        raise DataError(f"Picture: png must be the bytes of a PNG file, but they begin with {png[:8]!r}.")
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'


def _figure(drawn: str, alt: str, caption: str) -> str:
    # Focusable, so that the arrow keys scroll it where the screen is narrow.
    box = f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(alt)}">{drawn}</div>'
    return f"<figure>\n{box}\n<figcaption>{_typeset(caption)}</figcaption>\n</figure>"


# -- tables -------------------------------------------------------------------------------------------------------
def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    bodies = "".join(f"<tbody>{''.join(map(_row, group))}</tbody>\n" for group in _groups(table.rows))
    notes = "".join(f"<p>{_typeset(note)}</p>" for note in table.footnotes)
    kind = ' class="words"' if table.words_last else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(table.title)}"><table{kind}>\n'
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
    drawn = histogram_svg(cell.bars, cell.value) if cell.bars else _typeset(cell.value)
    remark = f'<small class="{cell.tone}">{_typeset(cell.remark)}</small>' if cell.remark else ""
    return drawn + remark


def _matrix(matrix: Matrix) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in matrix.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(map(_shaded, cells, shades))}</tr>\n'
        for name, cells, shades in zip(matrix.rows, matrix.cells, matrix.shades, strict=True)
    )
    caption = f'<div class="notes"><p>{_typeset(matrix.caption)}</p></div>' if matrix.caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(matrix.title)}"><table class="matrix">\n'
        f"<caption>{escape(matrix.title)}</caption>\n<thead><tr><td>{escape(matrix.corner)}</td>{head}</tr></thead>\n"
        f"<tbody>{rows}</tbody></table></div>\n{caption}"
    )


def _shaded(cell: str, shade: float) -> str:
    if math.isnan(shade):
        return f"<td>{_typeset(cell)}</td>"
    kind = "worse" if shade < 0 else "better"
    return f'<td class="shade {kind}" style="--share: {min(1.0, abs(shade)):.3f}">{_typeset(cell)}</td>'


# -- plots and pictures -------------------------------------------------------------------------------------------
def _plot(plot: Plot) -> str:
    told = {
        "title": plot.title,
        "x": plot.x,
        "y": plot.y,
        "log": plot.log,
        "width": plot.x_range,
        "range": plot.y_range,
        "marks": [[_short(x), words] for x, words in plot.marks],
        "traces": [_trace(trace) for trace in plot.traces],
    }
    data = escape(json.dumps(told, separators=(",", ":"), allow_nan=False, ensure_ascii=False))
    caption = f"<figcaption>{_typeset(plot.caption)}</figcaption>" if plot.caption else ""
    return (
        f'<figure class="plot" data-plot="{data}">\n<h4>{_typeset(plot.title)}</h4>\n'
        f'<div class="drawing">{_legend(plot)}{plot_svg(plot)}</div>\n{caption}</figure>'
    )


def _legend(plot: Plot) -> str:
    """Return the names of the traces for a page whose script does not run."""
    names = [(place, trace) for place, trace in enumerate(plot.traces) if trace.kind != "guide" and trace.shown]
    if len(names) < 2:
        return ""
    keys = (
        f'<span><span class="key" style="background: var(--series-{place % 6 + 1})"></span>{_typeset(t.name)}</span>'
        for place, t in names
    )
    return f'<p class="legend">{" ".join(keys)}</p>'


def _trace(trace: Trace) -> dict[str, object]:
    return {
        "name": trace.name,
        "kind": trace.kind,
        "x": [_short(x) for x in trace.x],
        "y": [_short(y) for y in trace.y],
        "labels": list(trace.labels),
        "shown": trace.shown,
    }


def _short(value: float) -> float | None:
    """Return the number with few digits, so that the page is small; None where JSON has no word for it."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{_SIGNIFICANT}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _card(card: Card) -> str:
    pictures = "".join(
        f"<figure>{_image(png, name)}{f'<figcaption>{_typeset(name)}</figcaption>' if name else ''}</figure>"
        for name, png in card.pictures
    )
    lines = "".join(f'<p class="{tone}">{_typeset(text)}</p>' for text, tone in card.lines)
    return f'<div class="pictures" style="--n: {max(1, len(card.pictures))}">{pictures}</div>{lines}'


# -- sound --------------------------------------------------------------------------------------------------------
def _speech(example: SpeechExample) -> str:
    sound = base64.b64encode(wav_of(example.waveform, example.sample_rate)).decode("ascii")
    facts = {"length": f"{example.seconds:.2f} s", **example.facts}
    told = "".join(f"<span>{escape(name)}: <b>{_typeset(value)}</b></span>" for name, value in facts.items())
    kind, box = "sound", '<div class="drawing">'
    if example.wide:  # focusable, so that the arrow keys scroll it where the screen is narrow
        name = escape(f"Drawing of {example.title}")
        kind, box = "sound wide", f'<div class="drawing scroll" tabindex="0" role="group" aria-label="{name}">'
    return (
        f'<figure class="{kind}">\n<h4>{_typeset(example.title)}</h4>\n'
        f'<div class="transcripts">{_transcript(example.said, example.truth)}</div>\n'
        f'<audio controls preload="metadata" aria-label="Sound: {escape(example.title)}" '
        f'src="data:audio/wav;base64,{sound}"></audio>\n'
        f"{box}{sound_svg(example)}</div>\n<figcaption>{told}</figcaption>\n</figure>"
    )


def _transcript(said: str, truth: str) -> str:
    """Return the text; where it is not the true one, both, with the characters that differ marked."""
    if not truth:
        return _line("text", escape(said) or "(none)")
    if said == truth:
        return _line("found", f'{escape(said)} <span class="right">✓ right</span>')
    steps = edits(said, truth)
    found = "".join(escape(new) if step == "equal" else _marked(new) for step, _, new in steps)
    true = "".join(escape(old) if step == "equal" else _marked(old) for step, old, _ in steps)
    return _line("found", found or "(nothing)", "wrong") + _line("true", true)


def _line(label: str, html: str, kind: str = "") -> str:
    classes = f"transcript {kind}".rstrip()
    return f'<p class="{classes}"><span class="label">{label}</span> {html}</p>'


def _marked(character: str) -> str:
    return f"<mark>{escape(character)}</mark>" if character else ""
