"""Lepton: train one PyTorch network for many tasks, and keep your `loss.backward()`.

The public names are loaded when they are first used, so that importing Lepton costs little more than importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lepton.errors import nearest

if TYPE_CHECKING:
    from lepton.gradients import no_balancing
    from lepton.nn import Chain, Fork, LeptonModel, MultiTaskLoss, fork
    from lepton.run import LeptonEstimator, Run, fit, load
    from lepton.train import Trainer

__version__ = "0.1.0"

_HOMES = {
    "Chain": "lepton.nn",
    "Fork": "lepton.nn",
    "LeptonEstimator": "lepton.run",
    "LeptonModel": "lepton.nn",
    "MultiTaskLoss": "lepton.nn",
    "Run": "lepton.run",
    "Trainer": "lepton.train",
    "fit": "lepton.run",
    "fork": "lepton.nn",
    "load": "lepton.run",
    "no_balancing": "lepton.gradients",
}

__all__ = [
    "Chain",
    "Fork",
    "LeptonEstimator",
    "LeptonModel",
    "MultiTaskLoss",
    "Run",
    "Trainer",
    "fit",
    "fork",
    "load",
    "no_balancing",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lepton' has no attribute {name!r}.{nearest(name, _HOMES)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
