"""`distilled_run`: a smaller trunk taught by a run, beside the same trunk that nobody taught."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lepton.compress import Distil
from lepton.config import Config, check_config, content_of
from lepton.data import describe_columns, rules_to_dict, without_nan
from lepton.errors import ConfigurationError, DataError, is_whole, require
from lepton.insight import Estimate
from lepton.nn import LeptonModel
from lepton.run._build import initial_model
from lepton.run._fit import override_config
from lepton.run._folder import new_folder, write_json
from lepton.run._own_rows import run_rows
from lepton.run._prepare import Prepared
from lepton.run._rows import held_out_part
from lepton.run._run import Run
from lepton.run._train import Procedure, train_prepared
from lepton.run._watch import Watch, watched
from lepton.train import Trainer

__all__ = ["Distilled", "Gain", "check_student", "distilled_run", "train_students"]


@dataclass(frozen=True)
class Gain:
    """What distillation gained for one metric of a task.

    Attributes:
        task: the task.
        metric: the metric.
        higher_is_better: whether more is better.
        teacher: value of the teacher.
        control: of the student that was trained without, over the seeds.
        student: of the student that was taught.
        difference: student less control, seed by seed.
    """

    task: str
    metric: str
    higher_is_better: bool
    teacher: float
    control: Estimate
    student: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Distilled:
    """Students with and without a teacher. `console.print(distilled.table())` shows them.

    Attributes:
        folder: where everything lies.
        students: the run of each seed that was taught.
        controls: the run of each seed that was not, of the same configuration and as many steps.
        part: the held-out rows of the scores.
        teacher: task -> metric -> value of the teacher on them.
    """

    folder: Path
    students: tuple[Run, ...]
    controls: tuple[Run, ...]
    part: str
    teacher: Mapping[str, Mapping[str, float]]

    @property
    def run(self) -> Run:
        """The student of the first seed."""
        return self.students[0]

    @property
    def control(self) -> Run:
        """The same student without a teacher."""
        return self.controls[0]

    @property
    def gains(self) -> list[Gain]:
        """One for each task and metric, the primary one of a task first; those with a value only."""
        return list(self._gains())

    def _gains(self) -> Iterator[Gain]:
        kept = [[run.results[self.part] for run in runs] for runs in (self.students, self.controls)]
        for task in self.run.tasks:
            for metric, better in self.run.model.task(task).higher_is_better.items():
                mine, theirs = ([found[task].metrics.get(metric, math.nan) for found in runs] for runs in kept)
                if math.isnan(mine[0]):
                    continue
                apart = [a - b for a, b in zip(mine, theirs, strict=True)]
                told = self.teacher[task].get(metric, math.nan)
                yield Gain(task, metric, better, told, *map(Estimate.of, (theirs, mine, apart)))

    def to_dict(self) -> dict[str, Any]:
        """Return what `results.json` holds."""
        return without_nan(  # type: ignore[no-any-return]
            {
                "part": self.part,
                "students": [str(run.folder) for run in self.students],
                "controls": [str(run.folder) for run in self.controls],
                "gains": [dataclasses.asdict(gain) for gain in self.gains],
            }
        )

    def table(self) -> Any:
        """Return a table for a terminal."""
        from rich.table import Table

        table = Table(title=f"{self.run.folder.parent.name}: taught and not, {self.part} rows", title_justify="left")
        for place, name in enumerate(("task", "metric", "teacher", "student alone", "student taught", "difference")):
            table.add_column(name, justify="left" if place < 2 else "right")
        for gain in self.gains:
            arrow = "↑" if gain.higher_is_better else "↓"
            numbers = (f"{gain.teacher:.4g}", *(_shown(each) for each in (gain.control, gain.student)))
            table.add_row(gain.task, f"{gain.metric} {arrow}", *numbers, _shown(gain.difference, "+"))
        return table


def _shown(estimate: Estimate, sign: str = "") -> str:
    interval = f" ± {estimate.half_width:.2g}" if estimate.has_interval else ""
    return f"{estimate.mean:{sign}.4g}{interval}"


def distilled_run(
    teachers: Run | Sequence[Run],
    student: Sequence[str],
    folder: Path | str,
    *,
    strength: float = 1.0,
    temperature: float = 2.0,
    features: float = 0.0,
    epochs: int | None = None,
    seeds: int = 1,
    rows: Any = None,
    trust: bool = False,
    quiet: bool = False,
) -> Distilled:
    """Train a run's configuration with another trunk, taught by the run, and beside it without a teacher.

    Both have the same initial weights, order of the rows and number of steps; of each the epoch is kept that is best
    on the validation rows. The teacher has seen the same training rows and no others.

    Args:
        teachers: a run; or several of the same rows, inputs and split, whose tasks are taught to one student.
        student: options of the trunk, such as `["trunk.width=64"]`; the first teacher's configuration has the others.
        folder: where the runs are written, in `taught` and `alone`; a number is added if it is taken.
        strength: see `lepton.compress.Distil`.
        temperature: see there.
        features: see there.
        epochs: of the trainings; by default as many as the first teacher took.
        seeds: trainings of each kind, from the run's own seed on; from two on there are intervals.
        rows: the rows, for runs that were trained on rows in memory.
        trust: whether classes that the configuration names may be imported.
        quiet: print nothing.

    Raises:
        ConfigurationError: an option that the trunk does not have, runs that do not go together, or whose rows were
            in memory and are not given.
        DataError: the rows are not those of the run, or none is held out.
    """
    require(is_whole(seeds), "distilled_run", "seeds", seeds, "a whole number of at least 1")
    require(epochs is None or is_whole(epochs), "distilled_run", "epochs", epochs, "a whole number of at least 1")
    told = {"strength": strength, "temperature": temperature, "features": features}
    with watched(quiet) as watch:
        return train_students(
            teachers, student, Path(folder), watch, options=told, epochs=epochs, seeds=seeds, rows=rows, trust=trust
        )


def train_students(
    teachers: Run | Sequence[Run],
    student: Sequence[str],
    folder: Path,
    watch: Watch,
    *,
    options: Mapping[str, Any],
    epochs: int | None = None,
    seeds: int = 1,
    rows: Any = None,
    trust: bool = False,
) -> Distilled:
    """Do what `distilled_run` says, and show it.

    Args:
        teachers: see `distilled_run`, like the rest.
        student: see there.
        folder: see there.
        watch: what a person sees.
        options: of `Distil`.
        epochs: see `distilled_run`.
        seeds: see there.
        rows: see there.
        trust: see there.
    """
    runs = [teachers] if isinstance(teachers, Run) else list(teachers)
    joined, models = _joined(runs)
    config = _student_config(joined.config, student, epochs or len(runs[0].history) or None)
    prepared = run_rows(joined, rows)
    part = held_out_part(prepared.data)
    if part is None:
        raise DataError("this run has neither test nor validation rows: there is nothing to compare a student on.")
    prepared.columns = describe_columns(prepared.table, config.data.kinds, config.data.date_formats)
    place = new_folder(folder)

    def teach(trainer: Trainer) -> None:
        Distil(models, **options).attach(trainer.step.criterion, trainer.optimizer)

    pairs = [_pair(prepared, config, config.seed + n, place, seeds > 1, teach, trust, watch) for n in range(seeds)]
    taught, alone = zip(*pairs, strict=True)
    scores = {task: run.results[part][task].metrics for run in runs for task in run.tasks}
    found = Distilled(place, taught, alone, part, scores)
    write_json(place / "results.json", found.to_dict())
    return found


def _pair(
    prepared: Prepared,
    config: Config,
    seed: int,
    place: Path,
    numbered: bool,
    teach: Procedure,
    trust: bool,
    watch: Watch,
) -> tuple[Run, Run]:
    """Train one student with and one without a teacher."""
    own = dataclasses.replace(prepared, config=check_config(content_of(config) | {"seed": seed}))
    runs = []
    for name, procedures in (("taught", [teach]), ("alone", [])):
        folder = place / (f"{name}-{seed}" if numbered else name)
        callbacks = watch(f"{place.name}: {name}, seed {seed}")
        with torch.random.fork_rng():
            model = initial_model(own, trust=trust)
            runs.append(train_prepared(own, model, folder, quiet=True, callbacks=callbacks, procedures=procedures))
    return runs[0], runs[1]


def check_student(config: Config, student: Sequence[str]) -> Config:
    """Return the configuration with other options of the trunk.

    Raises:
        ConfigurationError: none, others than the trunk's, or one that is not allowed.
    """
    strange = [each for each in student if not each.startswith("trunk.")]
    if strange or not student:
        what = f"{strange[0]!r} is none" if strange else "none is given"
        raise ConfigurationError(
            f"a student differs from its teacher by options of the trunk, such as trunk.width=64, but {what}."
        )
    return override_config(config, student)


def _student_config(config: Config, student: Sequence[str], epochs: int | None) -> Config:
    """Return the configuration with another trunk, and trained to the end of its epochs."""
    content = content_of(check_student(config, student))
    content["training"]["patience"] = None  # two trainings that stop at different times cannot be compared
    if epochs is not None:
        content["training"] |= {"max_epochs": epochs, "max_steps": None}
    return check_config(content)


# -- several teachers ---------------------------------------------------------------------------------------------
def _joined(runs: Sequence[Run]) -> tuple[Run, dict[str, LeptonModel]]:
    """Return a run of the tasks of all, as far as rows and rules go, and task -> its teacher."""
    if not runs:
        raise ConfigurationError("there is no run that could teach: give one, or several.")
    first, *others = runs
    for run in others:
        _check_together(first, run)
    models = {task: run.model for run in reversed(runs) for task in run.tasks}
    if not others:
        return first, models
    rules = {rule.task: rule for run in reversed(runs) for rule in run.rules}
    content = content_of(first.config)
    content["tasks"] = {task: content_of(run.config)["tasks"][task] for run in runs for task in run.tasks}
    ordered = [rules[task] for task in content["tasks"]]
    config = check_config(content)
    return Run(first.folder, config, first.encoder, ordered, first.split, first.model, rows=first.rows), models


def _check_together(first: Run, run: Run) -> None:
    names = f"{str(run.folder)!r} and {str(first.folder)!r}"
    if run.encoder.names != first.encoder.names:
        apart = sorted(set(run.encoder.names) ^ set(first.encoder.names))
        raise ConfigurationError(
            f"{names} cannot teach one student: only one of them reads {apart[:8]}. Train them with the same inputs "
            "(data.inputs or data.ignore)."
        )
    same_split = run.split.fingerprint == first.split.fingerprint and run.split.parts.keys() == first.split.parts.keys()
    if not same_split or any(not torch.equal(rows, first.split.parts[part]) for part, rows in run.split.parts.items()):
        raise ConfigurationError(
            f"{names} cannot teach one student: they were trained on other rows, so that one of them has seen what is "
            "held out from the other. Train them with the same source and split."
        )
    if rules_to_dict(run.encoder, []) != rules_to_dict(first.encoder, []):
        raise ConfigurationError(f"{names} cannot teach one student: they read the same columns by other rules.")
