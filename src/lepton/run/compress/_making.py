"""The forms of a run: exported, quantised, pruned, distilled, and those that run in torch only."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lepton.compress import quantise_onnx, quantise_torch, to_bf16
from lepton.data import Rows
from lepton.errors import ConfigurationError
from lepton.export import ExportedModel
from lepton.run._rows import make_loader
from lepton.run._run import Run
from lepton.run._watch import Watch
from lepton.run.compress._distilled import Distilled, train_students
from lepton.run.compress._pruned import pruned_run

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Making", "Part"]

CHECKED_ROWS = 256
"""Rows that a graph of 8 bits is compared with its original on; its metrics are those of all rows."""

COMPILED_ROWS = 32
"""Rows of the batch that a torch model is compiled with."""

ORIGINAL = "original"


@dataclass(frozen=True)
class Part:
    """Rows with labels: as they were read, and encoded."""

    table: pa.Table
    rows: Rows


@dataclass(frozen=True)
class Made:
    """A form that was made.

    Attributes:
        how: in words.
        family: name of the network that it is in other numbers.
        place: the exported folder; None for what runs in torch only.
        run: folder of the run that it is of; None for the run that everything is made from.
        model: what runs in torch only.
    """

    how: str
    family: str
    place: Path | None = None
    run: Path | None = None
    model: nn.Module | None = None


@dataclass
class Making:
    """What is made of a run, and what it is made with.

    Attributes:
        run: the run.
        place: the folder of all forms.
        parts: rows with labels.
        part: the name of those that are shown.
        watch: what a person sees.
        int8: whether each exported form is made with weights of 8 bits as well.
        epochs: of every training; None for as many as the run took.
        trust: whether classes that the configuration names may be imported.
        made: name -> form.
        distilled: students beside their controls.
        notes: what could not be made, and why.
    """

    run: Run
    place: Path
    parts: Mapping[str, Part]
    part: str
    watch: Watch
    int8: bool
    epochs: int | None
    trust: bool
    made: dict[str, Made] = field(default_factory=dict)
    distilled: list[Distilled] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def shown(self) -> Part:
        """The rows that are shown."""
        return self.parts[self.part]

    def original(self) -> None:
        """Take the run as it is, in torch, and export it."""
        self.made[ORIGINAL] = Made("the run in torch, weights of 32 bits", ORIGINAL, model=self.run.model.eval())
        left_out = self._export("fp32", "the run as ONNX", self.run, None)
        self.notes += [f"{task!r} is in no exported form: {why}." for task, why in left_out.items()]

    def bf16(self) -> None:
        """Take the run in torch with weights of 16 bits."""
        self.made["bf16"] = Made("the run in torch, in bfloat16", ORIGINAL, model=to_bf16(self.run.model))

    def torchao(self) -> None:
        """Take the run in torch with linear layers of 8 bits, compiled."""
        inputs, _ = next(iter(make_loader(self.shown.rows, self.run.config, batch_size=COMPILED_ROWS)))
        try:
            with self.watch.working("torchao: compiling"):
                model = quantise_torch(self.run.model, inputs)
        except ConfigurationError as error:
            self.notes.append(f"There is no torchao: {error}")
            return
        self.made["torchao"] = Made("the run in torch, linear layers in 8 bits, compiled", ORIGINAL, model=model)

    def pruned(self, ratio: float) -> None:
        """Prune the run, train it on and export it."""
        name = f"pruned-{ratio:g}"
        told: dict[str, Any] = {
            "epochs": self.epochs,
            "trust": self.trust,
            "callbacks": self.watch(f"{name}: training"),
        }
        found = pruned_run(self.run, ratio, self.place / "runs" / name, quiet=True, **told)
        self._export(name, f"{ratio:.0%} of the parameters taken away, the rest trained on", found, found.folder)

    def student(self, options: str, seeds: int) -> None:
        """Train a student with and without the run as its teacher, and export both."""
        said = re.sub(r"[^\w.]+", "-", options.replace("trunk.", ""))
        place = self.place / "runs" / f"distilled-{said}"
        told: dict[str, Any] = {"options": {}, "epochs": self.epochs, "seeds": seeds, "trust": self.trust}
        found = train_students(self.run, options.split(), place, self.watch, **told)
        self.distilled.append(found)
        self._export(f"distilled-{said}", f"{options}, taught by the run", found.run, found.run.folder)
        how = f"{options}, trained without a teacher: what distillation has to beat"
        self._export(f"alone-{said}", how, found.control, found.control.folder)

    def _export(self, name: str, how: str, run: Run, trained: Path | None) -> Mapping[str, str]:
        """Export a run, as it is and in 8 bits; return which tasks were left out, and why."""
        place = self.place / name
        with self.watch.working(f"{name}: exporting"):
            left_out = run.export(place, rows=self.shown.table).manifest.left_out
        self.made[name] = Made(how, ORIGINAL if trained is None else name, place, trained)
        if self.int8:
            self._quantise(name, "int8" if trained is None else f"{name}-int8")
        return left_out

    def _quantise(self, name: str, small: str) -> None:
        made, rows = self.made[name], self.shown.table.slice(0, CHECKED_ROWS)
        assert made.place is not None
        place = self.place / small
        with self.watch.working(f"{small}: quantising"):
            try:
                ExportedModel(made.place).rewritten(place, quantise_onnx, weights="int8", rows=rows)
            except ConfigurationError as error:  # so small that there is nothing to gain
                self.notes.append(f"There is no {small}: {error}")
                return
        self.made[small] = dataclasses.replace(made, how=f"`{name}` with weights of 8 bits", place=place)
