"""Rows to batches: tables of tensors, deterministic loaders, splits, and rows that cannot be used."""

from lepton.data._finite import drop_rows_not_finite
from lepton.data._labels import hide_labels
from lepton.data._split import split_rows
from lepton.data._tensors import TensorData, TensorLoader

__all__ = ["TensorData", "TensorLoader", "drop_rows_not_finite", "hide_labels", "split_rows"]
