"""What this machine and this installation can do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

import lepton
from lepton.errors import install_line

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Diagnosis", "diagnose"]

CORE = ("torch", "numpy", "pyarrow", "pydantic", "safetensors", "torchmetrics", "pillow", "rich", "typer", "pyyaml")
EXTRAS = {
    "pandas": "tables",
    "scikit-learn": "sklearn",
    "matplotlib": "plot",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
"""Distribution -> extra that brings it."""

Status = Literal["ok", "missing", "warning"]


@dataclass(frozen=True)
class Observation:
    """One thing that was looked at."""

    what: str
    status: Status
    words: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was looked at.

    Attributes:
        findings: one for each thing.
    """

    findings: tuple[Observation, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; a missing extra is not."""
        return all(finding.status != "warning" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"healthy": self.healthy, "findings": [asdict(finding) for finding in self.findings]}

    def table(self) -> Table:
        """Return a table for the terminal."""
        from rich.markup import escape
        from rich.table import Table

        marks = {"ok": "[green]ok[/]", "missing": "[dim]not installed[/]", "warning": "[yellow]look at this[/]"}
        table = Table(title="environment", title_justify="left", show_header=False)
        for finding in self.findings:
            table.add_row(finding.what, marks[finding.status], escape(finding.words))
        return table


def diagnose(*, attempts: bool = True) -> Diagnosis:
    """Look at versions, extras, devices, memory and disk, and try a training step and the compiler.

    Args:
        attempts: try things out; the compiler takes seconds.

    Example:
        >>> diagnose(attempts=False).findings[0].what
        'lepton'
    """
    tried = (_attempt("a training step", _step), _attempt("torch.compile", _compiled)) if attempts else ()
    return Diagnosis(
        (
            Observation(
                "lepton", "ok", f"{lepton.__version__}, Python {platform.python_version()}, {platform.platform()}"
            ),
            *(_distribution(name) for name in CORE),
            *(_extra(name, extra) for name, extra in EXTRAS.items()),
            *_devices(),
            _disk(),
            *tried,
        )
    )


def _distribution(name: str) -> Observation:
    try:
        return Observation(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Observation(name, "warning", "not installed, although Lepton needs it: pip install lepton-mtl")


def _extra(name: str, extra: str) -> Observation:
    try:
        return Observation(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Observation(name, "missing", install_line(extra))


def _devices() -> list[Observation]:
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    words = f"{cores} cores, {threads} threads used by torch"
    found = [Observation("processor", "ok" if threads <= cores else "warning", words)]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            found.append(Observation(f"cuda:{index}", "ok", f"{about.name}, {about.total_memory / 2**30:.0f} GiB"))
    else:
        found.append(Observation("accelerator", "missing", "none that torch can use; everything runs on the processor"))
    memory = _memory()
    if memory is not None:
        found.append(Observation("memory", "ok" if memory > 2 else "warning", f"{memory:.1f} GiB"))
    return found


def _memory() -> float | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _disk() -> Observation:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Observation("disk", "ok" if free > 1 else "warning", f"{free:.1f} GiB free here")


def _attempt(what: str, action: Callable[[], None]) -> Observation:
    start = time.perf_counter()
    try:
        action()
    except Exception as error:  # noqa: BLE001  # whatever is wrong here is what the doctor has to tell
        return Observation(what, "warning", f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
    return Observation(what, "ok", f"works, {time.perf_counter() - start:.1f} seconds")


def _step() -> None:
    from lepton.balance import MGDA
    from lepton.tasks import Regression

    model = lepton.LeptonModel(nn.Linear(4, 8), [Regression("a"), Regression("b")], balancer=MGDA())
    outputs, task_weights = model(torch.randn(8, 4))
    loss = lepton.MultiTaskLoss(model)(outputs, {"a": torch.randn(8), "b": torch.randn(8)}, task_weights)
    loss.backward()


def _compiled() -> None:
    torch.compile(nn.Linear(2, 2), fullgraph=True)(torch.ones(1, 2))
