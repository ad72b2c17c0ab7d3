"""The formulas of the traffic against the bytes that two processes really add up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lepton
from lepton.balance import MGDA
from lepton.data import TensorData, TensorLoader
from lepton.errors import ConfigurationError
from lepton.gradients._ledger import Ledger, ledger_of
from lepton.tasks import Classification
from lepton.train import Trainer, step_traffic
from tests.processes.world import several

pytestmark = pytest.mark.xdist_group("processes")

FEATURES, OUTPUTS = 8, 2


def sent(rank: int, view: str, linear: bool) -> tuple[list[int], int]:
    """Return the bytes that a step adds up beside the gradients, and the parameters of the trunk."""
    sizes: list[int] = []
    before = Ledger.all_reduce

    def counted(self: Ledger, values: torch.Tensor) -> None:
        sizes.append(values.numel() * values.element_size())
        before(self, values)

    Ledger.all_reduce = counted  # type: ignore[method-assign]
    torch.manual_seed(0)
    tasks = [
        Classification(
            name, OUTPUTS, **({} if linear else {"head": nn.Sequential(nn.Tanh(), nn.Linear(FEATURES, OUTPUTS))})
        )
        for name in "abc"
    ]
    trunk = nn.Sequential(nn.Linear(4, FEATURES), nn.Tanh())
    model = lepton.LeptonModel(trunk, tasks, balancer=MGDA(), gradients=view)  # type: ignore[arg-type]
    ledger_of(model.balancer).overlap_checks = 0  # which the first 20 steps only have
    data = TensorData(torch.randn(64, 4), {name: torch.arange(64) % OUTPUTS for name in "abc"})
    Trainer(model, max_steps=1).fit(TensorLoader(data, 64))
    Ledger.all_reduce = before  # type: ignore[method-assign]
    return sizes, sum(p.numel() for p in trunk.parameters())


EVERY = [(view, linear) for view in ("features", "fork_layer", "parameters") for linear in (True, False)]
FEW = {("fork_layer", True), ("features", False)}


@pytest.mark.parametrize(
    ("view", "linear"), [case if case in FEW else pytest.param(*case, marks=pytest.mark.faults) for case in EVERY]
)
def test_bytes_are_those_of_the_formula(view: str, linear: bool) -> None:
    sizes, parameters = several(sent, 2, view, linear)[0]
    told = step_traffic(len("abc"), FEATURES, parameters, 2, linear=linear, outputs=OUTPUTS)
    assert sum(sizes) == told.losses + told.balancing[view]  # of two processes each sends all of a sum


def test_numbers_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="processes"):
        step_traffic(2, 8, 100, 0)
