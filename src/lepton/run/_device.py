"""Where a run trains."""

from __future__ import annotations

import torch

from lepton.errors import ConfigurationError

__all__ = ["training_device"]


def training_device(name: str) -> torch.device:
    """Return the device that a configuration names.

    Args:
        name: `"auto"` for the GPU, if there is one that CUDA finds, and else the CPU; `"cpu"`, `"cuda"`, `"cuda:1"`,
            `"mps"`. In several processes, `"auto"` and `"cuda"` are each process's own GPU.

    Raises:
        ConfigurationError: there is no such device here.

    Example:
        >>> training_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    found = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(device.type, 1)
    if (device.index or 0) >= found:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ConfigurationError(
            f"training.device is {name!r}, but this machine, or its torch, has {there} only: name one of them, or "
            "'auto' for the GPU if there is one."
        )
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
