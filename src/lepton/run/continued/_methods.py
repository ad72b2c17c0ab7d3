"""How a training holds on to the old rows: what is attached to it, and what its batches are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from lepton.config import Config
from lepton.data import Loader
from lepton.errors import ConfigurationError, require
from lepton.nn import LeptonModel
from lepton.run._rows import make_loader
from lepton.run.continued._old_rows import OldRows
from lepton.train import Trainer
from lepton.transfer import AGEM, EWC, LwF, Replay

__all__ = ["STRENGTHS", "ContinueMethod", "attach_method", "check_method"]

ContinueMethod = Literal["replay", "lwf", "ewc", "agem", "none"]
"""What keeps a run from forgetting: old rows in every batch, the old outputs, the old weights, the old rows' gradient,
or nothing."""

STRENGTHS = {"lwf": 1.0, "ewc": 10_000.0}
"""Factors of the penalties where none is given."""

CONSOLIDATED = 500
"""Old rows over which the Fisher information is taken: each needs a pass of its own."""


def check_method(method: str, strength: float | None, replay_ratio: float) -> None:
    """Refuse a method that there is not, and options that it does not take."""
    known = get_args(ContinueMethod)
    require(method in known, "continue", "method", method, f"one of {known}")
    takes = strength is None or method in STRENGTHS
    require(takes, "continue", "strength", strength, f"left out with method {method!r}: {list(STRENGTHS)} take it")
    require(replay_ratio > 0, "continue", "replay_ratio", replay_ratio, "positive")


def attach_method(
    method: str,
    trainer: Trainer,
    config: Config,
    old: OldRows,
    before: LeptonModel,
    *,
    strength: float | None,
    rows: int,
) -> None:
    """Attach what the method needs to a training; "replay" needs nothing here, see `mixed`.

    Args:
        method: its name.
        trainer: of the training.
        config: of the training.
        old: the old rows.
        before: the old run's model.
        strength: of a penalty; None for its default.
        rows: old rows in each step.
    """
    criterion = trainer.step.criterion
    factor = strength if strength is not None else STRENGTHS.get(method, 1.0)
    if method == "lwf":
        left = [name for name in before.task_names if name in trainer.model.task_names]
        LwF(before, left, strength=factor).attach(criterion)
    elif method == "ewc":
        ewc = EWC(factor)
        ewc.consolidate(trainer.model, _old_batches(old, config), rows=CONSOLIDATED, seed=config.seed)
        ewc.attach(criterion)
    elif method == "agem":
        AGEM(memory_of(old, method), rows).attach(criterion, trainer.optimizer)


def _old_batches(old: OldRows, config: Config) -> Iterable[Any]:
    """Return batches of old rows in a random order: of all of them where their source is there."""
    if old.rows is not None:
        return make_loader(old.rows, config, training=True)
    memory = memory_of(old, "ewc")
    return [memory.draw(len(memory))]


def mixed(method: str, loader: Loader, old: OldRows, rows: int) -> Iterable[Any]:
    """Return the batches of a training: of new rows, with old ones behind them if they are replayed."""
    return memory_of(old, method).mix(loader, rows) if method == "replay" else loader


def memory_of(old: OldRows, method: str) -> Replay:
    """Return the old training rows.

    Raises:
        ConfigurationError: there are none.
    """
    if old.train is None or not len(old.train):
        why = old.missing or "the run reads texts as sequences or recordings, whose rows have no common shape."
        raise ConfigurationError(
            f"method {method!r} needs old rows, and there are none: {why} Methods that need none: lwf, which holds on "
            "to the old outputs, and none."
        )
    return old.train
