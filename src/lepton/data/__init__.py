"""Rows to batches: sources, what columns hold, inputs, labels, images, recordings, splits, loaders, unusable rows."""

from lepton.data._arrays import as_numbers, as_words
from lepton.data._asked import asked_rows
from lepton.data._audio_encoder import AudioEncoder
from lepton.data._audio_loader import AudioLoader
from lepton.data._audio_rows import AudioRows
from lepton.data._augment import Augment
from lepton.data._augment_audio import AugmentAudio
from lepton.data._decoding import decoded
from lepton.data._encoders import Encoder, rules_from_dict, rules_to_dict
from lepton.data._files import write_atomically
from lepton.data._finite import drop_rows_not_finite
from lepton.data._frames import beside, frame_of, write_table
from lepton.data._image_loader import ImageLoader
from lepton.data._image_rows import ImageRows
from lepton.data._images import decode_image, decode_mask
from lepton.data._input_rows import Loader, Rows, input_loader, input_rows, rows_at_once, table_rows, token_lengths
from lepton.data._inputs import TEXT_BUCKETS, InputEncoder
from lepton.data._json import without_nan
from lepton.data._kinds import Column, Kind, describe_columns, find_column
from lepton.data._labels import hide_labels
from lepton.data._loading import OrderedLoader
from lepton.data._parts import PARTS, Split, SplitRule, split_groups
from lepton.data._sequence_data import LengthLoader, SequenceData
from lepton.data._sequences import UNSEEN, SequenceEncoder, SequenceInputs
from lepton.data._sounds import read_audio
from lepton.data._source import AUDIO_SUFFIXES, read_table, source_exists
from lepton.data._split import split_rows
from lepton.data._summary import ColumnSummary, summarise_column
from lepton.data._targets import (
    SEQUENCE_KINDS,
    SPEECH_KINDS,
    LabelRule,
    TaskKind,
    class_names,
    infer_task,
    is_list,
    too_many_classes,
)
from lepton.data._tensors import TensorData, TensorLoader
from lepton.data._text_columns import text_sizes
from lepton.data._tokenizer import Tokenizer
from lepton.data.mixture import Mixture, StreamSets
from lepton.data.stream import (
    Encode,
    PartByColumn,
    PartByPlace,
    PictureEncode,
    Quarantine,
    RowsEncode,
    Shards,
    SoundEncode,
    StreamLoader,
    StreamRows,
    TableEncode,
    is_url,
    sampled,
    usable_rows,
)

__all__ = [
    "AUDIO_SUFFIXES",
    "PARTS",
    "SEQUENCE_KINDS",
    "SPEECH_KINDS",
    "TEXT_BUCKETS",
    "UNSEEN",
    "AudioEncoder",
    "AudioLoader",
    "AudioRows",
    "Augment",
    "AugmentAudio",
    "Column",
    "ColumnSummary",
    "Encode",
    "Encoder",
    "ImageLoader",
    "ImageRows",
    "InputEncoder",
    "Kind",
    "LabelRule",
    "LengthLoader",
    "Loader",
    "Mixture",
    "OrderedLoader",
    "PartByColumn",
    "PartByPlace",
    "PictureEncode",
    "Quarantine",
    "Rows",
    "RowsEncode",
    "SequenceData",
    "SequenceEncoder",
    "SequenceInputs",
    "Shards",
    "SoundEncode",
    "Split",
    "SplitRule",
    "StreamLoader",
    "StreamRows",
    "StreamSets",
    "TableEncode",
    "TaskKind",
    "TensorData",
    "TensorLoader",
    "Tokenizer",
    "as_numbers",
    "as_words",
    "asked_rows",
    "beside",
    "class_names",
    "decode_image",
    "decode_mask",
    "decoded",
    "describe_columns",
    "drop_rows_not_finite",
    "find_column",
    "frame_of",
    "hide_labels",
    "infer_task",
    "input_loader",
    "input_rows",
    "is_list",
    "is_url",
    "read_audio",
    "read_table",
    "rows_at_once",
    "rules_from_dict",
    "rules_to_dict",
    "sampled",
    "source_exists",
    "split_groups",
    "split_rows",
    "summarise_column",
    "table_rows",
    "text_sizes",
    "token_lengths",
    "too_many_classes",
    "usable_rows",
    "without_nan",
    "write_atomically",
    "write_table",
]
