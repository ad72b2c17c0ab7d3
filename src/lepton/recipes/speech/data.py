"""The recordings of the speech recipes: where they come from, and which of them train, validate and test."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lepton.errors import DataError
from lepton.train import write_atomically

__all__ = ["FSDD", "WORDS", "Recording", "Recordings", "write_rows"]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""What is said, by its digit."""

_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<index>\d+)\.wav")


class Recording(NamedTuple):
    """One recording.

    Attributes:
        audio: its path.
        word: what is said.
        speaker: by whom.
        part: `train`, `val` or `test`.
    """

    audio: str
    word: str
    speaker: str
    part: str


@dataclass(frozen=True)
class Recordings:
    """A data set of recordings named `{digit}_{speaker}_{index}.wav`, and its public home.

    Attributes:
        name: what people call it.
        home: where the recordings are.
        licence: what they may be used for.
        test: the first so many indices of every digit and speaker are the official test.
        val: the last so many of the others validate.
    """

    name: str
    home: str
    licence: str
    test: int
    val: int

    def rows(self, folder: Path, limit: int | None = None) -> list[Recording]:
        """Return all recordings of a folder, in the order of their names.

        Args:
            folder: holds the recordings, or a folder `recordings` that does.
            limit: recordings of each part at most, drawn evenly over digits and speakers.

        Raises:
            DataError: there are none; the message says where the set lives.
        """
        place = folder / "recordings" if (folder / "recordings").is_dir() else folder
        names = sorted(path.name for path in place.glob("*.wav")) if place.is_dir() else []
        found = [(match, name) for name in names if (match := _NAME.fullmatch(name))]
        if not found:
            raise DataError(
                f"{str(folder)!r} does not hold {self.name}: no file is named like 7_jackson_32.wav. Get the "
                f"recordings from {self.home} ({self.licence}) and pass their folder as --data."
            )
        most = max(int(match["index"]) for match, _ in found)
        rows = [
            Recording(
                str(place / name), WORDS[int(match["digit"])], match["speaker"], self._part(int(match["index"]), most)
            )
            for match, name in found
        ]
        return rows if limit is None else _fewer(rows, limit)

    def _part(self, index: int, most: int) -> str:
        return "test" if index < self.test else "val" if index > most - self.val else "train"


def _fewer(rows: Sequence[Recording], limit: int) -> list[Recording]:
    """Return at most `limit` rows of each part: round and round over digits and speakers."""
    turns: dict[tuple[str, str, str], int] = {}
    ranked = []
    for place, row in enumerate(rows):
        group = (row.part, row.word, row.speaker)
        turns[group] = turns.get(group, -1) + 1
        ranked.append((turns[group], place))
    kept: dict[str, int] = {}
    chosen = []
    for _, place in sorted(ranked):
        part = rows[place].part
        kept[part] = kept.get(part, 0) + 1
        if kept[part] <= limit:
            chosen.append(place)
    return [rows[place] for place in sorted(chosen)]


def write_rows(path: Path, rows: Sequence[Recording]) -> Path:
    """Write the table that a run reads, as CSV, and return its path."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(Recording._fields)
    writer.writerows(rows)
    write_atomically(path, stream.getvalue().encode())
    return path


FSDD = Recordings(
    name="the Free Spoken Digit Dataset",
    home="https://github.com/Jakobovski/free-spoken-digit-dataset, folder recordings",
    licence="CC BY-SA 4.0",
    test=5,
    val=5,
)
