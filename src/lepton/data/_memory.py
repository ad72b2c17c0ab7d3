"""What Python holds rows in, read as one Arrow table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lepton.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["from_memory"]


def from_memory(source: Any) -> pa.Table:
    """Return a DataFrame, an Arrow table, a mapping of columns or a list of rows as a table."""
    import pyarrow as pa

    if isinstance(source, pa.Table):
        return source
    if _is_frame(source):
        names, columns = [str(name) for name in source.columns], [source.iloc[:, i] for i in range(source.shape[1])]
    elif (hasattr(source, "__arrow_c_stream__") and hasattr(source, "columns")) or isinstance(source, pa.RecordBatch):
        return pa.table(source)
    elif isinstance(source, Mapping):
        names, columns = [str(name) for name in source], list(source.values())
    elif isinstance(source, Sequence) and source and all(isinstance(row, Mapping) for row in source):
        names = list(dict.fromkeys(str(name) for row in source for name in row))
        rows = [{str(name): value for name, value in row.items()} for row in source]
        columns = [[row.get(name) for row in rows] for name in names]
    else:
        raise DataError(
            f"a table can be read from a path, a DataFrame, a pyarrow Table, a mapping of columns or a list of rows, "
            f"but not from {type(source).__name__} {str(source)[:60]!r}."
        )
    arrays = [_array(name, column) for name, column in zip(names, columns, strict=True)]
    sizes = dict(zip(names, map(len, arrays), strict=True))
    if len(set(sizes.values())) > 1:
        raise DataError(f"the columns have different lengths: {sizes}.")
    return pa.Table.from_arrays(arrays, names=names)


def _is_frame(source: Any) -> bool:
    """Whether it is a DataFrame of pandas, which is not imported for that."""
    return type(source).__module__.split(".")[0] == "pandas" and hasattr(source, "iloc") and hasattr(source, "columns")


def _array(name: str, column: Any) -> pa.Array:
    """Return an Arrow array; a column of mixed types becomes text, as it would in a file."""
    if isinstance(column, (str, bytes)) or not hasattr(column, "__len__") or not hasattr(column, "__iter__"):
        raise DataError(f"column {name!r} must be a list or an array, but it is a {type(column).__name__}.")
    if getattr(column, "ndim", 1) != 1:
        raise DataError(f"column {name!r} must have one dimension, but its shape is {tuple(column.shape)}.")
    if hasattr(column, "detach"):  # a tensor, whose items would be tensors
        column = column.detach().cpu().numpy()
    try:
        return _converted(column)
    except UnicodeEncodeError as error:
        raise DataError(
            f"column {name!r} holds half a character, {error.object[:40]!r}: it is no Unicode text."
        ) from error


def _converted(column: Any) -> pa.Array:
    import pyarrow as pa

    try:
        found = pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        found = None
    if found is not None and not isinstance(found.type, pa.BaseExtensionType):
        return found
    values = column.tolist() if hasattr(column, "tolist") else list(column)
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.array([None if _is_missing(value) else str(value) for value in values])


def _is_missing(value: Any) -> bool:
    """Whether it is None, NaN, or the NA or NaT of pandas."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )
