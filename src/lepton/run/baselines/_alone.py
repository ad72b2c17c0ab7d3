"""One task trained alone, with everything else as in the run that it is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lepton.config import Config, check_config, content_of
from lepton.data import SequenceData, SequenceEncoder
from lepton.evaluate import evaluate, to_device
from lepton.nn import LeptonModel
from lepton.run._build import initial_model
from lepton.run._prepare import Prepared, encode_rows, read_source, split_tables
from lepton.run._rows import Loader, make_loader
from lepton.run._run import Run
from lepton.run._sequences import with_search_scores
from lepton.run._train import make_loaders, make_trainer
from lepton.train import Callback, TrainState

__all__ = ["kept_outputs", "part_scores", "run_rows", "train_alone"]

EVERY_TASK = "val/relative_loss"


def run_rows(run: Run, source: Any) -> Prepared:
    """Return the rows of a run again, encoded by its own rules.

    Raises:
        DataError: the rows are not those that the run was trained on.
    """
    told = run.config.require_source() if source is None else source
    table = read_source(run.config, source)
    run.split.check(table, str(told) if source is None else "the source")
    tables = split_tables(run.config, table, run.split)
    notes: list[str] = []
    data = {part: encode_rows(run.config, run.encoder, run.rules, rows, notes, part) for part, rows in tables.items()}
    return Prepared(run.config, [], run.encoder, run.rules, run.split, data, tables, table, notes)


def _alone_config(config: Config, task: str, seed: int) -> Config:
    """Return the configuration of a task alone: the same trunk and training, nothing to balance."""
    content = content_of(config)
    content |= {"balance": {"method": "equal"}, "seed": seed}
    if not str(config.training.monitor).startswith(f"val/{task}/"):
        content["training"] |= {"monitor": EVERY_TASK, "mode": "min"}
    return check_config(content)


def train_alone(
    prepared: Prepared, task: str, seed: int, *, trust: bool = False, callbacks: Sequence[Callback] = ()
) -> tuple[LeptonModel, TrainState]:
    """Train one task alone on the rows of the whole; return the model and the final state.

    Rows without a label of the task stay in the batches, so that steps and order are those of the shared training.
    """
    alone = dataclasses.replace(prepared, config=_alone_config(prepared.config, task, seed))
    with torch.random.fork_rng():
        model = initial_model(alone, trust=trust, only=task)
        train, val = make_loaders(alone)
        trainer = make_trainer(alone.config, model, None, callbacks=callbacks)
        state = trainer.fit(TargetsOf(train, [task]), None if val is None else TargetsOf(val, [task]))
    return model, state


class TargetsOf:
    """The batches of a loader with the targets of some tasks only.

    Args:
        loader: gives the batches.
        tasks: whose targets stay.
    """

    def __init__(self, loader: Loader, tasks: Sequence[str]) -> None:
        self.loader = loader
        self.tasks = tuple(tasks)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        for inputs, targets in self.loader:
            yield inputs, {name: targets[name] for name in self.tasks}


def part_scores(model: LeptonModel, prepared: Prepared, part: str, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return task -> metrics of the model's tasks on a part; nothing for a part that is not there."""
    if part not in prepared.data:
        return {}
    found = evaluate(model, TargetsOf(make_loader(prepared.data[part], prepared.config), tasks))
    if isinstance(prepared.encoder, SequenceEncoder):
        found = with_search_scores(model, prepared.encoder, prepared.rules, prepared.tables[part], found)
    return {name: found[name].metrics for name in tasks}


@torch.no_grad()
def kept_outputs(model: LeptonModel, prepared: Prepared, part: str, limit: int) -> dict[str, Tensor]:
    """Return task -> outputs on a part, on the CPU; nothing if they would be more than `limit` numbers.

    Nothing of sequences either: batches are as long as their longest row.
    """
    if isinstance(prepared.data[part], SequenceData):
        return {}
    loader = make_loader(prepared.data[part], prepared.config)
    model.eval()
    parts: list[dict[str, Tensor]] = []
    for inputs, _ in loader:
        outputs, _ = model(to_device(inputs, model.device))
        parts.append({name: output.cpu() for name, output in outputs.items()})
        if len(loader) * sum(output.numel() for output in parts[0].values()) > limit:
            return {}
    return {name: torch.cat([found[name] for found in parts]) for name in parts[0]}
