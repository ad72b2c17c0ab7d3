"""A recording as one SVG element: wave, spectrogram and characters above each other, on one axis of time."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from html import escape

import numpy as np

from lepton.insight.page._colour_map import colour_map, spectrogram_png
from lepton.insight.page._sound import FLOOR, SpeechExample, band_ticks, envelope, levels_of, shown_character
from lepton.insight.page._svg import nice_ticks

__all__ = ["sound_svg"]

NARROW, WIDE = 480, 960
"""Widths of a drawing in a column of the page and across it: one unit is about one pixel."""

LEFT, RIGHT, TOP = 46, 46, 6
WAVE, GAP, BANDS, STRIP, AXIS = 56, 8, 150, 26, 22
"""Heights of the wave, the space below it, the spectrogram, the characters and the labels of the time axis."""

NARROWEST = 7.0
"""A character is written where it has so much room."""

APART = 18.0
"""Lines between the characters reach up to the wave where they stand so far apart on average."""

UNIT_ROOM = 20
"""Height at the top of the spectrogram's axis that belongs to its unit."""

TOLD = 40
"""Characters whose times are read out to those who cannot see the drawing."""


def sound_svg(example: SpeechExample) -> str:
    """Return the drawing of a recording; its spectrogram is a PNG inside, its colours are the page's variables."""
    place = _Place(example)
    data = f'data-left="{LEFT}" data-right="{place.right}" data-end="{example.end:.6g}"'
    parts = "".join(
        [*_wave(example, place), *_spectrogram(example, place), *_characters(example, place), *_axis(place)]
    )
    return (
        f'<svg viewBox="0 0 {place.width} {place.height}" role="img" aria-label="{escape(_words(example))}" {data}>'
        f"{parts}</svg>"
    )


class _Place:
    """Where the parts of a drawing lie."""

    def __init__(self, example: SpeechExample) -> None:
        self.end = example.end
        self.width = WIDE if example.wide else NARROW
        self.right = self.width - RIGHT
        self.bands = TOP + WAVE + GAP
        self.strip = self.bands + (BANDS if example.log_mel is not None else 0)
        self.bottom = self.strip + (STRIP if example.characters else 0)
        self.height = self.bottom + AXIS

    def across(self, seconds: float) -> float:
        return LEFT + seconds / self.end * (self.right - LEFT)


def _words(example: SpeechExample) -> str:
    drawn = "wave" if example.log_mel is None else "wave and spectrogram"
    times = ", ".join(f"{shown_character(c)} {a:.2f} to {b:.2f} s" for c, a, b in example.characters[:TOLD])
    more = ", and so on" if len(example.characters) > TOLD else ""
    return f"{example.title}: {drawn} of {example.seconds:.2f} s." + (f" Characters: {times}{more}." if times else "")


# -- wave ---------------------------------------------------------------------------------------------------------
def _wave(example: SpeechExample, place: _Place) -> Iterator[str]:
    low, high = envelope(example.samples, round((place.right - LEFT) / 1.5 * example.seconds / example.end))
    peak = max(float(high.max()), -float(low.min())) or 1.0
    middle, half = TOP + WAVE / 2, WAVE / 2
    step = (place.across(example.seconds) - LEFT) / len(low)
    down = [f"{middle - value / peak * half:.1f}" for value in high]
    up = [f"{middle - value / peak * half:.1f}" for value in low]
    there = "".join(f"L{LEFT + (i + 0.5) * step:.1f} {y}" for i, y in enumerate(down))
    back = "".join(f"L{LEFT + (i + 0.5) * step:.1f} {up[i]}" for i in reversed(range(len(up))))
    yield f'<line class="grid" x1="{LEFT}" x2="{place.right}" y1="{middle}" y2="{middle}"/>'
    yield f'<path class="wave" d="M{there[1:]}{back}Z"/>'
    yield f'<text x="{LEFT - 6}" y="{TOP + 9}" text-anchor="end">{peak:.2g}</text>'
    yield f'<text x="{LEFT - 6}" y="{middle + 4}" text-anchor="end">0</text>'


