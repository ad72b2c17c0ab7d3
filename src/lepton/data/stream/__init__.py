"""Rows that need not fit into memory: shards read piece by piece, in an order that can be taken up anywhere."""

from lepton.data.stream._encode import TableEncode
from lepton.data.stream._loader import StreamLoader
from lepton.data.stream._quarantine import BadRows, Quarantine
from lepton.data.stream._reading import Choice, Encode
from lepton.data.stream._shards import Shards

__all__ = ["BadRows", "Choice", "Encode", "Quarantine", "Shards", "StreamLoader", "TableEncode"]
