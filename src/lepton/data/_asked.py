"""What people ask a model about, texts and paths of recordings among it, as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.data._audio_encoder import AudioEncoder
from lepton.data._encoders import Encoder
from lepton.data._sequences import SequenceEncoder
from lepton.data._source import AUDIO_SUFFIXES, read_table
from lepton.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["asked_rows"]

FOLDER_COLUMN = "audio"
"""What `read_table` calls the recordings of a folder."""


def asked_rows(encoder: Encoder, source: Any) -> pa.Table:
    """Return the rows that a source holds for a model.

    Args:
        encoder: rules of the model's inputs.
        source: what `read_table` takes. For a model that reads one text a list of strings too, parted at their spaces
            where it reads words; for one that reads recordings the path of a sound file, a list of them, or a folder
            that holds some, under whatever name the model knows them.

    Raises:
        ConfigurationError: texts or paths for a model that reads neither a text as a sequence nor recordings.
        DataError: what cannot be read, or is no string.
    """
    if isinstance(encoder, AudioEncoder):
        return _recordings(encoder, source)
    if not isinstance(source, (list, tuple)) or (source and isinstance(source[0], Mapping)):
        return read_table(source)
    if not isinstance(encoder, SequenceEncoder):
        raise ConfigurationError(
            f"this run reads the columns {encoder.names[:8]}, neither one text nor recordings: give it rows that have "
            "them."
        )
    return _texts(encoder, source)


def _texts(encoder: SequenceEncoder, texts: Sequence[Any]) -> pa.Table:
    import pyarrow as pa

    if not texts:
        raise DataError("there are no texts to predict.")
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise DataError(
            f"texts to predict must be strings, but one is a {type(wrong[0]).__name__}: {str(wrong[0])[:60]!r}."
        )
    return pa.table({encoder.source: pa.array(list(texts), pa.string())})


def _recordings(encoder: AudioEncoder, source: Any) -> pa.Table:
    """Return the recordings of a source as rows: one file, a list of them, a folder, or a table."""
    one = isinstance(source, (str, Path)) and str(source).lower().endswith(AUDIO_SUFFIXES)
    paths = [source] if one else source if isinstance(source, (list, tuple)) else []
    if paths and all(isinstance(path, (str, Path)) for path in paths):
        return read_table({encoder.source: [str(path) for path in paths]})
    table = read_table(source)
    if encoder.source in table.column_names or FOLDER_COLUMN not in table.column_names:
        return table
    return table.rename_columns([encoder.source if n == FOLDER_COLUMN else n for n in table.column_names])
