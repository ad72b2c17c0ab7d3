"""The page to try a model by hand, made from its rules."""

from __future__ import annotations

from lepton.export import ExportedModel
from lepton.serve._limits import Limits
from lepton.serve._request import RequestReader
from lepton.serve._uploads import UploadReader

__all__ = ["page"]


def page(reader: RequestReader, uploads: UploadReader, model: ExportedModel, limits: Limits) -> str:
    """Return the page as HTML."""
    return "<h1>todo</h1>"
