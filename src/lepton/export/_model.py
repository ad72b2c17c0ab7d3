"""`ExportedModel`: predicts from an exported folder, with ONNX Runtime and without any training code."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from lepton.data import LabelRule, SequenceEncoder, asked_rows, decoded, frame_of
from lepton.errors import ConfigurationError, ExportError, import_extra, nearest, require
from lepton.export._check import compared
from lepton.export._folder import Export, finished, new_place, open_session, run_session, verified
from lepton.export._manifest import MANIFEST, MODEL
from lepton.tasks import SpeechRecognition

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ExportedModel"]


class ExportedModel:
    """An exported folder: rows in, named predictions out, as `lepton.run.Run.predict` gives them.

    Args:
        folder: what `lepton export RUN` wrote. Every file is compared with its hash.
        threads: of one prediction; by default as many as ONNX Runtime takes.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        encoder: rules of the inputs.
        rules: rules of the labels, one for each task.
        notes: sentences about what was predicted, as a run has them: none.

    Raises:
        ExportError: the folder is no export, was changed, is incomplete, or was written by a newer Lepton.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, folder: Path | str, *, threads: int | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = verified(self.folder)
        self.encoder, self.rules = self.manifest.encoder_and_rules()
        self.notes: list[str] = []
        self._session = open_session(self.folder / MODEL, self.manifest, threads)

    @property
    def tasks(self) -> list[str]:
        """The tasks' names."""
        return self.manifest.tasks

    def predict(self, source: Any, *, tasks: Iterable[str] | None = None, batch_size: int | None = None) -> Any:
        """Predict all tasks for rows.

        Args:
            source: rows as for `lepton.fit`; further columns and any order of them are fine.
            tasks: names of the tasks to predict, by default all that are here.
            batch_size: rows at a time.

        Returns:
            A DataFrame (a pyarrow Table if one was given) with one row for each row of the source, as
            `lepton.run.Run.predict` gives it.

        Raises:
            DataError: a column that the model reads is missing.
            ConfigurationError: an unknown task.
        """
        rules = self._chosen(tasks)
        table = self.table_of(source)
        batches = self.manifest.reading.batches(self.encoder, table, batch_size)
        return frame_of(self._decoded(rules, batches, self._words(table, rules)), source)

    def columns(self, batches: Iterable[Mapping[str, Tensor]], tasks: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the predictions for inputs that are tensors already, column by column as `predict` names them.

        Args:
            batches: of inputs, name -> tensor [B, ...] as `manifest.inputs` lists them.
            tasks: names of the tasks to predict, by default all that are here.

        Raises:
            ConfigurationError: an unknown task, or tags, which need to know how many words a row has.
        """
        rules = self._chosen(tasks)
        tags = [rule.task for rule in rules if rule.kind == "token_classification"]
        require(not tags, "columns", "tasks", tags, "no tags of words: give rows to `predict`")
        return self._decoded(rules, batches, torch.zeros(0, dtype=torch.int64))

    def _decoded(
        self, rules: Sequence[LabelRule], batches: Iterable[Mapping[str, Tensor]], words: Tensor
    ) -> dict[str, Any]:
        said: dict[str, list[dict[str, Tensor]]] = {rule.task: [] for rule in rules}
        for inputs in batches:
            outputs = self.outputs(inputs, said)
            counted = {"words": words[: len(next(iter(inputs.values())))]}
            words = words[len(counted["words"]) :]
            for rule in rules:
                said[rule.task].append(self._said(rule, outputs) | counted)
        return decoded(rules, said)

    def _words(self, table: pa.Table, rules: Sequence[LabelRule]) -> Tensor:
        """Return how many words each row has [N], for tags; nothing where there are none."""
        if isinstance(self.encoder, SequenceEncoder) and any(rule.kind == "token_classification" for rule in rules):
            return torch.tensor(self.encoder.source_lengths(table))
        return torch.zeros(0, dtype=torch.int64)

    def _said(self, rule: LabelRule, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the task's `predict` gives; a transcript is searched for here, since no graph does."""
        found = {port.key: outputs[port.name] for port in self.manifest.outputs[rule.task]}
        if rule.kind != "speech_recognition":
            return found
        return SpeechRecognition(rule.task, rule.classes, beam=self.manifest.beams[rule.task]).predict(found["logits"])

    def table_of(self, source: Any) -> pa.Table:
        """Return the rows that `predict` makes of a source: a table of it, of its texts, or of its recordings.

        Raises:
            ConfigurationError: paths or texts for a model that reads neither a text as a sequence nor recordings.
            DataError: what cannot be read, or is no string.
        """
        return asked_rows(self.encoder, source)

    def outputs(self, inputs: Mapping[str, Tensor], tasks: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return the outputs of the graph for a batch of inputs: `TASK.KEY` -> tensor [B, ...].

        Args:
            inputs: name -> tensor [B, ...], as `manifest.inputs` lists them.
            tasks: whose outputs are wanted; by default those of all.
        """
        return run_session(self._session, self.manifest, inputs, tasks)

    def _chosen(self, tasks: Iterable[str] | None) -> list[LabelRule]:
        wanted = self.tasks if tasks is None else [tasks] if isinstance(tasks, str) else list(tasks)
        for name in wanted:
            if name not in self.tasks:
                why = f" It was left out: {self.manifest.left_out[name]}." if name in self.manifest.left_out else ""
                raise ConfigurationError(
                    f"the exported model {str(self.folder)!r} holds no task {name!r}; tasks: {self.tasks}."
                    f"{why or nearest(name, self.tasks)}"
                )
        return [rule for rule in self.rules if rule.task in wanted]

    # -- in other weights -------------------------------------------------------------------------------------
    def rewritten(
        self, folder: Path | str, transform: Callable[[Path, Path], object], *, weights: str, rows: Any
    ) -> Export:
        """Write a new exported folder with another graph for the same rules, such as one with smaller weights.

        What both graphs give on real rows is compared and written down, and not refused: smaller weights say something
        else now and then. `manifest.checked` holds the largest difference of each output (values of a regression in
        standard deviations of what this model predicts), and the share of labels that are the same (`agreement`).

        Args:
            folder: the new folder. It holds no `model.pt2`, whose weights are those of the original.
            transform: writes the graph file that is its second argument, made of the one that is its first, such as
                `lepton.compress.quantise_onnx`.
            weights: what the weights are then, such as `int8`.
            rows: to compare on, as for `predict`.

        Raises:
            ConfigurationError: the folder is there already.
            DataError: there are no rows, or a column that the model reads is missing.
            ExportError: this folder was changed since it was loaded, or the new graph has other inputs, outputs or
                shapes, or gives no numbers.

        Example:
            >>> import lepton
            >>> from lepton.compress import quantise_onnx
            >>> from lepton.export import ExportedModel
            >>> rows = {"size": list(range(60)), "kind": ["flat", "house", "villa"] * 20}
            >>> run = lepton.fit(rows, ["kind"], training={"max_epochs": 1}, folder="runs/homes", quiet=True)
            >>> model = ExportedModel(run.export("homes", rows=rows).folder)
            >>> found = model.rewritten("homes-int8", quantise_onnx, weights="int8", rows=rows)
            >>> found.sizes["model.onnx"] < (model.folder / "model.onnx").stat().st_size / 2
            True
            >>> ExportedModel("homes-int8").predict({"size": [3]}).shape
            (1, 4)
        """
        place = Path(folder)
        table = self.table_of(rows)
        verified(self.folder)
        with new_place(place) as part:
            transform(self.folder / MODEL, part / MODEL)
            if not (part / MODEL).is_file():
                raise ExportError("what should have made the new graph wrote no file.")
            session = open_session(part / MODEL, self.manifest, 1)
            batches = self.manifest.reading.batches(self.encoder, table)
            pairs = [(self.outputs(batch), run_session(session, self.manifest, batch)) for batch in batches]
            checked = compared(pairs) | {"rows": table.num_rows}
            manifest = finished(part, replace(self.manifest, checked=checked, weights=weights, files={}))
        return Export.of(place, manifest)

    # -- elsewhere --------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(cls, name: Path | str, *, threads: int | None = None) -> Self:
        """Load a folder, or a model of the Hugging Face Hub by its name, which is downloaded (extra `hf`).

        Raises:
            ExportError: as for the class.
        """
        if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) and not Path(name).exists() and not str(name).startswith("."):
            hub = import_extra("huggingface_hub", "hf", f"{str(name)!r} is no folder; to download it")
            name = hub.snapshot_download(str(name))
        return cls(name, threads=threads)

    def save_pretrained(self, folder: Path | str) -> Path:
        """Copy the folder to a new place and verify the copy.

        Raises:
            ConfigurationError: something is there already.
            ExportError: what was copied is not what was exported.
        """
        place = Path(folder)
        with new_place(place) as part:
            for name in (*self.manifest.files, MANIFEST):
                shutil.copyfile(self.folder / name, part / name)
            verified(part)
        return place

    def push_to_hub(self, repository: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload the folder to the Hugging Face Hub (extra `hf`), and return its address.

        Args:
            repository: its name there, `OWNER/NAME`; it is made if it is not there.
            private: whether a new one is seen by its owner only.
            token: of the account; by default the one that is logged in.
        """
        hub = import_extra("huggingface_hub", "hf", "an upload to the Hugging Face Hub")
        verified(self.folder)
        hub.create_repo(repository, private=private, exist_ok=True, token=token)
        files = [MANIFEST, *self.manifest.files]
        found = hub.upload_folder(
            repo_id=repository, folder_path=self.folder, allow_patterns=files, token=token, commit_message="Export"
        )
        return str(found)

    def __repr__(self) -> str:
        return f"ExportedModel({str(self.folder)!r}, tasks={self.tasks})"
