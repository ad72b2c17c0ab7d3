"""The rows of a run again."""

from __future__ import annotations

from typing import Any

from lepton.run._encoding import encode_rows
from lepton.run._prepare import Prepared, read_source, split_tables
from lepton.run._run import Run

__all__ = ["run_rows"]


def run_rows(run: Run, source: Any = None) -> Prepared:
    """Return the rows of a run again, encoded by its own rules.

    Args:
        run: the run.
        source: the rows, for a loaded run that was trained on rows in memory.

    Raises:
        ConfigurationError: it was, and they are not given.
        DataError: the rows are not those that the run was trained on.
    """
    if source is None and run.rows is not None:
        tables, table = dict(run.rows), run.rows["train"]
    else:
        told = run.config.require_source() if source is None else source
        table = read_source(run.config, source)
        run.split.check(table, str(told) if source is None else "the source")
        tables = split_tables(run.config, table, run.split)
    notes: list[str] = []
    data = {part: encode_rows(run.config, run.encoder, run.rules, rows, notes, part) for part, rows in tables.items()}
    return Prepared(run.config, [], run.encoder, run.rules, run.split, data, tables, table, notes)
