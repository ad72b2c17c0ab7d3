"""The steps that turn one text into another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Edit", "Step", "edits"]

Step = Literal["equal", "replace", "delete", "insert"]
Edit = tuple[Step, str, str]


def edits(said: Sequence[str], truth: Sequence[str]) -> list[Edit]:
    """Return the fewest steps that turn what is true into what was said, in the order of the texts.

    A step is (name, from, to): ("equal", c, c), ("replace", true, said), ("delete", true, "") for what was not said and
    ("insert", "", said) for what was said in addition. The number of steps that are not "equal" is the distance of

        d(i, j) = min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + [t_i != s_j]),    d(i, 0) = i,  d(0, j) = j

    with t_i the i-th character of the truth and s_j the j-th of what was said. Of equally short ways it takes one that,
    from the end of the texts, pairs characters as long as it can. Source: Levenshtein, "Binary codes capable of
    correcting deletions, insertions and reversals", 1966; the table is that of Wagner and Fischer, "The
    String-to-String Correction Problem", 1974.

    Args:
        said: the characters of a text, or a list of words.
        truth: what they should be.

    Example:
        >>> edits("sevn", "seven")
        [('equal', 's', 's'), ('equal', 'e', 'e'), ('equal', 'v', 'v'), ('delete', 'e', ''), ('equal', 'n', 'n')]
        >>> [step for step in edits("for", "four") if step[0] != "equal"]
        [('delete', 'u', '')]
    """
    table = _distances(said, truth)
    i, j = len(truth), len(said)
    steps: list[Edit] = []
    while i or j:
        same = i > 0 and j > 0 and truth[i - 1] == said[j - 1]
        if i and j and table[i, j] == table[i - 1, j - 1] + (not same):
            i, j = i - 1, j - 1
            steps.append(("equal" if same else "replace", truth[i], said[j]))
        elif i and table[i, j] == table[i - 1, j] + 1:
            i -= 1
            steps.append(("delete", truth[i], ""))
        else:
            j -= 1
            steps.append(("insert", "", said[j]))
    return steps[::-1]


def _distances(said: Sequence[str], truth: Sequence[str]) -> NDArray[np.int32]:
    """Return the distances of all beginnings [len(truth) + 1, len(said) + 1]."""
    numbers = {item: place for place, item in enumerate(dict.fromkeys((*said, *truth)))}
    columns = np.array([numbers[item] for item in said], dtype=np.int32)
    along = np.arange(len(said) + 1, dtype=np.int32)
    table = np.empty((len(truth) + 1, len(said) + 1), dtype=np.int32)
    table[0] = along
    for i, item in enumerate(truth, start=1):
        table[i, 0] = i
        table[i, 1:] = np.minimum(table[i - 1, 1:] + 1, table[i - 1, :-1] + (columns != numbers[item]))
        # What was said in addition: the least over all places to the left of d + the way from there, in one pass.
        table[i] = np.minimum.accumulate(table[i] - along) + along
    return table
