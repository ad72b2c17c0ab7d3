"""From the tasks' cotangents at the fork to weights: three views of a gradient, and one opaque door to the balancer."""

from lepton.gradients._distributed import is_distributed, sum_over_processes
from lepton.gradients._fork import ForkPlan, apply_fork
from lepton.gradients._guard import guard_outputs
from lepton.gradients._ledger import Ledger, ledger_of
from lepton.gradients._scale import note_scale
from lepton.gradients._switch import balancing_enabled, no_balancing
from lepton.gradients._upstream import ends_upstream

__all__ = [
    "ForkPlan",
    "Ledger",
    "apply_fork",
    "balancing_enabled",
    "ends_upstream",
    "guard_outputs",
    "is_distributed",
    "ledger_of",
    "no_balancing",
    "note_scale",
    "sum_over_processes",
]
