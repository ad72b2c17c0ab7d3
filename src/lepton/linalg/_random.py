"""Random numbers from a counter: the same bits on every device, without a generator's state."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["counter_uniform"]

# The constants of splitmix64 (Steele, Lea and Flood 2014), as signed integers of 64 bits.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    # >> keeps the sign of an int64; the mask makes it the shift of an unsigned integer.
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift_right(value, 30)) * _FIRST
    value = (value ^ _shift_right(value, 27)) * _SECOND
    return value ^ _shift_right(value, 31)


def counter_uniform(seed: int, *counters: Tensor) -> Tensor:
    """Return uniform numbers in [0, 1), float64, one for each entry of the broadcast counters.

    Args:
        seed: any integer of 64 bits.
        counters: int64 tensors that broadcast; equal seed and counters give equal bits on every device.

    Example:
        >>> draws = counter_uniform(0, torch.tensor(7), torch.arange(3))
        >>> torch.equal(draws, counter_uniform(0, torch.tensor(7), torch.arange(3)))
        True
    """
    state = torch.full_like(counters[0], seed)
    for counter in counters:
        state = _mix(state + _GAMMA) ^ counter
    # 53 bits: what a float64 holds exactly.
    return _shift_right(_mix(state + _GAMMA), 11).double() * 2.0**-53
