"""`continue_run`: a new run that goes on from a trained one, with new rows, more classes or fewer tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import lepton
from lepton.config import Config
from lepton.data import AudioEncoder, LabelRule, Rows, SequenceEncoder, TensorData, without_nan
from lepton.errors import ConfigurationError, DataError
from lepton.evaluate import TaskResult, evaluate
from lepton.nn import LeptonModel, plain_trunk
from lepton.run._fit import override_config
from lepton.run._folder import (
    new_folder,
    write_architecture,
    write_json,
    write_rules,
    write_run,
    write_split,
)
from lepton.run._prepare import Prepared
from lepton.run._replay import keep_rows, remember, rows_fit, write_kept_rows
from lepton.run._resolve import planned_training
from lepton.run._rows import InTurn, held_out_part, make_loader
from lepton.run._run import Run
from lepton.run._train import make_trainer, person_console, print_table
from lepton.run.continued._change import changed_config, changed_model, changed_rules, check_retired
from lepton.run.continued._drift import DriftReport, drift_report, write_drift
from lepton.run.continued._methods import ContinueMethod, attach_method, check_method, mixed
from lepton.run.continued._new_rows import NewRows, divided, new_classes, read_new_rows
from lepton.run.continued._old_rows import OldRows, old_rows
from lepton.run.continued._result import Continued
from lepton.run.continued._retire import retired_run
from lepton.run.report import write_card, write_data
from lepton.train import save_checkpoint

if TYPE_CHECKING:
    pass

__all__ = ["continue_run"]

LEARNING_RATE = 0.25
"""Share of the old learning rate: a trained model needs no large steps, and large ones forget."""

SCORED = tuple(f"{rows} rows, {when}" for rows in ("old", "new") for when in ("before", "after"))

SELECTED_OLD = 500
"""Old validation rows beside which the new ones select the best weights, at least: as many as those otherwise."""


def continue_run(
    run: Run,
    source: Any = None,
    folder: Path | str | None = None,
    *,
    method: ContinueMethod = "replay",
    new_classes: bool = False,
    retire: Sequence[str] = (),
    replay: int = 5000,
    replay_ratio: float = 1.0,
    strength: float | None = None,
    overrides: Sequence[str] = (),
    trust: bool = False,
    quiet: bool = False,
    plain: bool = False,
) -> Continued:
    """Go on with a trained run: learn from new rows without forgetting the old ones, and write a new run.

    Weights, rules, encoder and configuration are taken over; the new rows are divided as the old run's split says,
    and the ordinary training goes on with them. The old run is left alone.

    Args:
        run: the old run.
        source: new rows, as for `lepton.fit`: the columns that the run reads, and labels of some of its tasks. None to
            retire tasks only, which trains nothing.
        folder: the new folder; by default the old one's name and `-continued`, with a number if that is taken.
        method: what keeps the run from forgetting: `"replay"` puts old rows behind the new ones of each batch, as many
            of each task and class; `"lwf"` holds on to the old outputs on the new rows; `"ewc"` to the weights that
            mattered; `"agem"` lets no step raise the old rows' loss; `"none"`, nothing does.
        new_classes: whether labels that are no class of their task become classes of it; otherwise they are refused.
        retire: tasks that the new run does not have.
        replay: old training rows that are replayed, at most.
        replay_ratio: old rows in a batch for each new one.
        strength: factor of the penalty of `"lwf"` (by default 1) or `"ewc"` (10 000).
        overrides: `training.key=value`, such as `training.learning_rate=1e-4`; also `data.replay` and `seed`.
        trust: whether classes that the configuration names may be imported.
        quiet: print nothing.
        plain: no colours, frames or moving bars.

    Returns:
        What was done and what it did to every task; `.run` is the new run.

    Raises:
        DataError: a column is missing, there is no label, or one is no class.
        ConfigurationError: an option that is not allowed, or old rows are needed and there are none.

    Example:
        >>> import tempfile, lepton
        >>> from lepton.run import continue_run
        >>> rows = {"size": list(range(60)), "kind": ["a", "b"] * 30}
        >>> with tempfile.TemporaryDirectory() as place:
        ...     run = lepton.fit(rows, ["kind"], training={"max_epochs": 1}, folder=place + "/run", quiet=True)
        ...     new = {"size": list(range(60, 90)), "kind": ["a", "b", "c"] * 10}
        ...     found = continue_run(run, new, new_classes=True, overrides=["training.max_epochs=1"], quiet=True)
        ...     found.added, list(found.run.predict({"size": [3]}).columns)
        ({'kind': ['c']}, ['kind', 'kind_probability_a', 'kind_probability_b', 'kind_probability_c'])
    """
    check_method(method, strength, replay_ratio)
    check_retired(run, retire)
    place = _place(run, folder)
    if source is None:
        if not retire:
            raise ConfigurationError("there is nothing to do: give new rows (--data), or a task to retire (--retire).")
        return retired_run(run, place, retire, trust=trust)
    plan = _plan(run, source, retire, new_classes, overrides, trust=trust)
    drift = drift_report(run, plan.new.rules, plan.new.table)
    if isinstance(drift, str):
        plan.notes.append(drift)
    old = old_rows(run, plan.model, replay)
    plan.notes.append(
        f"The old rows are {old.origin}." if old.origin else f"The old rows are not at hand. {old.missing}"
    )
    report = None if isinstance(drift, str) else drift
    if report is not None and not quiet:
        _show(report, plain)
    return _continued(run, plan, old, report, place, method, replay_ratio, strength, quiet=quiet)


def _show(drift: DriftReport, plain: bool) -> None:
    console = person_console(plain)
    console.print(drift.sentence(), markup=False, highlight=False)
    if drift.moved:
        print_table(console, drift.table())


@dataclass
class Plan:
    """Everything that is decided before a folder is made."""

    config: Config
    rules: list[LabelRule]
    new: NewRows
    model: LeptonModel
    added: dict[str, list[str]]
    retired: list[str]
    notes: list[str]


def _place(run: Run, folder: Path | str | None) -> Path:
    if folder is None:
        place = run.folder.resolve()
        return run.folder.parent / f"{place.name}-continued" if run.folder.name else place.with_name("continued")
    if Path(folder).exists():
        raise ConfigurationError(
            f"the folder {str(folder)!r} is there already, and nothing is overwritten: choose another one, or none."
        )
    return Path(folder)


def _plan(run: Run, source: Any, retire: Sequence[str], grow: bool, overrides: Sequence[str], *, trust: bool) -> Plan:
    table, rules = read_new_rows(run, source)
    rules = [rule for rule in rules if rule.task not in retire]
    if not rules:
        raise DataError(f"the new rows hold labels of {list(retire)} only, which is to be retired.")
    added = new_classes(rules, table)
    if added and not grow:
        words = "; ".join(
            f"{task!r}: {names[:8]}{' and more' if len(names) > 8 else ''}" for task, names in added.items()
        )
        raise DataError(
            f"the new rows hold labels that are no class of their task: {words}. If they are meant, the heads get them "
            "as new classes with --new-classes (new_classes=True); otherwise correct them or leave them empty."
        )
    every = changed_rules(run, added, retire)
    by_task = {rule.task: rule for rule in every}
    notes: list[str] = []
    path = str(source) if isinstance(source, (str, Path)) else None
    config = _overridden(changed_config(run, every, path, {}), overrides)
    new = divided(config, run.encoder, [by_task[rule.task] for rule in rules], table, notes)
    told = {assignment.partition("=")[0].strip() for assignment in overrides}
    config = changed_config(run, every, path, _training(run, len(new.data["train"]), told))
    config = _overridden(config, overrides)
    model = changed_model(run, config, every, trust=trust)
    return Plan(config, every, new, model, added, list(retire), notes)


def _overridden(config: Config, overrides: Sequence[str]) -> Config:
    for assignment in overrides:
        key = assignment.partition("=")[0].strip()
        if not (key.startswith("training.") or key in ("seed", "data.replay")):
            raise ConfigurationError(
                f"{assignment!r} cannot be changed: the run keeps its columns, tasks, trunk and balancing. What can be "
                "is training.*, data.replay and seed."
            )
    return override_config(config, overrides)


def _training(run: Run, n_rows: int, told: set[str]) -> dict[str, Any]:
    """Return what is laid out anew for the new rows; None leaves a key of the old training out."""
    sequences = isinstance(run.encoder, (SequenceEncoder, AudioEncoder))
    old = run.config.training
    planned = planned_training(n_rows, pictures=bool(run.encoder.images), sequences=sequences)
    planned["learning_rate"] = LEARNING_RATE * old.learning_rate
    if old.learning_rates:
        planned["learning_rates"] = {name: LEARNING_RATE * rate for name, rate in old.learning_rates.items()}
    if "training.max_steps" in told:
        planned["max_epochs"] = None
    return planned | {"max_steps": None, "baselines": None}


def _continued(
    run: Run,
    plan: Plan,
    old: OldRows,
    drift: DriftReport | None,
    wanted: Path,
    method: ContinueMethod,
    ratio: float,
    strength: float | None,
    *,
    quiet: bool,
) -> Continued:
    model, config, new = plan.model, plan.config, plan.new
    rows = max(1, round(ratio * min(config.training.batch_size, len(new.data["train"]))))
    loader = mixed(method, make_loader(new.data["train"], config, training=True), old, rows)
    scores = _scores("before", model, config, old, new)
    prepared = Prepared(
        config, new.columns, run.encoder, plan.rules, new.split, new.data, new.tables, new.table, plan.notes
    )
    place = new_folder(wanted)
    write_run(place, config, lepton.__version__, run.encoder.fingerprint)
    write_rules(place, run.encoder, plan.rules)
    write_architecture(place, plain_trunk(model.trunk))
    write_split(place, new.split)
    write_json(place / "continued.json", {"from": str(run.folder), "earlier_rows": True})
    write_data(place, prepared, None if drift is None else drift.together)
    if drift is not None:
        write_drift(place, drift, {name: {t: asdict(r) for t, r in found.items()} for name, found in scores.items()})
    trainer = make_trainer(config, model, place, progress=not quiet)
    attach_method(method, trainer, config, old, run.model, strength=strength, rows=rows)
    trainer.step.criterion.unlabelled.update(model.task_names)
    trainer.fit(loader, _selection_batches(config, old, new))
    if not (place / "checkpoints" / "best").exists():
        save_checkpoint(place / "checkpoints" / "best", model, {})
    scores |= _scores("after", model, config, old, new)
    scores = {name: scores[name] for name in SCORED if name in scores}
    return _finished(run, plan, old, drift, place, method, scores)


def _finished(
    run: Run,
    plan: Plan,
    old: OldRows,
    drift: DriftReport | None,
    place: Path,
    method: str,
    scores: Mapping[str, Mapping[str, TaskResult]],
) -> Continued:
    model, config, new = plan.model, plan.config, plan.new
    write_json(place / "results.json", without_nan(_results(model, config, old, new)))
    _keep(place, plan, old)
    rows = None if config.has_source else new.tables
    made = Run(place, config, run.encoder, plan.rules, new.split, model, plan.notes, rows=rows)
    found = Continued(made, str(run.folder), method, scores, plan.added, plan.retired, plan.notes, drift)
    write_json(place / "continued.json", without_nan({**found.to_dict(), "earlier_rows": True}))
    write_card(made)
    return found


def _results(model: LeptonModel, config: Config, old: OldRows, new: NewRows) -> dict[str, Any]:
    parts: dict[str, Rows] = {part: rows for part, rows in new.data.items() if part != "train"}
    parts |= {f"old {part}": rows for part, rows in old.held_out.items()}
    found = {part: evaluate(model, make_loader(rows, config)) for part, rows in parts.items()}
    return {part: {task: asdict(result) for task, result in tasks.items()} for part, tasks in found.items()}


def _scores(
    when: str, model: LeptonModel, config: Config, old: OldRows, new: NewRows
) -> dict[str, dict[str, TaskResult]]:
    """Return every task's results on old and on new rows that did not train, where there are some."""
    found = {}
    for name, parts in (("old rows", old.held_out), ("new rows", new.data)):
        part = held_out_part(parts)
        if part is not None:
            found[f"{name}, {when}"] = evaluate(model, make_loader(parts[part], config))
    return found


