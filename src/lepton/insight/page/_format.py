"""Numbers as people read them: few digits, thousands apart, units that fit."""

from __future__ import annotations

import math

__all__ = ["as_bytes", "as_count", "as_duration", "as_large", "as_number", "as_percent"]

_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def as_number(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits, thousands apart, powers of ten only where it is far from 1.

    Example:
        >>> as_number(1234.567), as_number(0.05), as_number(2e-7), as_number(float("nan"))
        ('1,235', '0.05', '2e-07', 'not measured')
    """
    if not math.isfinite(value):
        return "not measured" if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e9:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.{digits - 1}g}"


def as_count(number: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,.0f}"


def as_large(number: float) -> str:
    """Return a count in words where it is large.

    Example:
        >>> as_large(12_345), as_large(1_234_567)
        ('12,345', '1.23 million')
    """
    for size, word in _LARGE:
        if abs(number) >= size:
            return f"{number / size:.3g} {word}"
    return as_count(number)


def as_percent(share: float) -> str:
    """Return a share as percent, small ones with a digit more.

    Example:
        >>> as_percent(0.5), as_percent(0.0123), as_percent(0.00001)
        ('50 %', '1.2 %', '< 0.1 %')
    """
    if math.isnan(share):
        return "not known"
    percent = 100 * share
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %" if 0 < percent < 10 or 99 < percent < 100 else f"{percent:.0f} %"


def as_bytes(number: float) -> str:
    """Return a size in bytes, kB, MB or GB (powers of 1000).

    Example:
        >>> as_bytes(512), as_bytes(1_234_567)
        ('512 bytes', '1.2 MB')
    """
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} bytes"


def as_duration(seconds: float) -> str:
    """Return a time in the units that fit it.

    Example:
        >>> as_duration(0.25), as_duration(75), as_duration(7300)
        ('0.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
