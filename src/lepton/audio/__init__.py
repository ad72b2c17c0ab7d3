"""Sound as tensors: the log-mel front end and its inverse, resampling, levels, masks and noise."""

from __future__ import annotations

from lepton.audio._log_mel import LogMel

__all__ = ["LogMel"]
