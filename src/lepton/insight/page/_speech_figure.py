"""The drawing of a recording as a figure, for a file of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton.insight.page._colour_map import colour_map
from lepton.insight.page._sound import FLOOR, SpeechExample, band_ticks, levels_of, shown_character
from lepton.insight.page._style import BAND, GRID, INK, MUTED, PAPER, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_speech"]

_INCHES = 9.0  # 900 pixels of a README at 100 dpi
_LETTERS = 95  # of a title
_WAVE, _BANDS, _STRIP, _AROUND = 1.0, 2.7, 0.36, 0.95


def plot_speech(example: SpeechExample) -> Figure:
    """Draw a recording: its wave, its spectrogram and its characters above each other, on one axis of time.

    Args:
        example: what is drawn. Above it stand its title, its text and, where that differs, the true one. `png_of` makes
            the bytes of a PNG file from the figure.

    Raises:
        MissingExtraError: if matplotlib is not installed.

    Example:
        >>> sound = 0.1 * np.sin(0.3 * np.arange(800))
        >>> figure = plot_speech(SpeechExample("A tone", sound, 8000, None, "a", "", [("a", 0.0, 0.1)]))
        >>> len(figure.axes)
        2
    """
    heights = [_WAVE] + [_BANDS] * (example.log_mel is not None) + [_STRIP] * bool(example.characters)
    figure, style = new_figure(_INCHES, sum(heights) + _AROUND, "plot_speech")
    with style:
        layout: Any = figure.get_layout_engine()
        layout.set(hspace=0.02, h_pad=0.06)
        panels = list(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights).flat)
        _draw_wave(panels[0], example)
        if example.log_mel is not None:
            _draw_bands(figure, panels[1], example)
        if example.characters:
            _draw_characters(panels, example)
        for axes in panels:
            axes.set_xlim(0.0, example.end)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        figure.align_ylabels(panels)
        panels[-1].set_xlabel("seconds")
        panels[0].set_title(_title(example), pad=8)
    return figure


def _title(example: SpeechExample) -> str:
    words = f"{example.title}: {example.said or '(nothing)'}"
    if example.truth not in ("", example.said):
        words += f"  (true: {example.truth})"
    return words if len(words) <= _LETTERS else words[: _LETTERS - 1] + "…"


def _draw_wave(axes: Any, example: SpeechExample) -> None:
    samples = example.samples
    axes.plot(np.arange(len(samples)) / example.sample_rate, samples, color=SERIES[0], linewidth=0.6)
    peak = float(np.abs(samples).max()) or 1.0
    axes.set_ylim(-1.05 * peak, 1.05 * peak)
    axes.set_yticks([0.0, peak], ["0", f"{peak:.2g}"], fontsize=8.5, color=MUTED)
    axes.grid(False)
    axes.axhline(0.0, color=GRID, linewidth=0.7, zorder=0.5)
    axes.set_ylabel("wave")


def _draw_bands(figure: Figure, axes: Any, example: SpeechExample) -> None:
    from matplotlib.colors import ListedColormap

    assert example.log_mel is not None
    count = example.log_mel.shape[1]
    # The last frame reaches up to the end of the recording.
    levels = np.pad(levels_of(example.log_mel), ((0, 1), (0, 0)), mode="edge")
    first, last = example.frame_span
    extent = (first, last + (last - first) / len(example.log_mel), -0.5, count - 0.5)
    colours = ListedColormap(colour_map() / 255.0)
    look: dict[str, Any] = {"origin": "lower", "aspect": "auto", "interpolation": "bilinear"}
    drawn = axes.imshow(levels.T, colours, **look, extent=extent, vmin=FLOOR, vmax=0)
    drawn.set_clip_path(axes.add_patch(_box(0.0, example.seconds, -0.5, count)))
    axes.grid(False)
    unit, ticks = band_ticks(example)
    axes.set_ylabel(unit)
    axes.set_yticks([place for place, _ in ticks], [word for _, word in ticks], fontsize=8.5, color=MUTED)
    bar = figure.colorbar(drawn, ax=axes, pad=0.01, fraction=0.03, aspect=24, ticks=[FLOOR, FLOOR / 2, 0.0])
    bar.ax.set_yticklabels([f"−{-FLOOR:.0f}", f"−{-FLOOR / 2:.0f}", "0 dB"], fontsize=8.5, color=MUTED)
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)


def _box(left: float, width: float, bottom: float, height: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((left, bottom), width, height, facecolor="none", edgecolor="none")


def _draw_characters(panels: list[Any], example: SpeechExample) -> None:
    axes = panels[-1]
    axes.set_ylim(0.0, 1.0)
    axes.set_yticks([])
    axes.grid(False)
    room = _INCHES * 72 * 0.85 / example.end  # points of a second
    for number, (name, start, stop) in enumerate(example.characters):
        axes.axvspan(start, stop, color=BAND, alpha=1.0 if number % 2 == 0 else 0.45, linewidth=0)
        if (stop - start) * room >= 7:
            middle = {"ha": "center", "va": "center_baseline", "fontweight": "bold", "color": INK}
            axes.text((start + stop) / 2, 0.5, shown_character(name), **middle)
        if start > 0 and (stop - start) * room >= 18:
            for above in panels[:-1]:
                above.axvline(start, color=PAPER if above is panels[1] else MUTED, linewidth=0.7, linestyle=(0, (2, 3)))
