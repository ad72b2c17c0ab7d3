"""Words that several pages use."""

from __future__ import annotations

from collections.abc import Sequence

from lepton.insight.page._format import as_count

__all__ = ["CONFLICT_WARNING", "listed", "plural"]

CONFLICT_WARNING = (
    "Conflict does not predict generalisation. Tasks whose gradients oppose each other may still help each other on "
    "new data, and tasks that agree may not: only the scores above can tell."
)


def plural(count: int, noun: str) -> str:
    """Return a number and what it counts."""
    return f"{as_count(count)} {noun}" if count == 1 else f"{as_count(count)} {noun}s"


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
