"""Rows that cannot be used: written down, counted, and too many of them end a training."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from lepton.errors import DataError, is_number, require

__all__ = ["BadRows", "Quarantine", "shown"]

log = logging.getLogger("lepton")

SHOWN = 200


@dataclass(frozen=True)
class BadRows:
    """Rows of a shard that cannot be used.

    Attributes:
        file: the shard.
        row: number of the first of them in the shard, counted from 0; None where the whole shard is lost.
        reason: what is wrong, in words.
        text: the raw text, cut; empty where there is none.
        rows: how many there are.
    """

    file: str
    row: int | None
    reason: str
    text: str = ""
    rows: int = 1


def shown(text: str) -> str:
    """Return raw text as it is kept: 200 characters at most."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


class Quarantine:
    """Keeps count of rows that cannot be used, one line of JSON for each, and refuses to go on beyond a share.

    A row counts once, however often it is met: in every epoch, and again after a restart, when the file tells which
    are known already.

    Args:
        path: `quarantine.jsonl`, appended to; None to count only.
        cap: share of all rows that may be unusable.

    Attributes:
        rows: how many rows are known to be unusable.

    Example:
        >>> quarantine = Quarantine("quarantine.jsonl", cap=0.01)
        >>> quarantine.add([BadRows("a.csv", 7, "a word where numbers are", "x,1")], of=1000)
        >>> quarantine.rows, Path("quarantine.jsonl").read_text()
        (1, '{"file": "a.csv", "row": 7, "reason": "a word where numbers are", "text": "x,1", "rows": 1}\\n')
    """

    def __init__(self, path: Path | str | None = None, cap: float = 0.01) -> None:
        require(is_number(cap) and 0 <= cap <= 1, "Quarantine", "cap", cap, "a share between 0 and 1")
        self.path = None if path is None else Path(path)
        self.cap = cap
        self.rows = 0
        self._known: set[tuple[str, int | None]] = set()
        self._unwritten: list[BadRows] = []
        for bad in self._written():
            self._count(bad)

    def keep(self, path: Path | str) -> None:
        """Write down what is known and what will be found, and count what is written there already.

        Args:
            path: of `quarantine.jsonl`.
        """
        self.path = Path(path)
        before, self._known, self.rows, self._unwritten = self._unwritten, set(), 0, []
        for bad in self._written():
            self._count(bad)
        self._write([bad for bad in before if self._count(bad)])

    def _write(self, found: list[BadRows]) -> None:
        if self.path is None:
            self._unwritten += found
        elif found:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(bad), ensure_ascii=False) + "\n" for bad in found)

    def _written(self) -> list[BadRows]:
        if self.path is None or not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):  # killed while it was written
            self.path.write_text("".join(whole), encoding="utf-8")
        return [BadRows(**json.loads(line)) for line in whole]

    def _count(self, bad: BadRows) -> bool:
        key = (bad.file, bad.row)
        if key in self._known:
            return False
        self._known.add(key)
        self.rows += bad.rows
        return True

    def add(self, found: Iterable[BadRows], of: int) -> None:
        """Write down what was not known yet.

        Args:
            found: rows that cannot be used.
            of: number of all rows, usable or not.

        Raises:
            DataError: there are more than `cap` of them.
        """
        new = [bad for bad in found if self._count(bad)]
        if not new:
            return
        self._write(new)
        first = new[0]
        where = first.file if first.row is None else f"{first.file}, row {first.row}"
        words = f"{self.rows} of {of} rows cannot be used, such as {where}: {first.reason}"
        if self.rows > self.cap * of:
            kept = "" if self.path is None else f" All are listed in {self.path}."
            raise DataError(f"{words}. That is more than {self.cap:.0%}; mend them, or allow a larger share.{kept}")
        log.warning("%s; they are left out", words)
