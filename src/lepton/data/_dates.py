"""Words to dates: ISO dates, and words of one other format that is found out once and kept."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lepton.data._arrays import as_words, decoded

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["as_dates", "date_formats"]

_ISO_DATE = r"^\s*\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|[-+]\d{2}:?\d{2})?)?\s*$"

# Two digits for the year are left out: 11.12.10 has too many readings. Points and the name of a month leave one only.
_DAYS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d %b %Y", "%d-%b-%Y", "%b %d %Y", "%b %d, %Y"),
)
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")

_FIELDS = {
    "%d": r"(?P<day>\d{1,2})",
    "%m": r"\d{1,2}",
    "%b": r"[A-Za-z]{3,9}",
    "%B": r"[A-Za-z]{3,9}",
    "%Y": r"\d{4}",
    "%y": r"\d{2}",
    "%H": r"\d{1,2}",
    "%I": r"\d{1,2}",
    "%M": r"\d{2}",
    "%S": r"\d{2}",
    "%p": r"[AaPp][Mm]",
}
"""What the fields of a format look like: `strptime` alone takes 24.11.26 for the year 26."""

_FIRST = 100


def date_formats(words: pa.ChunkedArray, share: float) -> list[str]:
    """Return the formats that read words as dates: one, or none, or two where day and month cannot be told apart.

    Of several that read at least `share` of them, one that reads all is meant if no other does.

    Args:
        words: strings, none missing.
        share: of the words that must be dates.
    """
    first = words.slice(0, _FIRST)
    likely = [form for form in map("".join, product(_DAYS, _TIMES)) if _read_share(first, form) >= share / 2]
    shares = {form: _read_share(words, form) for form in likely}
    enough = [form for form, found in shares.items() if found >= share]
    whole = [form for form in enough if shares[form] == 1]
    return whole if len(whole) == 1 else enough


def _read_share(words: pa.ChunkedArray, form: str) -> float:
    return 1 - int(_parsed(words, form).null_count) / len(words)


def as_dates(column: pa.ChunkedArray, form: str = "") -> npt.NDArray[np.float64]:
    """Return the column as seconds since 1970 [N], UTC; NaN where a value is missing or no date.

    Args:
        column: dates, or words.
        form: what words look like, as `strptime` says it, such as `%d.%m.%Y`; by default they are ISO dates.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = decoded(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _parsed(as_words(column), form) if form else _iso(column)
    if not pa.types.is_timestamp(column.type):
        column = pc.cast(column, pa.timestamp("us"))
    micros = pc.cast(pc.cast(column, pa.timestamp("us", column.type.tz), safe=False), pa.int64())
    numbers: npt.NDArray[np.float64] = pc.cast(micros, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return numbers / 1e6


def _parsed(words: pa.ChunkedArray, form: str) -> pa.ChunkedArray:
    """Return the moments [N]; null where a word is not of the format, or no date: `strptime` alone makes the 31st of
    February the 3rd of March."""
    import pyarrow as pa
    import pyarrow.compute as pc

    pattern = _pattern(form)
    fits = pc.match_substring_regex(words, pattern)
    words = pc.if_else(fits, words, pa.scalar(None, pa.string()))
    moments = pc.strptime(words, format=form, unit="us", error_is_null=True)
    if "?P<day>" not in pattern:
        return moments
    day = pc.cast(pc.struct_field(pc.extract_regex(words, pattern), "day"), pa.int64())
    return pc.if_else(pc.equal(pc.day(moments), day), moments, pa.scalar(None, moments.type))


def _pattern(form: str) -> str:
    """Return a regular expression for a format; a field that is not listed may be anything."""
    parts = re.split(r"(%.)", form)
    return "^" + "".join(_FIELDS.get(part, ".+") if part.startswith("%") else re.escape(part) for part in parts) + "$"


def _iso(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    matches = pc.match_substring_regex(column, _ISO_DATE)
    words = pc.if_else(matches, column, pa.scalar(None, column.type)).to_pylist()
    return pa.chunked_array([pa.array([_moment(word) for word in words], pa.timestamp("us"))])


def _moment(word: str | None) -> Any:
    from datetime import UTC, datetime

    try:
        moment = None if word is None else datetime.fromisoformat(word.strip())
        if moment is not None and moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):  # the 30th of February; an hour before the year 1
        moment = None
    return moment
