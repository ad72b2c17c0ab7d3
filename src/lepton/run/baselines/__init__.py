"""What a run is compared with: its tasks trained alone, and boosted trees."""

from __future__ import annotations

from lepton.run.baselines._alone import part_results, train_alone
from lepton.run.baselines._baselines import Baselines, BaselineScore, SeedScore, SharedRun, run_baselines
from lepton.run.baselines._gains import Gains

__all__ = [
    "BaselineScore",
    "Baselines",
    "Gains",
    "SeedScore",
    "SharedRun",
    "part_results",
    "run_baselines",
    "train_alone",
]
