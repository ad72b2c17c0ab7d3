"""Small drawings as SVG: a plot as it is before the script takes over, and a histogram in a table's cell.

No plotting library draws them: the usual ones that react to a reader weigh megabytes in every page, cannot be used with
a keyboard, and do not follow the reader's light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from lepton.insight.page._blocks import Plot, Trace

__all__ = ["histogram_svg", "log_ticks", "nice_ticks", "plot_svg"]

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 40
DASHES = ("", "7 3", "2 2.5", "8 3 2 3")
"""So that lines can be told apart without their colours."""

Span = tuple[float, float]


def _span_of(values: Sequence[float], *, log: bool) -> Span:
    """Return the ends of an axis that shows all finite values, in tens' powers if `log`."""
    known = [v for v in values if math.isfinite(v) and (not log or v > 0)]
    if not known:
        return 0.0, 1.0
    low, high = (math.log10(v) if log else v for v in (min(known), max(known)))
    if low == high:
        half = abs(low) / 10 or 0.5
        return low - half, high + half
    return low, high


def nice_ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Return round numbers within the ends; whole ones if they are to be.

    Example:
        >>> nice_ticks(0.0, 1.0, 5)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    rough = max(1.0, (high - low) / count) if whole else (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.99), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [round(first * step + i * step, 12) for i in range(math.floor((high - first * step) / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return the logarithms of powers of ten, with 2 and 5 between where there is room; of round numbers within one
    decade.

    Example:
        >>> [round(10**tick, 3) for tick in log_ticks(-2.0, 0.0)]
        [0.01, 0.05, 0.2, 1.0]
    """
    factors = (1, 2, 5) if high - low <= 3 else (1,)
    powers = range(math.floor(low), math.floor(high) + 1)
    inside = [tick for power in powers for f in factors if low <= (tick := power + math.log10(f)) <= high]
    if len(inside) > 2:
        return inside[:: math.ceil(len(inside) / 6)]
    return [math.log10(value) for value in nice_ticks(10**low, 10**high, 4) if value > 0]


class _Frame:
    """From data to the places on the drawing."""

    def __init__(self, plot: Plot) -> None:
        shown = [trace for trace in plot.traces if trace.shown] or list(plot.traces)
        ys = [y for trace in shown for y in trace.y]
        self.log = plot.log and all(t.kind == "line" for t in plot.traces) and any(y > 0 for y in ys)
        data = [trace for trace in shown if trace.kind != "guide"]
        self.x = _span_of([x for trace in data for x in trace.x], log=False)
        self.whole = all(t.kind == "line" and all(float(x).is_integer() for x in t.x) for t in plot.traces)
        self.y = plot.y_range if plot.y_range is not None and not self.log else self._vertical(shown, ys)
        if any(trace.kind == "bars" for trace in shown):
            pad = (self.x[1] - self.x[0]) / max(2, 2 * max(len(t.x) for t in shown))
            self.x = (self.x[0] - pad, self.x[1] + pad)
        if any(trace.kind == "points" for trace in shown):
            pad = 0.03 * (self.x[1] - self.x[0])
            self.x = (self.x[0] - pad, self.x[1] + pad)
        self.x = plot.x_range or self.x

    def _vertical(self, shown: Sequence[Trace], ys: Sequence[float]) -> Span:
        low, high = _span_of(ys, log=self.log)
        if any(trace.kind == "bars" for trace in shown):
            return 0.0, high * 1.05
        pad = 0.05 * (high - low)
        return low - pad, high + pad

    def across(self, x: float) -> float:
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def down(self, y: float) -> float:
        value = math.log10(y) if self.log else y
        return HEIGHT - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)

    def fits(self, x: float, y: float) -> bool:
        return math.isfinite(x) and math.isfinite(y) and (not self.log or y > 0)


def plot_svg(plot: Plot) -> str:
    """Return the plot as an SVG element whose colours are the page's variables."""
    frame = _Frame(plot)
    parts = [*_axes(plot, frame)]
    for place, trace in enumerate(plot.traces):
        if trace.shown:
            parts.append(_trace(trace, place, frame))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(plot.title)}">{"".join(parts)}</svg>'


def _axes(plot: Plot, frame: _Frame) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in log_ticks(*frame.y) if frame.log else nice_ticks(*frame.y, 4):
        y = bottom - (tick - frame.y[0]) / (frame.y[1] - frame.y[0]) * (bottom - TOP)
        word = f"{10**tick:.3g}" if frame.log else f"{tick:.6g}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{word}</text>')
    for tick in nice_ticks(*frame.x, 6, whole=frame.whole):
        parts.append(f'<text x="{frame.across(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:.6g}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(plot.x)}</text>')
    parts.append(
        f'<text transform="translate(12 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">{escape(plot.y)}</text>'
    )
    for x, _ in plot.marks:
        place = f"{frame.across(x):.1f}"
        parts.append(f'<line class="mark" x1="{place}" x2="{place}" y1="{TOP}" y2="{bottom}"/>')
    return parts


def _trace(trace: Trace, place: int, frame: _Frame) -> str:
    known = [(x, y) for x, y in zip(trace.x, trace.y, strict=True) if frame.fits(x, y)]
    points = [(frame.across(x), frame.down(y)) for x, y in known]
    colour = f"var(--series-{place % 6 + 1})"
    if trace.kind == "points":
        return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points)
    if trace.kind == "bars":
        width = 0.8 * (WIDTH - LEFT - RIGHT) / max(1, len(trace.x))
        floor = HEIGHT - BOTTOM
        return "".join(
            f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{floor - y:.1f}" fill="{colour}"/>'
            for x, y in points
        )
    if trace.kind == "guide":
        colour, dash, thick = "var(--muted)", "4 4", 1.0
    else:
        dash, thick = DASHES[place % len(DASHES)], 1.8
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}" stroke-dasharray="{dash}"/>'


def histogram_svg(shares: Sequence[float], label: str) -> str:
    """Return bars [N] >= 0, the highest being as high as the drawing."""
    top = max((share for share in shares if math.isfinite(share)), default=0.0) or 1.0
    width = 100 / max(1, len(shares))
    bars = "".join(
        f'<rect x="{i * width:.2f}" y="{24 - 24 * share / top:.2f}" width="{0.86 * width:.2f}" '
        f'height="{max(24 * share / top, 0.4):.2f}"/>'
        for i, share in enumerate(shares)
    )
    return (
        f'<svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{bars}</svg>'
    )
