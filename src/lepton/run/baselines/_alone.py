"""One task trained alone, with everything else as in the run that it is compared with."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lepton.config import Config, check_config, content_of
from lepton.data import AudioEncoder, Loader, SequenceEncoder
from lepton.evaluate import TaskResult, evaluate, to_device
from lepton.nn import LeptonModel
from lepton.run._build import initial_model
from lepton.run._generation import SearchScores, with_search_scores
from lepton.run._prepare import Prepared
from lepton.run._rows import make_loader
from lepton.run._train import make_loaders, make_trainer
from lepton.train import Callback, TrainState, TrainStep

__all__ = ["kept_outputs", "part_results", "relative_step_time", "train_alone"]

EVERY_TASK = "val/relative_loss"


def _alone_config(config: Config, task: str, seed: int, longer: float) -> Config:
    """Return the configuration of a task alone: the same trunk and training, nothing to balance.

    Args:
        config: that of all tasks together.
        task: the task.
        seed: fixes weights and order.
        longer: factor of the training's length.
    """
    content = content_of(config)
    content |= {"balance": {"method": "equal"}, "seed": seed}
    length = "max_epochs" if config.training.max_steps is None else "max_steps"
    content["training"][length] = max(1, round(longer * getattr(config.training, length)))
    if not str(config.training.monitor).startswith(f"val/{task}/"):
        content["training"] |= {"monitor": EVERY_TASK, "mode": "min"}
    return check_config(content)


def train_alone(
    prepared: Prepared,
    task: str,
    seed: int,
    *,
    longer: float = 1.0,
    trust: bool = False,
    callbacks: Sequence[Callback] = (),
) -> tuple[LeptonModel, TrainState]:
    """Train one task alone on the rows of the whole; return the model and the final state.

    Rows without a label of the task stay in the batches, so that steps and order are those of the shared training.

    Args:
        prepared: rows and configuration of all tasks together.
        task: the task.
        seed: fixes weights and order.
        longer: factor of the number of epochs or steps.
        trust: whether classes may be imported.
        callbacks: listeners.
    """
    alone = dataclasses.replace(prepared, config=_alone_config(prepared.config, task, seed, longer))
    with torch.random.fork_rng():
        model = initial_model(alone, trust=trust, only=task)
        train, val = make_loaders(alone)
        trainer = make_trainer(alone.config, model, None, callbacks=[*_monitored_scores(alone, model), *callbacks])
        state = trainer.fit(TargetsOf(train, [task]), None if val is None else TargetsOf(val, [task]))
    return model, state


def _monitored_scores(prepared: Prepared, model: LeptonModel) -> Iterator[Callback]:
    """Yield what translates after every epoch, where the training is judged by that and not only drawn."""
    if isinstance(prepared.encoder, SequenceEncoder) and "val" in prepared.tables:
        scores = SearchScores(model, prepared.encoder, prepared.rules, prepared.tables["val"])
        if prepared.config.training.monitor in scores.columns:
            yield scores


TIMED_STEPS = 12
"""Steps whose time is taken; the first ones, which are slower, are among them, so the median counts."""


def relative_step_time(prepared: Prepared, task: str, *, trust: bool = False) -> float:
    """Return how long a training step of all tasks takes, in steps of one task alone.

    Both models take steps on the same batches, in turns, and the processor's time is taken, so that what else the
    machine does counts little.
    """
    with torch.random.fork_rng():
        clocks = [_Clock(prepared, only, trust) for only in (None, task)]
        for batch in itertools.islice(make_loaders(prepared)[0], TIMED_STEPS):
            for clock in clocks:
                clock.step(batch)
    together, alone = (statistics.median(clock.seconds) for clock in clocks)
    return together / alone


class _Clock:
    """The training step of a model, and how long each took."""

    def __init__(self, prepared: Prepared, only: str | None, trust: bool) -> None:
        self.model = initial_model(prepared, trust=trust, only=only)
        self.take = TrainStep(self.model, torch.optim.AdamW(self.model.parameters(), lr=1e-4))
        self.seconds: list[float] = []

    def step(self, batch: tuple[Any, dict[str, Tensor]]) -> None:
        inputs, targets = batch
        start = time.process_time()
        self.take([(inputs, {name: targets[name] for name in self.model.task_names if name in targets})])
        self.seconds.append(time.process_time() - start)


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


def part_results(model: LeptonModel, prepared: Prepared, part: str, tasks: Sequence[str]) -> dict[str, TaskResult]:
    """Return task -> result of the model's tasks on a part; nothing for a part that is not there."""
    if part not in prepared.data:
        return {}
    found = evaluate(model, TargetsOf(make_loader(prepared.data[part], prepared.config), tasks))
    if isinstance(prepared.encoder, SequenceEncoder):
        found = with_search_scores(model, prepared.encoder, prepared.rules, prepared.tables[part], found)
    return {name: found[name] for name in tasks}


@torch.no_grad()
def kept_outputs(model: LeptonModel, prepared: Prepared, part: str, limit: int) -> dict[str, Tensor]:
    """Return task -> outputs on a part, on the CPU; nothing if they would be more than `limit` numbers.

    Nothing of sequences and recordings either: batches are as long as their longest row.
    """
    if isinstance(prepared.encoder, (SequenceEncoder, AudioEncoder)):
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