# -- spectrogram --------------------------------------------------------------------------------------------------
def _spectrogram(example: SpeechExample, place: _Place) -> Iterator[str]:
    if example.log_mel is None:
        return
    # The last frame reaches up to the end of the recording; what lies before its beginning is cut off.
    levels = np.pad(levels_of(example.log_mel), ((0, 1), (0, 0)), mode="edge")
    png = base64.b64encode(spectrogram_png(1 - levels / FLOOR)).decode("ascii")
    first, last = example.frame_span
    step = (last - first) / len(example.log_mel)
    start, stop = (place.across(seconds) - LEFT for seconds in (first, last + step))
    behind = max(0.0, stop - (place.across(example.seconds) - LEFT))
    yield (
        f'<image x="{LEFT + start:.2f}" y="{place.bands}" width="{stop - start:.2f}" height="{BANDS}" '
        f'preserveAspectRatio="none" style="clip-path: inset(0 {behind:.2f}px 0 {max(0.0, -start):.2f}px)" '
        f'href="data:image/png;base64,{png}"/>'
    )
    yield from _bands(example, place)
    yield from _key(place)


def _bands(example: SpeechExample, place: _Place) -> Iterator[str]:
    """Yield the labels of the spectrogram's axis, its unit at the top."""
    assert example.log_mel is not None
    count = example.log_mel.shape[1]
    unit, ticks = band_ticks(example)
    yield f'<text x="{LEFT - 6}" y="{place.bands + 9}" text-anchor="end">{unit}</text>'
    for band, word in ticks:
        y = place.bands + BANDS * (1 - (band + 0.5) / count)
        if y < place.bands + UNIT_ROOM:
            continue
        yield f'<line class="tick" x1="{LEFT - 3}" x2="{LEFT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{word}</text>'


def _key(place: _Place) -> Iterator[str]:
    """Yield the colours with their decibels, loud at the top."""
    steps = colour_map()[::-4]
    high = BANDS / len(steps)
    for i, (red, green, blue) in enumerate(steps.tolist()):
        y = place.bands + i * high
        yield (
            f'<rect x="{place.right + 8}" y="{y:.2f}" width="7" height="{high + 0.3:.2f}" '
            f'fill="#{red:02x}{green:02x}{blue:02x}"/>'
        )
    for level, y in ((0.0, 10.0), (FLOOR / 2, BANDS / 2 + 4), (FLOOR, BANDS - 1.0)):
        word = f"{level:.0f}".replace("-", "−") + (" dB" if level == 0 else "")
        yield f'<text x="{place.right + 19}" y="{place.bands + y}">{word}</text>'


# -- characters ---------------------------------------------------------------------------------------------------
def _characters(example: SpeechExample, place: _Place) -> Iterator[str]:
    apart = (place.right - LEFT) / max(1, len(example.characters)) >= APART
    for number, (name, start, stop) in enumerate(example.characters):
        left, right = place.across(max(start, 0.0)), place.across(min(stop, example.end))
        shade = "even" if number % 2 == 0 else "odd"
        yield f'<rect class="{shade}" x="{left:.1f}" y="{place.strip}" width="{right - left:.1f}" height="{STRIP}"/>'
        if start > 0 and apart:
            yield f'<line class="cut" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP}" y2="{place.bottom}"/>'
        if right - left >= NARROWEST:
            word = escape(shown_character(name))
            middle = (left + right) / 2
            yield f'<text class="name" x="{middle:.1f}" y="{place.strip + 18}" text-anchor="middle">{word}</text>'


def _axis(place: _Place) -> Iterator[str]:
    ticks = nice_ticks(0.0, place.end, 5 if place.width == NARROW else 10)
    for tick in ticks:
        word = f"{tick:.6g}" + (" s" if tick == ticks[-1] else "")
        x = place.across(tick)
        yield f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{place.bottom}" y2="{place.bottom + 4}"/>'
        yield f'<text x="{x:.1f}" y="{place.bottom + 17}" text-anchor="middle">{word}</text>'
