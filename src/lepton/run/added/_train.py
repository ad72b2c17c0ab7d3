"""The training of the new tasks: the ordinary Trainer, with what holds on to the old ones attached to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lepton.config import Config
from lepton.data import AudioEncoder, SequenceEncoder
from lepton.errors import ConfigurationError
from lepton.nn import LeptonModel
from lepton.run._prepare import Prepared
from lepton.run._rows import InTurn, make_loader
from lepton.run._run import Run
from lepton.run._train import make_loaders, make_trainer
from lepton.run.added._model import FROZEN
from lepton.run.added._rows import OldRows
from lepton.train import Callback, TrainState
from lepton.transfer import AGEM, EWC, LwF, Replay

__all__ = ["NEEDS_ROWS", "check_method", "train_added"]

NEEDS_ROWS = ("ewc", "replay", "agem")
"""Methods that look at old rows."""


def check_method(run: Run, old: OldRows, method: Any) -> None:
    """Refuse a method that does not go with a run, before anything is trained.

    Raises:
        ConfigurationError: old rows are needed, but not at hand; or rows of one length are needed, but differ.
    """
    if method.type in NEEDS_ROWS and not old.tables:
        raise ConfigurationError(
            f"method {method.type} looks at rows that the run was trained on, but they are not at hand: {old.reason} "
            "Methods that need none are head, lora, adapter, lwf and none."
        )
    lengths = isinstance(run.encoder, (SequenceEncoder, AudioEncoder)) or bool(getattr(run.encoder, "tokens", ()))
    if method.type in ("replay", "agem") and lengths:
        raise ConfigurationError(
            f"method {method.type} keeps rows of one length, but this run reads texts or recordings, which differ: "
            "choose lwf, ewc, lora, adapter or head."
        )


def train_added(
    run: Run,
    model: LeptonModel,
    config: Config,
    method: Any,
    old: OldRows,
    new: Prepared,
    folder: Path,
    *,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
) -> TrainState:
    """Train the new tasks of a model.

    The weights that are kept are those that are best on the validation rows: of the new tasks, and of the old ones
    where these may change and have some at hand.

    Args:
        run: the old run.
        model: of all tasks.
        config: of all tasks.
        method: its section.
        old: the old rows.
        new: the new rows.
        folder: where metrics and checkpoints are written.
        callbacks: listeners.
        progress: show a bar.
    """
    train, found = make_loaders(new)
    batches: Iterable[Any] = train
    val: Iterable[Any] | None = found
    trainer = make_trainer(config, model, folder, callbacks=callbacks, progress=progress)
    criterion = trainer.step.criterion
    criterion.unlabelled.update(run.tasks)
    attached = []
    if method.type == "lwf":
        attached = [
            LwF(run.model, run.tasks, strength=method.strength, temperature=method.temperature).attach(criterion)
        ]
    elif method.type == "ewc":
        ewc = EWC(method.strength)
        rows = make_loader(old.data["train"], run.config, training=True)
        ewc.consolidate(run.model, rows, tasks=run.tasks, rows=method.rows, labels=method.labels, seed=config.seed)
        attached = [ewc.attach(criterion)]
    elif method.type in ("replay", "agem"):
        every = [model.task(name) for name in model.task_names]
        memory = Replay(every, method.capacity, balanced=method.balanced, seed=config.seed)
        memory.fill(make_loader(old.data["train"], run.config))
        if method.type == "replay":
            batches = memory.mix(train, method.rows)
        else:
            attached = [AGEM(memory, method.rows).attach(criterion, trainer.optimizer)]
    if found is not None and "val" in old.data and method.type not in FROZEN:
        val = InTurn([found, make_loader(old.data["val"], run.config, in_order=False)])
    try:
        return trainer.fit(batches, val)
    finally:
        for one in attached:
            one.remove()
