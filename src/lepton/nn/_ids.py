"""The ids that every vocabulary begins with."""

from __future__ import annotations

__all__ = ["END", "PAD", "START", "TARGET", "UNKNOWN"]

PAD, UNKNOWN, START, END, TARGET = range(5)
"""Padding, a word that there is not, the begin and the end of a sequence, the begin of the second text."""
