"""`pruned_run`: a run without the least important channels of its trunk, trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lepton.compress import Pruned, prune
from lepton.config import Config, check_config, content_of
from lepton.errors import ConfigurationError, is_whole, require
from lepton.evaluate import to_device
from lepton.nn import LeptonModel
from lepton.run._build import build_model
from lepton.run._folder import write_json
from lepton.run._own_rows import run_rows
from lepton.run._prepare import Prepared
from lepton.run._rows import make_loader
from lepton.run._run import Run
from lepton.run._train import train_prepared
from lepton.train import Callback

__all__ = ["pruned_run"]

GRADIENT_BATCHES = 8
"""Batches whose gradients are added up for the importance `"taylor"`."""


def pruned_run(
    run: Run,
    ratio: float,
    folder: Path | str | None = None,
    *,
    epochs: int | None = None,
    importance: str = "magnitude",
    spread: str = "global",
    rows: Any = None,
    trust: bool = False,
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Prune a run's trunk, train it on, and write that as a run of its own.

    The training is the run's own again, with its learning rate and its schedule from the beginning: after pruning that
    finds more than a small rate does (Renda, Frankle, Carbin, "Comparing Rewinding and Fine-tuning in Neural Network
    Pruning", 2020). The new run's configuration holds the new widths, and `pruned.json` what went.

    Args:
        run: the run; its folder is only read.
        ratio: share of the parameters that goes at least: see `lepton.compress.prune`.
        folder: of the new run, to which a number is added if it is taken; by default beside the run, named `-pruned`.
        epochs: passes over the training rows; by default as many as the run took.
        importance: see `lepton.compress.prune`.
        spread: see there.
        rows: the rows, for a run that was trained on rows in memory.
        trust: whether classes that the configuration names may be imported.
        quiet: print nothing.
        callbacks: further listeners.

    Raises:
        ConfigurationError: the trunk cannot be pruned so far, or the run's rows were in memory and are not given.
        DataError: the rows are not those of the run.
    """
    require(epochs is None or is_whole(epochs), "pruned_run", "epochs", epochs, "a whole number of at least 1")
    prepared = run_rows(run, rows)
    count = GRADIENT_BATCHES if importance == "taylor" else 1
    batches = [to_device(batch, run.model.device) for batch in _some_batches(prepared, count)]
    pruned = prune(run.model, batches[0][0], ratio, importance=importance, spread=spread, batches=batches)
    own = dataclasses.replace(prepared, config=_config(run, pruned, epochs))
    with torch.random.fork_rng():
        model = _rebuilt(own, pruned, batches[0][0], trust)
        place = run.folder.with_name(f"{run.folder.name}-pruned") if folder is None else Path(folder)
        found = train_prepared(own, model, place, quiet=quiet, callbacks=callbacks)
    about = {key: value for key, value in vars(pruned).items() if key != "model"}
    write_json(found.folder / "pruned.json", {"from": str(run.folder), **about})
    return found


def _some_batches(prepared: Prepared, count: int) -> list[Any]:
    loader = make_loader(prepared.data["train"], prepared.config)
    return [batch for _, batch in zip(range(count), loader, strict=False)]


def _config(run: Run, pruned: Pruned, epochs: int | None) -> Config:
    """Return the run's configuration with the new widths."""
    content = content_of(run.config)
    trunk = content["trunk"]
    if trunk["type"] == "custom":
        trunk["arguments"] = _joined(trunk.get("arguments", {}), pruned.options)
    else:
        content["trunk"] = _joined(trunk, pruned.options)
    for task, options in pruned.heads.items():
        head = content["tasks"][task]["head"]
        head["arguments"] = _joined(head.get("arguments", {}), options)
    passes = epochs or len(run.history)
    if passes:
        content["training"] |= {"max_epochs": passes, "max_steps": None}
    return check_config(content)


def _joined(section: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section with other options; those of a trunk inside of a trunk are joined likewise."""
    inner = {
        key: _joined(section.get(key) or {}, value) for key, value in options.items() if isinstance(value, Mapping)
    }
    return {**section, **options, **inner}


def _rebuilt(prepared: Prepared, pruned: Pruned, inputs: Any, trust: bool) -> LeptonModel:
    """Return the pruned model as its configuration describes it.

    Raises:
        ConfigurationError: the configuration describes another one, as where a head has a width of its own.
    """
    model = build_model(prepared.config, prepared.encoder, prepared.rules, trust=trust).to(pruned.model.device)
    try:
        model.load_state_dict(pruned.model.state_dict())
    except RuntimeError as error:
        raise ConfigurationError(
            f"the pruned network is not the one that its configuration describes: {str(error).splitlines()[-1].strip()}"
        ) from error
    names = model.task_names
    with torch.no_grad():
        found, expected = (each.eval().outputs_of(inputs, names) for each in (model, pruned.model))
    if not all(torch.equal(found[name], expected[name]) for name in names):
        raise ConfigurationError("the pruned network predicts something else than the one of its configuration.")
    return model
