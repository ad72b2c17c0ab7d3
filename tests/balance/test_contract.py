"""Every balancer keeps its contract: one row for each."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lepton.balance import (
    DBMTL,
    FAMO,
    IMTLG,
    IMTLL,
    MGDA,
    AlignedMTL,
    CAGrad,
    ClipWeights,
    ConFIG,
    DualProj,
    DynamicWeightAverage,
    Equal,
    Every,
    ExcessMTL,
    FairGrad,
    Fixed,
    Frozen,
    GeometricMean,
    GradDrop,
    GradNorm,
    GradVac,
    LearnedWeights,
    Log,
    LogSum,
    MoCo,
    NashMTL,
    PCGrad,
    PerGroup,
    RandomWeight,
    Smooth,
    SmoothTchebycheff,
    Uncertainty,
    UPGrad,
)
from lepton.balance.testing import GRADIENT_PROPERTIES, LOSS_PROPERTIES, GradientTraits, LossTraits
from lepton.balance.testing_tracking import TRACKING_PROPERTIES, TrackingTraits

# CAGrad on [[1, -.5], [-.5, 2]]: the closed form is checked against scipy in test_oracles.py.
MGDA_TWO = (2.5 / 4, 1.5 / 4)
STCH_GRADIENT = tuple(math.exp(v / 3) / sum(math.exp(u / 3) for u in (1, 2, 4)) / 3 for v in (1, 2, 4))
GRADIENT = {
    "MGDA": (MGDA, GradientTraits(1.0, 0, 1 / 9, 1.0, MGDA_TWO, invalid=({"normalization": "L2"}, {"iterations": 0}))),
    "MGDA l2": (lambda: MGDA("l2"), GradientTraits(1.0, 0, 1.0, 1.0, (0.5, 0.5))),
    "MGDA loss": (lambda: MGDA("loss"), GradientTraits(1.0)),
    "MGDA loss+": (lambda: MGDA("loss+"), GradientTraits(1.0)),
    "PCGrad": (
        PCGrad,
        GradientTraits(None, 0, 1.0, 4.0, (1.5, 1.25), random=True, duplicates_share=False, invalid=({"seed": 0.5},)),
    ),
    "CAGrad": (CAGrad, GradientTraits(None, 0, None, 1.4, invalid=({"c": -0.1},), precision=1e-4)),
    "CAGrad 0": (lambda: CAGrad(0.0), GradientTraits(1.0, 0, 1.0, 1.0, (0.5, 0.5))),
    "IMTLG": (IMTLG, GradientTraits(1.0, 0, 1 / 3, 1.0, precision=1e-4)),
    "UPGrad": (UPGrad, GradientTraits(None, 0, 1.0, 1.0, (0.75, 0.625), invalid=({"regularization": 0.0},))),
    "DualProj": (DualProj, GradientTraits(None, 0, 1.0, 1.0, (0.5, 0.5), invalid=({"regularization": 0.0},))),
    "ConFIG": (ConFIG, GradientTraits(None, 0, 1 / 3, 4.0, precision=1e-4)),
    "AlignedMTL": (AlignedMTL, GradientTraits(None, 0, 1 / 3, 1.0, invalid=({"scale": "max"},))),
    "AlignedMTL median": (lambda: AlignedMTL("median"), GradientTraits(None, 0, 1 / 3, 1.0)),
    "AlignedMTL rmse": (lambda: AlignedMTL("rmse"), GradientTraits(None, 0, 1 / 3, 1.0)),
    "NashMTL": (
        lambda: NashMTL(max_norm=None),
        GradientTraits(None, 0, 1 / 3, 4 * 2**0.5, invalid=({"max_norm": 0.0},), singular=1e-5),
    ),
    "FairGrad": (
        FairGrad,
        GradientTraits(None, -1, 1 / 3, 2.0, invalid=({"alpha": 0.0}, {"alpha": 1e9}), singular=1e-5),
    ),
    "FairGrad 2": (
        lambda: FairGrad(2.0),
        GradientTraits(None, -4 / 3, 9 ** (-2 / 3), 4 * 4 ** (-2 / 3), singular=1e-5),
    ),
    "GradVac": (
        GradVac,
        GradientTraits(
            None, 0, 1.0, 4.0, (1.5, 1.25), random=True, duplicates_share=False, invalid=({"beta": 1.0}, {"seed": 0.5})
        ),
    ),
    "GradNorm": (
        GradNorm,
        GradientTraits(None, 0, 1.0, 4.0, (1.0, 1.0), invalid=({"alpha": -1.0}, {"learning_rate": 0.0})),
    ),
    "Log(MGDA)": (lambda: Log(MGDA()), GradientTraits(1.0, 0, 1 / 9, 1.0, MGDA_TWO)),
    "Smooth(MGDA)": (lambda: Smooth(MGDA()), GradientTraits(1.0, 0, 1 / 9, 1.0, MGDA_TWO)),
    "Smooth(PCGrad)": (
        lambda: Smooth(PCGrad()),
        GradientTraits(None, 0, 1.0, 4.0, (1.5, 1.25), random=True, duplicates_share=False),
    ),
    "Every(UPGrad)": (lambda: Every(UPGrad(), 2), GradientTraits(None, 0, 1.0, 1.0, (0.75, 0.625))),
    "ClipWeights(IMTLG)": (lambda: ClipWeights(IMTLG(), 0.1, 2.0), GradientTraits(None, 0, 1 / 3, 1.0, precision=1e-4)),
    "PerGroup of all": (lambda: PerGroup({"all": (..., UPGrad())}), GradientTraits(None, 0, 1.0, 1.0, (0.75, 0.625))),
    "PerGroup": (
        lambda: PerGroup({"first": ([0], Equal()), "others": (..., MGDA())}, over=MGDA()),
        GradientTraits(1.0, 0, 1 / 9, 1.0, MGDA_TWO, duplicates_share=False, symmetric=False),
    ),
    "Every(Smooth(PerGroup))": (
        lambda: Every(Smooth(PerGroup({"first": ([0], Equal()), "others": (..., PCGrad())}, over=UPGrad())), 2),
        GradientTraits(random=True, duplicates_share=False, symmetric=False),
    ),
    "Every(Smooth(Log(MGDA)))": (lambda: Every(Smooth(Log(MGDA())), 3), GradientTraits(1.0, 0, 1 / 9, 1.0, MGDA_TWO)),
}
LOSS = {
    "Equal": (Equal, LossTraits(3.0, (1, 1, 1))),
    "Fixed": (lambda: Fixed([1, 2, 3]), LossTraits(6.0, (1, 2, 3), invalid=({"weights": [-1.0]}, {"weights": []}))),
    "Frozen": (
        lambda: Frozen(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])),
        LossTraits(3.0, (1, 1, 1), invalid=({"weights": torch.zeros(3)},)),
    ),
    "LogSum": (LogSum, LossTraits(3.0, (1, 1 / 2, 1 / 4), 0)),
    "Log(Equal)": (lambda: Log(Equal()), LossTraits(3.0, (1, 1 / 2, 1 / 4), 0)),
    "Log(Uncertainty)": (lambda: Log(Uncertainty()), LossTraits(3.0, (1, 1 / 2, 1 / 4), 0)),
    "GeometricMean": (GeometricMean, LossTraits(3.0, (2 / 3, 1 / 3, 1 / 6))),
    "GradDrop": (GradDrop, LossTraits(3.0, (1, 1, 1), invalid=({"leak": -0.1}, {"seed": 0.5}))),
    "IMTLL": (IMTLL, LossTraits(3.0, (1, 1, 1))),
    "RandomWeight": (RandomWeight, LossTraits(1.0, invalid=({"seed": 0.5},))),
    "SmoothTchebycheff": (
        SmoothTchebycheff,
        LossTraits(3.0, STCH_GRADIENT, None, invalid=({"mu": 0.0}, {"mu": float("inf")})),
    ),
    "Log(SmoothTchebycheff)": (lambda: Log(SmoothTchebycheff()), LossTraits(3.0, None, 0)),
    "Uncertainty": (Uncertainty, LossTraits(3.0, (1, 1, 1), invalid=({"nonnegative": 2},))),
    "Uncertainty Liebel": (lambda: Uncertainty(nonnegative=True), LossTraits(3.0, (1, 1, 1))),
    "DynamicWeightAverage": (
        lambda: DynamicWeightAverage(window=2),
        LossTraits(3.0, (1, 1, 1), invalid=({"temperature": 0.0}, {"window": 0})),
    ),
    "FAMO": (
        FAMO,
        LossTraits(1.0, (4 / 7, 2 / 7, 1 / 7), 1, invalid=({"learning_rate": 0.0}, {"decay": -1.0})),
    ),
    "PerGroup": (
        lambda: PerGroup({"first": ([0], Equal()), "others": (..., Uncertainty())}, over=LogSum()),
        LossTraits(3.0, (1, 1 / 6, 1 / 6), 0),
    ),
    "PerGroup of FAMO": (
        lambda: PerGroup({"first": ([0], DynamicWeightAverage(window=2)), "others": (..., Equal())}, over=FAMO()),
        LossTraits(1.5, (6 / 7, 1 / 7, 1 / 7), 1),
    ),
    "LearnedWeights": (LearnedWeights, LossTraits(3.0, (1, 1, 1), invalid=({"floor": 0.0}, {"floor": 1.5}))),
}

TRACKING = {
    # y = g / 2, lambda = P((1, 1) / 2 - 0.1 (1 / 8, 1 / 2)), direction lambda y.
    "MoCo": (
        MoCo,
        TrackingTraits(
            1.0,
            ((0.5 + 0.01875) / 2, 0.5 - 0.01875),
            ({"beta": 0.0}, {"beta_sigma": -1.0}, {"gamma": 0.0}, {"gamma_sigma": -1.0}, {"rho": -0.1}),
        ),
    ),
    "Log(MoCo)": (lambda: Log(MoCo()), TrackingTraits(1.0)),
    "DBMTL": (DBMTL, TrackingTraits(None, (0.2, 0.2), ({"beta": 1.0}, {"beta_sigma": -1.0}))),
    "ExcessMTL": (ExcessMTL, TrackingTraits(1.0, (0.5, 1.0), ({"learning_rate": 0.0}, {"warmup": 0}))),
    "ExcessMTL, warm": (lambda: ExcessMTL(warmup=2), TrackingTraits(1.0, (0.5, 1.0))),
}


@pytest.mark.parametrize("holds", GRADIENT_PROPERTIES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", GRADIENT)
def test_gradient_balancer(name: str, holds: Any) -> None:
    make, traits = GRADIENT[name]
    holds(make, traits)


@pytest.mark.parametrize("holds", LOSS_PROPERTIES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", LOSS)
def test_loss_balancer(name: str, holds: Any) -> None:
    make, traits = LOSS[name]
    holds(make, traits)


@pytest.mark.parametrize("holds", TRACKING_PROPERTIES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", TRACKING)
def test_tracking_balancer(name: str, holds: Any) -> None:
    make, traits = TRACKING[name]
    holds(make, traits)


def test_every_exported_balancer_has_a_row() -> None:
    import lepton.balance as package

    rows = {
        type(module)
        for make, _ in [*GRADIENT.values(), *LOSS.values(), *TRACKING.values()]
        for module in make().modules()
    }
    concrete = {getattr(package, name) for name in package.__all__ if name != "VIEWS"}
    assert {kind for kind in concrete if getattr(kind, "__final__", False)} <= rows
