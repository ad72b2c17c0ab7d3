"""A trained model without its training: a folder with ONNX, all rules, hashes, and what reads it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton.export._folder import Export
from lepton.export._manifest import Manifest, Port, is_export
from lepton.export._model import ExportedModel

if TYPE_CHECKING:
    from lepton.export._export import export_model

__all__ = ["Export", "ExportedModel", "Manifest", "Port", "export_model", "is_export"]


def __getattr__(name: str) -> Any:
    if name == "export_model":  # it needs the network, which what reads a folder does without
        from lepton.export._export import export_model

        return export_model
    raise AttributeError(f"module 'lepton.export' has no attribute {name!r}")
