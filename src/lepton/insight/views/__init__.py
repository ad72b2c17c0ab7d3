"""The views of the tasks' gradients on a model of the user's: how far each is from the exact one, what each costs."""

from __future__ import annotations

from lepton.insight.views._fidelity import Fidelity, fidelity
from lepton.insight.views._found import ViewFidelity
from lepton.insight.views._recommend import Recommendation
from lepton.insight.views._show import fidelity_blocks, fidelity_plot, fidelity_table

__all__ = [
    "Fidelity",
    "Recommendation",
    "ViewFidelity",
    "fidelity",
    "fidelity_blocks",
    "fidelity_plot",
    "fidelity_table",
]
