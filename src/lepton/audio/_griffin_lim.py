"""A waveform from magnitudes alone: phases that overlapping frames agree on."""

from __future__ import annotations

import torch
from torch import Tensor

from lepton.audio._stft import overlap_add, spectrum

__all__ = ["griffin_lim"]

_MOMENTUM = 0.99


def griffin_lim(magnitude: Tensor, window: Tensor, hop: int, iterations: int) -> Tensor:
    """Return a signal whose short-time spectra have nearly the given magnitudes.

    Every round takes the spectra s_n of the signal that fits best, goes on to s_n + 0.99 (s_n - s_(n-1)) and gives the
    result the magnitudes asked for (Perraudin, Balazs and Søndergaard, "A fast Griffin-Lim algorithm", 2013).

    Args:
        magnitude: [..., M, W // 2 + 1].
        window: [W].
        hop: samples from one frame to the next.
        iterations: number of rounds.

    Returns:
        [..., M * hop].
    """
    # Drawn on the CPU for one recording, so that neither the device nor the other rows change the sound.
    draws = torch.rand(magnitude.shape[-2:], generator=torch.Generator().manual_seed(0))
    phases = (2 * torch.pi * draws).to(magnitude.device)
    spectra = torch.polar(magnitude, phases.expand_as(magnitude))
    before = torch.zeros_like(spectra)  # s_1 then goes on along itself, with the phases that it has
    for _ in range(iterations):
        found = spectrum(overlap_add(spectra, window, hop), window, hop)
        spectra = magnitude * (found + _MOMENTUM * (found - before)).sgn()
        before = found
    return overlap_add(spectra, window, hop)
