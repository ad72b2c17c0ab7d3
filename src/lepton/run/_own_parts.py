"""Which validation and test a source has of its own: another source, or a share of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lepton.config import Config

__all__ = ["HeldOut", "held_out"]


@dataclass(frozen=True)
class HeldOut:
    """Where the validation and the test of a source come from.

    Attributes:
        shares: part -> share of the source's rows; 0 where they are elsewhere.
        others: part -> another source.
    """

    shares: dict[str, float]
    others: dict[str, str]


def held_out(config: Config, source: str | None = None) -> HeldOut:
    """Return where the validation and the test of a source come from.

    Args:
        config: the configuration.
        source: name of one of several sources; None for the only one.
    """
    section: Any = config.data if source is None else (config.data.sources or {})[source]
    told = {part: getattr(section, part) for part in ("val", "test")}
    others = {part: value for part, value in told.items() if isinstance(value, str)}
    shares = {part: getattr(config.data.split, part) if value is None else value for part, value in told.items()}
    return HeldOut(shares | dict.fromkeys(others, 0.0), others)
