"""Sound as tensors: the log-mel front end and its inverse, resampling, levels, masks and noise.

A waveform is a floating-point tensor [..., samples] in [-1, 1]. Everything works on whole batches, on their device.
"""

from __future__ import annotations

from lepton.audio._augment import add_noise, mask_spectrogram
from lepton.audio._levels import level, trim
from lepton.audio._log_mel import LogMel
from lepton.audio._resample import resample

__all__ = ["LogMel", "add_noise", "level", "mask_spectrogram", "resample", "trim"]
