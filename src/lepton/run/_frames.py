"""Predictions as the kind of table that people gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lepton.errors import import_extra

__all__ = ["frame_of"]


def frame_of(columns: Mapping[str, Any], source: Any) -> Any:
    """Return columns as a pyarrow Table where one was given, otherwise as a pandas DataFrame with the source's index.

    Raises:
        MissingExtraError: pandas is needed and not installed.
    """
    import pyarrow as pa

    if isinstance(source, (pa.Table, pa.RecordBatch)):
        return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
    pandas = import_extra("pandas", "tables", "a DataFrame of predictions (pyarrow tables need none)")
    index = source.index if isinstance(source, pandas.DataFrame) else None
    return pandas.DataFrame(dict(columns), index=index)
