"""An exported model behind HTTP: rows and files in, named predictions out, many requests in one batch."""

from __future__ import annotations

from lepton.serve._limits import Limits
from lepton.serve._server import make_app, serve

__all__ = ["Limits", "make_app", "serve"]
