from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Estimate", "digits_for", "t_quantile"]

_T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
          2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
          2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423)  # fmt: skip
_Z_975 = 1.959964


def t_quantile(df: int) -> float:
    """Return the 97.5 % quantile of Student's t with `df` >= 1 degrees of freedom, to 4 digits.

    From a table up to 30; beyond it the normal quantile with its corrections up to order 1/df^3.
    """
    if df <= len(_T_975):
        return _T_975[df - 1]
    z = _Z_975
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / df + second / df**2 + third / df**3


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval, mean ± half_width.

    half_width = t_{0.975, n-1} s / sqrt(n), where s is the standard deviation over the n seeds (divisor n - 1).
    One value has no interval: its half width is NaN. If any value is NaN, so are the mean and the half width.

    Args:
        mean: mean over the seeds.
        half_width: half the length of the interval.
        n: number of seeds.

    Example:
        >>> print(Estimate.of([0.90, 0.92, 0.94]))
        0.92 ± 0.05
        >>> Estimate.of([0.90, 0.92, 0.94]).sign
        1
        >>> print(Estimate.of([0.9]))
        0.900
    """

    mean: float
    half_width: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Estimate:
        """Return the estimate from one value per seed; without values it is NaN."""
        sample = [float(value) for value in values]
        n = len(sample)
        if n == 0 or not all(map(math.isfinite, sample)):
            return cls(math.nan, math.nan, n)
        mean = statistics.fmean(sample)
        if n == 1:
            return cls(mean, math.nan, n)
        return cls(mean, t_quantile(n - 1) * statistics.stdev(sample) / math.sqrt(n), n)

    @property
    def has_interval(self) -> bool:
        """Whether there were seeds enough for an interval."""
        return not math.isnan(self.half_width)

    @property
    def low(self) -> float:
        """Lower end of the interval; NaN without one."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval; NaN without one."""
        return self.mean + self.half_width

    @property
    def sign(self) -> int:
        """1 or -1 if the interval lies on that side of 0; 0 if it contains 0 or there is none."""
        return int(self.low > 0) - int(self.high < 0)

    def text(self, digits: int, *, signed: bool = False) -> str:
        """Return `mean ± half width`, the mean alone where there is no interval.

        Args:
            digits: decimals.
            signed: whether a plus is written.
        """
        if math.isnan(self.mean):
            return "not measured"
        mean = f"{self.mean:{'+' if signed else ''}.{digits}f}"
        return f"{mean} ± {self.half_width:.{digits}f}" if self.has_interval else mean

    def __str__(self) -> str:
        return self.text(digits_for([self]))


def digits_for(estimates: Iterable[Estimate]) -> int:
    """Return the decimals, 0 to 4, that suit these estimates together.

    The median half width gets two digits if it begins with 1, 2 or 3, else one; without one the mean gets three.
    """
    finite = [estimate for estimate in estimates if math.isfinite(estimate.mean)]
    widths = [e.half_width for e in finite if e.has_interval and e.half_width > 0]
    if widths:
        # two digits below 3.5, one above
        return min(max(1 - math.floor(math.log10(statistics.median(widths) / 0.35)), 0), 4)
    largest = max((abs(e.mean) for e in finite), default=0.0)
    return min(max(2 - math.floor(math.log10(largest)), 0), 4) if largest > 0 else 3
