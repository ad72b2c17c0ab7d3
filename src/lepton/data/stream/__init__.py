"""Rows that need not fit into memory: shards read piece by piece, in an order that can be taken up anywhere."""

from lepton.data.stream._choice import PartByColumn, PartByPlace
from lepton.data.stream._encode import TableEncode
from lepton.data.stream._loader import StreamLoader
from lepton.data.stream._places import is_url
from lepton.data.stream._quarantine import BadRows, Quarantine
from lepton.data.stream._reading import Choice, Encode
from lepton.data.stream._rows import StreamRows
from lepton.data.stream._rows_encode import PictureEncode, RowsEncode, SoundEncode
from lepton.data.stream._sample import sampled, usable_rows
from lepton.data.stream._shards import Shards

__all__ = [
    "BadRows",
    "Choice",
    "Encode",
    "PartByColumn",
    "PartByPlace",
    "PictureEncode",
    "Quarantine",
    "RowsEncode",
    "Shards",
    "SoundEncode",
    "StreamLoader",
    "StreamRows",
    "TableEncode",
    "is_url",
    "sampled",
    "usable_rows",
]