def _selection_batches(config: Config, old: OldRows, new: NewRows) -> Any:
    """Return the batches by which the best weights are selected: new validation rows and about as many old ones."""
    if "val" not in new.data:
        return None
    fresh = new.data["val"]
    loaders = [make_loader(fresh, config, in_order=False)]
    before = old.held_out.get("val")
    if before is not None:
        loaders.append(make_loader(_sample(before, max(SELECTED_OLD, len(fresh)), config.seed), config, in_order=False))
    return InTurn(loaders)


def _sample(rows: Rows, size: int, seed: int) -> Rows:
    if not isinstance(rows, TensorData) or len(rows) <= size:
        return rows
    return rows.rows(torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:size].sort().values)


def _keep(place: Path, plan: Plan, old: OldRows) -> None:
    """Write rows of the old data and of the new ones into the new run, unless that is switched off."""
    capacity, seed, data = plan.config.data.replay, plan.config.seed, plan.new.data
    if not capacity or not all(rows_fit(rows) for rows in data.values()):
        return
    tasks = [plan.model.task(name) for name in plan.model.task_names]
    before = {} if old.train is None else {"train": old.train}
    for part, rows in old.held_out.items():
        known = old.samples.get(part)
        before[part] = remember(tasks, rows, capacity, balanced=False, seed=seed) if known is None else known
    write_kept_rows(place, keep_rows(tasks, data, capacity, seed, before))
