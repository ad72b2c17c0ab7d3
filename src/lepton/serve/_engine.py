"""Rows of several requests to their answers, in one pass through the graph."""

from __future__ import annotations

import io
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic_core import to_json
from torch import Tensor

from lepton.data import InputEncoder, decode_image
from lepton.errors import DataError
from lepton.export import ExportedModel
from lepton.serve._columns import AskedColumn
from lepton.serve._problem import FAILED, Problem

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Engine", "Work"]

_log = logging.getLogger("lepton.serve")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """What one request wants predicted.

    Attributes:
        rows: the values of the columns; of a file, its bytes.
        tasks: what is predicted of them.
    """

    rows: Sequence[Row]
    tasks: tuple[str, ...]


class Engine:
    """Predicts for several requests at a time, so that none of them can spoil another's answer.

    Args:
        model: what predicts.
        columns: what it reads.
        at_once: rows that go through the graph at a time.
    """

    def __init__(self, model: ExportedModel, columns: Sequence[AskedColumn], at_once: int) -> None:
        self.model = model
        self.columns = list(columns)
        self.at_once = at_once
        self._pictures = [column.name for column in columns if column.kind == "image"]
        self._sounds = [column.name for column in columns if column.kind == "audio"]
        self._predicted = {rule.task: rule.predicted for rule in model.rules}

    def __call__(self, batch: Sequence[Work]) -> list[bytes | Problem]:
        """Return the body of each request's answer, or what is wrong with it."""
        found: dict[int, bytes | Problem] = {}
        ready: dict[int, Work] = {}
        for number, work in enumerate(batch):
            try:
                ready[number] = self._read(work)
            except DataError as error:
                found[number] = Problem(422, str(error))
        found |= zip(ready, self._answers(list(ready.values())), strict=True)
        return [found[number] for number in range(len(batch))]

    def _answers(self, batch: Sequence[Work]) -> Sequence[bytes | Problem]:
        if len(batch) > 1:
            try:
                return self._together(batch)
            except DataError:
                pass  # one of them is at fault, and is told so below
            except Exception:  # noqa: BLE001  # whoever is to blame, the others get their answers
                _log.exception("a batch of %d requests failed: each is tried alone", len(batch))
        return [self._alone(work) for work in batch]

    def warm(self, example: Row) -> None:
        """Predict once for nobody: the first prediction loads libraries and takes a hundred times as long.

        Args:
            example: a row without its files.
        """
        if not self._sounds:
            self([Work([{**example, **dict.fromkeys(self._pictures, _white())}], tuple(self.model.tasks))])

    def _alone(self, work: Work) -> bytes | Problem:
        try:
            return self._together([work])[0]
        except DataError as error:
            return Problem(422, str(error))
        except Exception:  # noqa: BLE001  # logged with its traceback; the server goes on
            _log.exception("a request of %d rows failed", len(work.rows))
            return Problem(500, FAILED)

    def _together(self, batch: Sequence[Work]) -> list[bytes]:
        rows = [row for work in batch for row in work.rows]
        wanted = {task for work in batch for task in work.tasks}
        columns = self._predict(rows, [task for task in self.model.tasks if task in wanted])
        answers, start = [], 0
        for work in batch:
            end = start + len(work.rows)
            names = [name for task in self.model.tasks if task in work.tasks for name in self._predicted[task]]
            values = zip(*(columns[name][start:end] for name in names), strict=True)
            predictions = [dict(zip(names, row, strict=True)) for row in values]
            answers.append(to_json({"predictions": predictions}, inf_nan_mode="null"))
            start = end
        return answers

    # -- predicting -------------------------------------------------------------------------------------------
    def _predict(self, rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, list[Any]]:
        if self._sounds:
            return self._predict_sounds(rows, tasks)
        table = self._table(rows)
        if not isinstance(self.model.encoder, InputEncoder):
            found = self.model.predict(table, tasks=tasks, batch_size=self.at_once)
            return {name: found.column(name).to_pylist() for name in found.column_names}
        batches = self._pictured(rows, table) if self._pictures else self._read_batches(table)
        return {name: _plain(values) for name, values in self.model.columns(batches, tasks).items()}

    def _table(self, rows: Sequence[Row]) -> pa.Table:
        import pyarrow as pa

        return pa.table({c.name: c.array([row.get(c.name) for row in rows]) for c in self.columns})

    def _read_batches(self, table: pa.Table) -> Iterator[dict[str, Tensor]]:
        return self.model.manifest.reading.batches(self.model.encoder, table, self.at_once)

    def _pictured(self, rows: Sequence[Row], table: pa.Table) -> Iterator[dict[str, Tensor]]:
        """Yield the inputs of rows whose pictures are decoded already."""
        assert isinstance(self.model.encoder, InputEncoder)
        inputs = self.model.encoder.encode(table)
        pictures = [[row[name] for name in self._pictures] for row in rows]
        if self.model.manifest.reading.one_image:
            inputs["image"] = torch.stack([row[0] for row in pictures])
        else:
            empty = torch.zeros(3, *self._size, dtype=torch.uint8)
            stacked = [torch.stack([empty if picture is None else picture for picture in row]) for row in pictures]
            inputs["image"] = torch.stack(stacked)
            inputs["image_missing"] = torch.tensor([[picture is None for picture in row] for row in pictures])
        for start in range(0, len(rows), self.at_once):
            yield {name: tensor[start : start + self.at_once] for name, tensor in inputs.items()}

    @property
    def _size(self) -> tuple[int, int]:
        size = self.model.manifest.reading.image_size
        assert size is not None, "a model that reads pictures"
        return size

    def _read(self, work: Work) -> Work:
        """Return the work with its pictures decoded: a broken one is its own request's fault."""
        if not self._pictures:
            return work
        return Work([self._decoded(row) for row in work.rows], work.tasks)

    def _decoded(self, row: Row) -> Row:
        files = {name: row.get(name) for name in self._pictures}
        pixels = {
            name: None if file is None else decode_image(file, self._size, _CHANNELS) for name, file in files.items()
        }
        return {**row, **pixels}

    def _predict_sounds(self, rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, list[Any]]:
        """Predict recordings from files of our own, since libsndfile wants to go back and forth in them."""
        import pyarrow as pa

        (name,) = self._sounds
        with tempfile.TemporaryDirectory(prefix="lepton-serve-") as folder:
            paths = [str(Path(folder, f"recording {number}.wav")) for number in range(len(rows))]
            for path, row in zip(paths, rows, strict=True):
                Path(path).write_bytes(row[name])
            try:
                found = self.model.predict(pa.table({name: paths}), tasks=tasks, batch_size=self.at_once)
            except DataError as error:
                raise DataError(str(error).replace(f"{folder}{os.sep}", "")) from None
        return {name: found.column(name).to_pylist() for name in found.column_names}


_CHANNELS = 3
"""Of a picture, as rows of pictures have them."""


def _white() -> bytes:
    """Return the smallest picture."""
    from PIL import Image

    Image.new("RGB", (1, 1), "white").save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def _plain(values: Any) -> list[Any]:
    """Return a column of predictions as what JSON can hold."""
    if hasattr(values, "tolist"):
        return values.tolist()  # type: ignore[no-any-return]
    return [value.tolist() if hasattr(value, "tolist") else value for value in values]
