"""A run to an exported folder: which rows it is compared on, and where it lies."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.data import read_table
from lepton.errors import ConfigurationError
from lepton.export import Export

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.run._run import Run

__all__ = ["export_run"]

CHECKED_ROWS = 256
"""Rows that run and exported model are compared on, at most: a comparison is no evaluation."""


def export_run(run: Run, folder: Path | str | None = None, *, rows: Any = None) -> Export:
    """Write a new folder that predicts as a run does, without its training code.

    Args:
        run: the run.
        folder: the new folder; by default `export`, or `export-2` and so on, in the run's folder.
        rows: rows to compare run and exported model on; by default rows of the run's own, the test rows first.

    Raises:
        ConfigurationError: the folder is there already, or there are no rows to compare on.
        ExportError: the model cannot be exported, or predicts something else than the run.
    """
    from lepton.export import export_model

    table = _rows(run) if rows is None else read_table(rows)
    if not table.num_rows:
        raise ConfigurationError("there are no rows to compare the exported model with the run on: give some.")
    return export_model(
        run.model,
        run.encoder,
        run.rules,
        table.slice(0, CHECKED_ROWS),
        _free(run.folder / "export") if folder is None else Path(folder),
        image_size=run.config.data.image_size,
        one_image=run.config.trunk.type != "mixed",
        name=run.folder.name,
    )


def _rows(run: Run) -> pa.Table:
    """Return rows of the run's own, those that did not train first."""
    import pyarrow as pa

    try:
        tables = run.tables()
    except ConfigurationError as error:
        raise ConfigurationError(f"an export is compared with its run on real rows: {error} Or give rows.") from error
    parts = [tables[part].slice(0, CHECKED_ROWS) for part in ("test", "val", "train") if part in tables]
    return pa.concat_tables(parts, promote_options="permissive")


def _free(wanted: Path) -> Path:
    numbered = (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
    return next(place for place in itertools.chain([wanted], numbered) if not place.exists())
