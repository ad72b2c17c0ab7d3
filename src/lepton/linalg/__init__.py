"""Algebra on Gramians: small quadratic programs and linear systems, on the device and without waiting for it.

Every function is pure and takes tensors only. None reads a value back from an accelerator; on the CPU, where
reading is free, the iterative ones stop as soon as they may.
"""

from __future__ import annotations

from lepton.linalg._device import holds, readable
from lepton.linalg._eigen import symmetric_eigen
from lepton.linalg._gramian import (
    EXACT_SIZE,
    cosines,
    count,
    normalize,
    present_tasks,
    ridge,
    rounded_trace,
    solver_dtype,
)
from lepton.linalg._min_norm import frank_wolfe, min_norm_weights, solve_simplex
from lepton.linalg._nonnegative import solve_nonnegative
from lepton.linalg._pivoting import pivot_to_length
from lepton.linalg._power import solve_power
from lepton.linalg._pseudo_inverse import solve_smallest
from lepton.linalg._random import counter_uniform
from lepton.linalg._simplex import project_simplex

__all__ = [
    "EXACT_SIZE",
    "cosines",
    "count",
    "counter_uniform",
    "frank_wolfe",
    "holds",
    "min_norm_weights",
    "normalize",
    "pivot_to_length",
    "present_tasks",
    "project_simplex",
    "readable",
    "ridge",
    "rounded_trace",
    "solve_nonnegative",
    "solve_power",
    "solve_simplex",
    "solve_smallest",
    "solver_dtype",
    "symmetric_eigen",
]
