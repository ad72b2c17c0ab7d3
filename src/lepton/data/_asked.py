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

__all__ = ["asked_rows", "table_of"]


def asked_rows(encoder: Encoder, source: Any) -> pa.Table:
    """Return the rows that a source holds for a model.

    Args:
        encoder: rules of the model's inputs.
        source: what `read_table` takes; for a model that reads one text a list of strings too, for one that reads
            recordings the path of a sound file, or a list of them.
    """
    if isinstance(encoder, AudioEncoder) and (paths := _sound_files(source)):
        return table_of(encoder, paths)
    listed = isinstance(source, (list, tuple)) and (not source or not isinstance(source[0], Mapping))
    if isinstance(encoder, SequenceEncoder) and listed:
        return table_of(encoder, source)
    return read_table(source)


def table_of(encoder: Encoder, texts: Sequence[str]) -> pa.Table:
    """Return texts, or paths of recordings, as the rows of a model that reads those.

    Args:
        encoder: rules of the model's inputs; where it reads words, a text is parted at its spaces.
        texts: the texts, or paths.

    Raises:
        ConfigurationError: the model reads neither a text as a sequence nor recordings.
        DataError: what is no string.
    """
    import pyarrow as pa

    if isinstance(encoder, AudioEncoder):
        return read_table({encoder.source: [str(path) for path in texts]})
    if not isinstance(encoder, SequenceEncoder):
        raise ConfigurationError(
            f"this run reads the columns {encoder.names[:8]}, neither one text nor recordings: give it rows that have "
            "them."
        )
    if not texts:
        raise DataError("there are no texts to predict.")
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise DataError(
            f"texts to predict must be strings, but one is a {type(wrong[0]).__name__}: {str(wrong[0])[:60]!r}."
        )
    return pa.table({encoder.source: pa.array(list(texts), pa.string())})


def _sound_files(source: Any) -> list[str]:
    """Return the paths if the source is a sound file or a list of them."""
    paths = source if isinstance(source, (list, tuple)) else [source]
    sounds = all(isinstance(p, (str, Path)) and str(p).lower().endswith(AUDIO_SUFFIXES) for p in paths)
    return [str(path) for path in paths] if paths and sounds else []
