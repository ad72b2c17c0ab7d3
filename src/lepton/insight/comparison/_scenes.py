from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lepton.errors import ConfigurationError
from lepton.insight.page import INK, WORSE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Caption", "MaskPanel", "plot_scenes"]

# Not colours of the theme: masks are pixels, which do not follow the page's scheme, and the legend must match them.
_CLASSES = ("#1b7fc4", "#e09a1a", "#c2609a", "#1ba37c", "#7173c9", "#8a9099")
_BACKGROUND = ("#808890", 0.16)


@dataclass(frozen=True)
class MaskPanel:
    """A row of class masks, one per scene.

    Args:
        title: such as `"predicted"`.
        masks: integers [N, H, W]; 0 is the background, negative values and 255 are not labelled.
    """

    title: str
    masks: ArrayLike


@dataclass(frozen=True)
class Caption:
    """A line below a scene: `name: truth → prediction`.

    Args:
        name: what was predicted.
        truth: the label as text; empty where it is missing.
        prediction: the prediction as text.
        correct: whether that is right; None where right and wrong do not apply, as in a regression.
    """

    name: str
    truth: str
    prediction: str
    correct: bool | None = None

    def __str__(self) -> str:
        wrong = "  ✗" if self.correct is False else ""
        return f"{self.name} {self.truth or '?'} → {self.prediction}{wrong}"


def plot_scenes(
    images: ArrayLike,
    panels: Sequence[MaskPanel] = (),
    captions: Sequence[Sequence[Caption]] = (),
    *,
    classes: Sequence[str] = (),
) -> Figure:
    """Draw inputs, masks and predictions in a grid: a column per scene, below it its captions.

    Args:
        images: [N, H, W] in grey or [N, H, W, 3] in colour; any range, which is stretched over all images.
        panels: rows of masks below the images, such as the true one and the predicted one.
        captions: N sequences of captions, or none. A wrong prediction is orange with a cross.
        classes: names of the mask classes from 1 on, for the legend.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        ConfigurationError: if images, masks and captions are not of the same number.
    """
    pictures = np.asarray(images, dtype=np.float64)
    masks = [np.asarray(panel.masks) for panel in panels]
    n = len(pictures)
    counts = {f"masks of {panel.title!r}": len(mask) for panel, mask in zip(panels, masks, strict=True)}
    counts["captions"] = len(captions) or n
    for what, count in counts.items():
        if n == 0 or count != n:
            raise ConfigurationError(f"plot_scenes: images and {what} must be equally many, but are {n} and {count}.")
    lines = max((len(below) for below in captions), default=0)
    rows = 1 + len(panels)
    wide = min(8.4 / n, 1.7)
    high = (wide - 0.08) * pictures.shape[1] / pictures.shape[2] + 0.08
    size = 0.6 + wide * n, high * rows + 0.2 * lines + (0.5 if classes else 0.15)
    figure, style = new_figure(*size, "plot_scenes")
    with style:
        grid = figure.subplots(rows, n, squeeze=False)
        _draw_row(grid[0], "input", _grey(pictures))
        for axes, panel, mask in zip(grid[1:], panels, masks, strict=True):
            _draw_row(axes, panel.title, [_coloured(one) for one in mask])
        for axes, below in zip(grid[-1], captions, strict=False):
            _write_captions(axes, below)
        if classes:
            _class_legend(figure, classes)
    return figure


def _grey(pictures: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    low, high = float(pictures.min()), float(pictures.max())
    scaled = (pictures - low) / ((high - low) or 1.0)
    return list(scaled if scaled.ndim == 4 else np.repeat(scaled[..., None], 3, axis=-1))


def _coloured(mask: NDArray[Any]) -> NDArray[np.float64]:
    """Return RGBA [H, W, 4]: classes in their colours, the background faint, what is not labelled transparent."""
    from matplotlib.colors import to_rgba

    picture = np.zeros((*mask.shape, 4))
    picture[mask == 0] = to_rgba(*_BACKGROUND)
    for value in np.unique(mask[(mask > 0) & (mask != 255)]):
        picture[mask == value] = to_rgba(_CLASSES[(int(value) - 1) % len(_CLASSES)])
    return picture


def _draw_row(row: Sequence[Any], title: str, pictures: Sequence[NDArray[np.float64]]) -> None:
    for axes, picture in zip(row, pictures, strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    row[0].set_ylabel(title, color=INK, fontsize=9.5)


def _write_captions(axes: Any, captions: Sequence[Caption]) -> None:
    for i, caption in enumerate(captions):
        colour = WORSE if caption.correct is False else INK
        place = {"xytext": (0, -4 - 13.5 * i), "textcoords": "offset points", "ha": "center", "va": "top"}
        axes.annotate(str(caption), (0.5, 0), xycoords="axes fraction", fontsize=8.5, color=colour, **place)


def _class_legend(figure: Figure, classes: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=_CLASSES[i % len(_CLASSES)], label=name) for i, name in enumerate(classes)]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(classes), handlelength=1.1, handleheight=1.1)
