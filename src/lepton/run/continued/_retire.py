"""A run without some of its tasks; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lepton
from lepton.config import check_config, content_of
from lepton.data import without_nan
from lepton.nn import plain_trunk
from lepton.run._folder import (
    new_folder,
    read_json,
    write_architecture,
    write_json,
    write_rules,
    write_run,
    write_split,
)
from lepton.run._replay import KeptRows, has_kept_rows, read_kept_rows, write_kept_rows
from lepton.run._run import Run
from lepton.run.continued._change import changed_model, changed_rules
from lepton.run.continued._old_rows import fitted_memory
from lepton.run.continued._result import Continued
from lepton.run.report import write_card
from lepton.train import save_checkpoint

__all__ = ["retired_run"]


def retired_run(run: Run, wanted: Path, retire: Sequence[str], *, trust: bool = False) -> Continued:
    """Write a run without some tasks: its other tasks predict as before.

    Args:
        run: the old run.
        wanted: the new folder; a number is added if it is taken.
        retire: the tasks that go.
        trust: whether classes that the configuration names may be imported.
    """
    rules = changed_rules(run, {}, retire)
    content = content_of(run.config)
    content.pop("output", None)
    content["tasks"] = {rule.task: content["tasks"][rule.task] for rule in rules}
    config = check_config(content)
    model = changed_model(run, config, rules, trust=trust)
    kept = _kept(run, model) if has_kept_rows(run.folder) else None
    place = new_folder(wanted)
    write_run(place, config, lepton.__version__, run.encoder.fingerprint)
    write_rules(place, run.encoder, rules)
    write_architecture(place, plain_trunk(model.trunk))
    write_split(place, run.split)
    save_checkpoint(place / "checkpoints" / "best", model, {})
    results = read_json(run.folder / "results.json")
    write_json(place / "results.json", {part: _without(tasks, retire) for part, tasks in results.items()})
    if about := read_json(run.folder / "data.json"):
        write_json(place / "data.json", _data_without(about, run.tasks, retire))
    if kept is not None:
        write_kept_rows(place, kept)
    made = Run(place, config, run.encoder, rules, run.split, model, rows=run.rows)
    notes = [f"{sorted(retire)} retired; nothing was trained, and {made.tasks} predict as before."]
    found = Continued(made, str(run.folder), "nothing trained", {}, {}, list(retire), notes)
    earlier = bool(read_json(run.folder / "continued.json").get("earlier_rows"))
    write_json(place / "continued.json", without_nan({**found.to_dict(), "earlier_rows": earlier}))
    write_card(made)
    return found


def _kept(run: Run, model: Any) -> KeptRows:
    kept = read_kept_rows(run.folder, [run.model.task(name) for name in run.tasks])
    held_out = {part: fitted_memory(memory, model) for part, memory in kept.held_out.items()}
    return KeptRows(fitted_memory(kept.train, model), held_out)


def _without(tasks: Mapping[str, Any], retire: Sequence[str]) -> dict[str, Any]:
    return {name: found for name, found in tasks.items() if name not in retire}


def _data_without(about: Mapping[str, Any], tasks: Sequence[str], retire: Sequence[str]) -> dict[str, Any]:
    """Return `data.json` without what it says of some tasks' labels."""
    left = [place for place, name in enumerate(tasks[: len(about["overlap"])]) if name not in retire]
    labels = [facts for facts in about["labels"] if facts["task"] not in retire]
    overlap = [[about["overlap"][row][column] for column in left] for row in left]
    return {**about, "labels": labels, "overlap": overlap}
