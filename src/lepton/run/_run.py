"""A trained run: predict, evaluate, look at it; and load it again from its folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lepton.config import Config
from lepton.data import (
    AudioEncoder,
    Encoder,
    LabelRule,
    Rows,
    SequenceEncoder,
    Split,
    asked_rows,
    decoded,
    find_column,
    frame_of,
    read_table,
)
from lepton.errors import CheckpointError, ConfigurationError, DataError, nearest
from lepton.evaluate import TaskResult, evaluate, to_device
from lepton.nn import LeptonModel
from lepton.run._build import build_model
from lepton.run._encoding import encode_rows
from lepton.run._folder import check_vocabulary, read_architecture, read_json, read_rules, read_run_config, read_split
from lepton.run._generation import predict_sequences, with_search_scores
from lepton.run._plot import RunPlots
from lepton.run._prepare import read_source, split_tables
from lepton.run._rows import held_out_part, make_loader, rows_of
from lepton.run._samples import encoded_sample, usable_samples
from lepton.run._sequences import prediction_rows
from lepton.run._set_streams import Streams, opened_parts, streamed_rows
from lepton.run._speech import encode_recordings, predict_recordings
from lepton.run._summary import seen_words
from lepton.run._voices import Speech, read_voices, speak
from lepton.train import load_weights

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.config import AddedTasks
    from lepton.export import Export
    from lepton.run.added import Added
    from lepton.run.continued import Continued, ContinueMethod

__all__ = ["Run", "load"]

log = logging.getLogger(__name__)


class Run:
    """One training: its folder, its model and the rules that turn rows into inputs and outputs into names.

    Made by `lepton.fit` and `lepton.load`.

    Attributes:
        folder: where it lies.
        config: the resolved configuration.
        model: the trained model, in eval mode.
        encoder: rules of the inputs.
        rules: rules of the labels, one for each task.
        split: which rows of the source trained, validated and tested.
        notes: what was decided or looked odd while the rows were prepared; empty for a loaded run.
        rows: part -> rows, for a run that was trained on rows in memory; None for one whose source is a file.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        encoder: Encoder,
        rules: Sequence[LabelRule],
        split: Split,
        model: LeptonModel,
        notes: Sequence[str] = (),
        rows: Mapping[str, pa.Table] | None = None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.encoder = encoder
        self.rules = list(rules)
        self.split = split
        self.model = model.eval()
        self.notes = list(notes)
        self.rows = rows

    # -- results ----------------------------------------------------------------------------------------------
    @property
    def tasks(self) -> list[str]:
        """The tasks' names."""
        return [rule.task for rule in self.rules]

    @property
    def history(self) -> list[dict[str, float]]:
        """One row of metrics for each epoch, as in `metrics.jsonl`; NaN where the file says null."""
        try:
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        rows = [json.loads(line) for line in lines if line.strip()]
        return [{key: float("nan") if value is None else value for key, value in row.items()} for row in rows]

    @property
    def results(self) -> dict[str, dict[str, TaskResult]]:
        """Part -> task -> result of the selected weights, as found when training ended."""
        content = read_json(self.folder / "results.json")
        return {part: {task: _result(found) for task, found in tasks.items()} for part, tasks in content.items()}

    @property
    def plot(self) -> RunPlots:
        """Figures of the training: `run.plot.weights()`, `.curves()`, `.conflict()`; each returns matplotlib axes."""
        return RunPlots(self.history, self.tasks)

    # -- use --------------------------------------------------------------------------------------------------
    def predict(self, source: Any, *, tasks: Iterable[str] | None = None, batch_size: int | None = None) -> Any:
        """Predict all tasks for rows.

        Args:
            source: rows as for `lepton.fit`; targets need not be there, further columns and any order are fine. A run
                that reads one text takes a list of strings too; one that reads words parts them at spaces. One that
                reads recordings takes the path of a sound file, a list of them, or a folder that holds some.
            tasks: names of the tasks to predict, by default all that are not auxiliary.
            batch_size: rows at a time; by default 1024, or 64 with pictures.

        Returns:
            A DataFrame (a pyarrow Table if one was given) with one row for each row of the source: for each task its
            label or number, and for classes one column `<task>_probability_<class>` each; for a translation the text,
            found by beam search; for tags the list of each row's; for a language model the perplexity of the text;
            for a transcript the text and its probability.

        Raises:
            DataError: a column that the run reads is missing.
            ConfigurationError: an unknown task, or nothing but a synthesiser.
        """
        rules = self._chosen(tasks)
        if isinstance(self.encoder, SequenceEncoder):
            return frame_of(self._predicted_texts(self.encoder, source, rules, batch_size), source)
        if isinstance(self.encoder, AudioEncoder):
            return frame_of(self._heard(self.encoder, source, rules, batch_size), source)
        rows = rows_of(self.config, self.encoder, [], read_table(source), {})
        return frame_of(decoded(rules, self._said(rows, rules, batch_size)), source)

    def table_of(self, source: Any) -> pa.Table:
        """Return the rows that `predict` makes of a source: a table of it, of its texts, or of its recordings.

        Args:
            source: as for `predict`. A run that reads words parts texts at spaces; one that reads recordings takes
                those of a folder under whatever name it knows them.

        Raises:
            ConfigurationError: paths or texts for a run that reads neither a text as a sequence nor recordings.
            DataError: what cannot be read, or is no string.
        """
        return asked_rows(self.encoder, source)

    def say(self, text: str, voice: str | None = None, *, pace: float = 1.0) -> Speech:
        """Speak a text: for a run with a task of the kind `speech_synthesis`.

        Args:
            text: what is said, in characters that the training texts have.
            voice: whose voice: a value of the column that the task's `voice` names; may be left out if there is one.
            pace: how fast, 1 as in training, 2 twice as fast.

        Raises:
            ConfigurationError: the run has no synthesiser, or no such voice.
            DataError: an empty text, or a character that training has not.
            CheckpointError: the run's voices cannot be read.
        """
        if not isinstance(self.encoder, AudioEncoder):
            raise ConfigurationError(f"this run reads {self.encoder.names[:8]} and cannot speak.")
        voices = read_voices(self.folder) if (self.folder / "voices.safetensors").exists() else {}
        return speak(self.model.eval(), self.encoder, self.rules, voices, text, voice, pace=pace)

    def _predicted_texts(
        self, encoder: SequenceEncoder, source: Any, rules: Sequence[LabelRule], batch_size: int | None
    ) -> dict[str, Any]:
        table = self.table_of(source)
        loader = make_loader(prediction_rows(encoder, table), self.config, batch_size=batch_size)
        return predict_sequences(self.model.eval(), encoder, rules, table, loader)

    def _heard(
        self, encoder: AudioEncoder, source: Any, rules: Sequence[LabelRule], batch_size: int | None
    ) -> dict[str, Any]:
        if all(rule.kind == "speech_synthesis" for rule in rules):
            names = [rule.task for rule in rules]
            raise ConfigurationError(f"{names} find nothing in a recording, they speak: run.say(text), or lepton say.")
        rows = encode_recordings(self.config, encoder, [], self.table_of(source), self.notes, "predicted")
        loader = make_loader(rows, self.config, batch_size=batch_size)
        return predict_recordings(self.model.eval(), rules, loader)

    def _chosen(self, tasks: Iterable[str] | None) -> list[LabelRule]:
        if tasks is None:
            main = [rule for rule in self.rules if not self.model.task(rule.task).auxiliary]
            return main or self.rules
        wanted = [tasks] if isinstance(tasks, str) else list(tasks)
        for name in wanted:
            if name not in self.tasks:
                raise ConfigurationError(f"there is no task {name!r}; tasks: {self.tasks}.{nearest(name, self.tasks)}")
        return [rule for rule in self.rules if rule.task in wanted]

    @torch.no_grad()
    def _said(
        self, rows: Rows, rules: Sequence[LabelRule], batch_size: int | None
    ) -> dict[str, list[dict[str, Tensor]]]:
        """Return what each task's `predict` says, batch by batch: the outputs of a mask are larger than its labels."""
        self.model.eval()
        said: dict[str, list[dict[str, Tensor]]] = {rule.task: [] for rule in rules}
        for inputs, _ in make_loader(rows, self.config, batch_size=batch_size):
            outputs, _ = self.model(to_device(inputs, self.model.device))
            for name, found in said.items():
                found.append({key: value.cpu() for key, value in self.model.task(name).predict(outputs[name]).items()})
        return said

    def evaluate(
        self, source: Any = None, *, part: Literal["train", "val", "test"] | None = None
    ) -> dict[str, TaskResult]:
        """Return every task's loss and metrics on rows with labels.

        Args:
            source: rows; by default those of the training source that `part` names. If it is the training source
                itself, a warning is logged: most of its rows trained.
            part: which part of the training source; by default the test, or the validation if there is no test.

        Raises:
            DataError: the source is not the one that the run was trained on, or a column is missing.
            ConfigurationError: both a source and a part.
        """
        if source is not None and part is not None:
            raise ConfigurationError(
                f"part={part!r} is a part of the training source: give it or other rows, not both."
            )
        if source is None and self.rows is None and self.config.data.stream is True:
            return self._evaluated_stream(part)
        table = self._part(part) if source is None else read_table(source)
        if source is not None and (words := seen_words(self, table)):
            log.warning(words)
        rules = self.rules
        if source is None:  # a run that was continued may have seen new rows of some tasks only
            rules = [rule for rule in rules if set(rule.columns) <= set(table.column_names)]
        for rule in rules:
            for column in rule.columns:
                find_column(table, column)
        rows = encode_rows(self.config, self.encoder, rules, table, self.notes, "evaluated")
        found = evaluate(self.model, make_loader(rows, self.config))
        if isinstance(self.encoder, SequenceEncoder):
            return with_search_scores(self.model, self.encoder, rules, table, found)
        return found

    def tables(self) -> dict[str, pa.Table]:
        """Return the rows of every part: those in memory, or read from the training source again.

        Of rows that are streamed it is a sample.

        Raises:
            ConfigurationError: the run was trained on rows in memory, which are gone.
            DataError: the source has changed since, or is gone.
        """
        if self.rows is not None:
            return dict(self.rows)
        source = self.config.require_source()
        if self.config.data.stream is True:
            return usable_samples(self.config, self._streams())
        table = read_source(self.config)
        self.split.check(table, source)
        return split_tables(self.config, table, self.split)

    def _streams(self) -> Streams:
        streams, _ = opened_parts(self.config)
        if streams["train"].fingerprint != self.split.fingerprint:
            raise DataError(f"the shards of {self.config.require_source()} are not those that the run was trained on.")
        return streams

    def _evaluated_stream(self, part: str | None) -> dict[str, TaskResult]:
        streams = self._streams()
        wanted = part or held_out_part(streams) or "val"
        if wanted not in streams:
            raise DataError(f"this run has no part {wanted!r}; it has {sorted(streams)}.")
        table = usable_samples(self.config, streams)[wanted]
        table, sample = encoded_sample(self.config, self.encoder, self.rules, table, self.notes, "evaluated")
        chosen: Any = {wanted: streams[wanted]}
        rows = streamed_rows(self.config, self.encoder, self.rules, chosen, {wanted: sample})
        found = evaluate(self.model, make_loader(rows[wanted], self.config))
        if isinstance(self.encoder, SequenceEncoder):
            return with_search_scores(self.model, self.encoder, self.rules, table, found)
        return found

    def _part(self, part: str | None) -> pa.Table:
        tables = self.tables()
        wanted = part or held_out_part(tables) or "val"
        if wanted not in tables:
            raise DataError(f"this run has no part {wanted!r}; it has {sorted(tables)}.")
        return tables[wanted]

    # -- report -----------------------------------------------------------------------------------------------
    def report(self, path: Path | str | None = None) -> Path:
        """Write one offline page about the run: results, cost, curves, conflicts, errors, calibration, data.

        The page shows values of held-out rows. It needs the training source for that; without it, or without the rows
        in memory that the run was trained on, the page says so and shows the rest.

        Args:
            path: of the page; by default `report.html` in the run's folder.

        Returns:
            The path.

        Raises:
            CheckpointError: a file in the run's folder is damaged.
        """
        from lepton.run.report import write_run_report

        return write_run_report(self, self.folder / "report.html" if path is None else Path(path))

    def export(self, folder: Path | str | None = None, *, rows: Any = None) -> Export:
        """Write a new folder with the model as ONNX and all rules, which predicts without any training code.

        Args:
            folder: the new folder; by default `export`, or `export-2` and so on, in the run's folder.
            rows: rows to compare run and exported model on; by default held-out rows of the run's own.

        Returns:
            What was written and the largest difference of each output; `lepton.export.ExportedModel` reads the folder.

        Raises:
            ConfigurationError: the folder is there already, or there are no rows to compare on.
            ExportError: the model cannot be exported, or predicts something else than the run.
        """
        from lepton.run._export import export_run

        return export_run(self, folder, rows=rows)

    def add_task(
        self,
        config: AddedTasks | Mapping[str, Any] | Path | str,
        folder: Path | str | None = None,
        *,
        source: Any = None,
        compare: bool = True,
        trust: bool = False,
        quiet: bool = False,
    ) -> Added:
        """Give the run more tasks; the result is a new run in a folder of its own, and this one is left as it is.

        Args:
            config: the new rows and tasks and the method: a YAML file, or its content, such as
                `{"data": {"source": "new.csv"}, "tasks": ["churn"], "method": "lora"}`.
            folder: of the new run; by default this one's name and the new tasks'.
            source: new rows in memory, instead of `data.source`.
            compare: whether to train, for comparison, each new task alone and all tasks together, from scratch.
            trust: whether classes that a configuration names may be imported.
            quiet: print nothing.

        Returns:
            The new run with every task's metrics before and after; see `lepton.run.add_task`, which says more.

        Raises:
            ConfigurationError: a task of a name that exists, or a method that needs rows that are gone.
            DataError: a column that the run reads is missing among the new rows.
        """
        from lepton.run.added import add_task

        return add_task(self, config, folder, source=source, compare=compare, trust=trust, quiet=quiet)

    def continue_training(
        self,
        source: Any = None,
        folder: Path | str | None = None,
        *,
        method: ContinueMethod = "replay",
        new_classes: bool = False,
        retire: Sequence[str] = (),
        overrides: Sequence[str] = (),
    ) -> Continued:
        """Go on from this run in a new one: learn from new rows without forgetting the old ones.

        `lepton.run.continue_run` has further options, and says what each means.

        Args:
            source: new rows; None to retire tasks only.
            folder: the new folder; by default this one's name and `-continued`.
            method: what keeps the run from forgetting: `"replay"`, `"lwf"`, `"ewc"`, `"agem"` or `"none"`.
            new_classes: whether labels that are no class of their task become classes of it.
            retire: tasks that the new run does not have.
            overrides: `training.key=value` to change.

        Returns:
            The new run, and every task before and after on old and on new rows.

        Raises:
            DataError: a column is missing, there is no label, or one is no class.
            ConfigurationError: an option that is not allowed, or old rows are needed and there are none.
        """
        from lepton.run.continued import continue_run

        options: dict[str, Any] = {"method": method, "new_classes": new_classes, "retire": retire}
        return continue_run(self, source, folder, overrides=overrides, quiet=True, **options)

    # -- showing ----------------------------------------------------------------------------------------------
    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, tasks={self.tasks}, balance={self.config.balance.method!r})"

    def _repr_html_(self) -> str:
        from lepton.run._summary import results_rows, score_notes

        results = self.results
        header, *rows = results_rows(self, results)
        head = "".join(f"<th>{cell}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
        notes = "".join(f"<div>{note}</div>" for note in score_notes(results))
        return f"<b>{self.folder}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def _result(found: dict[str, Any]) -> TaskResult:
    nan = float("nan")
    metrics = {name: nan if value is None else value for name, value in found["metrics"].items()}
    loss = nan if found["loss"] is None else found["loss"]
    return TaskResult(loss, metrics, found["n_labels"], found.get("signatures", {}))  # none before there were any


def load(folder: Path | str, *, checkpoint: str = "best", trust: bool = False) -> Run:
    """Load a run from its folder.

    Args:
        folder: the run's folder.
        checkpoint: which weights: `best`, `last`, or `best-<task>` where those were kept.
        trust: whether classes that the configuration names may be imported.

    Raises:
        CheckpointError: the folder is no run, is damaged, or was written by a newer Lepton.
    """
    place = Path(folder)
    if not place.is_dir():
        beside = [item.name for item in place.parent.iterdir()] if place.parent.is_dir() else []
        raise CheckpointError(f"there is no run {str(place)!r}.{nearest(place.name, beside)}")
    config = read_run_config(place)
    encoder, rules = read_rules(place)
    check_vocabulary(place, encoder)
    model = build_model(config, encoder, rules, trust=trust, architecture=read_architecture(place))
    load_weights(place / "checkpoints" / checkpoint, model)
    return Run(place, config, encoder, rules, read_split(place), model)
