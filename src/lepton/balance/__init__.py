"""Balancers: how the tasks of a batch are weighed, on the side of the losses or of the gradients."""

from __future__ import annotations

from lepton.balance._aligned_mtl import AlignedMTL
from lepton.balance._cagrad import CAGrad
from lepton.balance._clip_weights import ClipWeights
from lepton.balance._config import ConFIG
from lepton.balance._db_mtl import DBMTL
from lepton.balance._dual_proj import DualProj
from lepton.balance._dynamic_weight_average import DynamicWeightAverage
from lepton.balance._equal import Equal
from lepton.balance._every import Every
from lepton.balance._excess_mtl import ExcessMTL
from lepton.balance._fair_grad import FairGrad
from lepton.balance._famo import FAMO
from lepton.balance._fixed import Fixed
from lepton.balance._frozen import Frozen
from lepton.balance._geometric_mean import GeometricMean
from lepton.balance._grad_drop import GradDrop
from lepton.balance._grad_norm import GradNorm
from lepton.balance._grad_vac import GradVac
from lepton.balance._imtl_g import IMTLG
from lepton.balance._imtl_l import IMTLL
from lepton.balance._learned_weights import LearnedWeights
from lepton.balance._log import Log
from lepton.balance._log_sum import LogSum
from lepton.balance._mgda import MGDA
from lepton.balance._moco import MoCo
from lepton.balance._nash_mtl import NashMTL
from lepton.balance._pcgrad import PCGrad
from lepton.balance._per_group import PerGroup
from lepton.balance._random_weight import RandomWeight
from lepton.balance._smooth import Smooth
from lepton.balance._smooth_tchebycheff import SmoothTchebycheff
from lepton.balance._tracking import TrackingBalancer
from lepton.balance._uncertainty import Uncertainty
from lepton.balance._upgrad import UPGrad
from lepton.balance.base import VIEWS, Balancer, GradientBalancer, LossBalancer

__all__ = [
    "DBMTL",
    "FAMO",
    "IMTLG",
    "IMTLL",
    "MGDA",
    "VIEWS",
    "AlignedMTL",
    "Balancer",
    "CAGrad",
    "ClipWeights",
    "ConFIG",
    "DualProj",
    "DynamicWeightAverage",
    "Equal",
    "Every",
    "ExcessMTL",
    "FairGrad",
    "Fixed",
    "Frozen",
    "GeometricMean",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GradientBalancer",
    "LearnedWeights",
    "Log",
    "LogSum",
    "LossBalancer",
    "MoCo",
    "NashMTL",
    "PCGrad",
    "PerGroup",
    "RandomWeight",
    "Smooth",
    "SmoothTchebycheff",
    "TrackingBalancer",
    "UPGrad",
    "Uncertainty",
]
