"""The colours of a spectrogram, and a spectrogram as a PNG file."""

from __future__ import annotations

import functools
import io

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLOURS", "colour_map", "spectrogram_png"]

COLOURS = 64
"""Steps of a spectrogram's colours: one for each decibel that is shown. More would only make the file larger."""

# From a dark blue through green to a pale yellow: lightness, chroma and hue (in degrees) along the way.
_LIGHTNESS = (0.21, 0.96)
_CHROMA = (0.055, 0.095, 0.1, 0.105, 0.13, 0.125)
_HUE = (272.0, 252.0, 224.0, 186.0, 146.0, 109.0)


@functools.cache
def colour_map(steps: int = COLOURS) -> NDArray[np.uint8]:
    """Return colours [steps, 3] from quiet to loud, neighbours equally far apart to the eye, ever lighter.

    They lie on a curve in Oklab whose lightness rises evenly, at equal lengths of the curve. In a copy in grey, and for
    readers with colour-blindness, the order stays. Source: Ottosson, "A perceptual color space for image processing",
    2020.

    Args:
        steps: how many.

    Example:
        >>> colour_map(2).tolist()
        [[16, 22, 49], [248, 249, 147]]
    """
    way = np.linspace(0.0, 1.0, 1024)
    lightness = np.interp(way, (0.0, 1.0), _LIGHTNESS)
    chroma = np.interp(way, np.linspace(0.0, 1.0, len(_CHROMA)), _CHROMA)
    hue = np.deg2rad(np.interp(way, np.linspace(0.0, 1.0, len(_HUE)), _HUE))
    curve = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], 1)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
    equal = np.linspace(0.0, length[-1], steps)
    return _srgb(np.stack([np.interp(equal, length, part) for part in curve.T], 1))


def _srgb(oklab: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the screen's colours of points in Oklab [N, 3]."""
    cones = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
    )
    light = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((oklab @ cones.T) ** 3 @ light.T, 0.0, 1.0)
    screen = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    found: NDArray[np.uint8] = np.round(255 * screen).astype(np.uint8)
    return found


def spectrogram_png(shares: NDArray[np.float64]) -> bytes:
    """Return a spectrogram as a PNG file, one pixel for each frame and band, the lowest band at the bottom.

    Args:
        shares: 0 for quiet to 1 for loud [M, bands].
    """
    from PIL import Image

    places = np.round(np.clip(shares, 0.0, 1.0) * (COLOURS - 1)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(places.T[::-1]), "P")
    image.putpalette(colour_map().tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()
