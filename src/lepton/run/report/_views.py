"""How far the views of the gradients are from the exact one, on a trained run and a few of its training rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from lepton.errors import LeptonError
from lepton.insight import Fidelity, fidelity
from lepton.run._encoding import encode_rows
from lepton.run._rows import make_loader

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.run._run import Run

__all__ = ["views_of"]

BATCHES = 10
SECONDS = 20.0
"""A page must not wait long for it."""

BYTES = 2**30
"""Memory for the tasks' gradients of all shared parameters; where they need more, they are compared in parts."""


def views_of(run: Run, tables: Mapping[str, pa.Table]) -> tuple[Fidelity | None, str]:
    """Return what was measured on training batches, or why nothing was; nothing at all where no view matters.

    It is measured when a page is written and not when a training ends: nobody pays for a page that nobody wants, a
    training of several processes stays as it is, and runs from before have it as well. It takes `SECONDS` at most, but
    for the second batch.

    Args:
        run: the run, with the weights that were kept.
        tables: part -> rows.
    """
    balancer = run.model.balancer
    if len(run.rules) < 2 or not (balancer.uses_gramian or balancer.uses_jacobian):
        return None, ""
    if "train" not in tables:
        return None, "the training rows are not at hand."
    table = tables["train"]
    generator = torch.Generator().manual_seed(run.config.seed)
    wanted = BATCHES * run.config.training.batch_size
    chosen = table.take(torch.randperm(table.num_rows, generator=generator)[:wanted].numpy())
    try:
        rows = encode_rows(run.config, run.encoder, run.rules, chosen, [], "train")
        loader = make_loader(rows, run.config, training=True)
        budget = run.model.fork.memory_budget or BYTES
        return fidelity(run.model, loader, memory_budget=budget, max_seconds=SECONDS), ""
    except LeptonError as error:
        return None, str(error)
