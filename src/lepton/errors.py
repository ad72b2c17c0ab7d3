"""The exceptions that Lepton raises for its users.

    LeptonError
    ├── ConfigurationError   (ValueError)    a hyperparameter, a name or a combination that is not allowed
    ├── TargetError          (ValueError)    targets that do not fit their task
    ├── ForkError            (RuntimeError)  a graph or features that the fork cannot balance
    ├── DataError            (ValueError)    rows that cannot be turned into a batch
    ├── CheckpointError      (RuntimeError)  a checkpoint that is damaged or of another run
    ├── ExportError          (RuntimeError)  a model that cannot be exported, or an exported one that is damaged
    ├── TrainingError        (RuntimeError)  a training that cannot go on
    └── MissingExtraError    (ImportError)   an optional dependency that is not installed

Every one is a `LeptonError` and also the built-in exception that people would expect to catch.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import json
import numbers
import shlex
from collections.abc import Iterable, Sequence
from types import ModuleType

__all__ = [
    "CheckpointError",
    "ConfigurationError",
    "DataError",
    "ExportError",
    "ForkError",
    "LeptonError",
    "MissingExtraError",
    "TargetError",
    "TrainingError",
    "import_extra",
    "install_line",
    "is_number",
    "is_whole",
    "nearest",
    "require",
    "shape_of",
]


class LeptonError(Exception):
    """Root of every exception that Lepton raises on purpose."""


class ConfigurationError(LeptonError, ValueError):
    """A hyperparameter, a name or a combination of options that is not allowed.

    Args:
        message: what is wrong.
        where: the argument that is wrong, with those that it stands in before it; empty where it is not one.
    """

    def __init__(self, message: str = "", *, where: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.where = tuple(where)


class TargetError(LeptonError, ValueError):
    """Targets of a batch that do not fit the task they are meant for."""


class ForkError(LeptonError, RuntimeError):
    """A graph, a backward call or features that the fork cannot balance."""


class DataError(LeptonError, ValueError):
    """Rows that cannot be turned into a batch."""


class CheckpointError(LeptonError, RuntimeError):
    """A checkpoint that is damaged, incomplete or of another run."""


class ExportError(LeptonError, RuntimeError):
    """A model that cannot be exported, or an exported one that is damaged or incomplete."""


class TrainingError(LeptonError, RuntimeError):
    """A training that cannot go on."""


class MissingExtraError(LeptonError, ImportError):
    """An optional dependency that is not installed."""


_DISTRIBUTION = "lepton-mtl"
_PACKAGES = {"sklearn": "scikit-learn"}
"""Modules whose distribution has another name."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the spelling in `allowed` nearest to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(allowed), n=1)
    return f" Did you mean {match[0]!r}?" if match else ""


def is_number(value: object) -> bool:
    """Return whether `value` is a real number, which may be compared: not a text, a tensor, None or a bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: object, at_least: int = 1) -> bool:
    """Return whether `value` is an integer of at least `at_least`; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def shape_of(value: object) -> tuple[int, ...] | None:
    """Return the shape of a number, (), or of a rectangular nest or array of numbers; None for anything else."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(plain, (list, tuple)):
        return () if is_number(plain) else None
    shapes = {shape_of(item) for item in plain} or {()}
    inner = shapes.pop()
    return None if shapes or inner is None else (len(plain), *inner)


def require(holds: bool, owner: str, argument: str, value: object, allowed: str) -> None:
    """Raise a `ConfigurationError` that names the argument, its value and the allowed values, unless `holds`."""
    if not holds:
        raise ConfigurationError(f"{owner}: {argument} must be {allowed}, but it is {value!r}.", where=(argument,))


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or say which extra of Lepton brings it.

    Args:
        module: name of the module to import, for example `"matplotlib.pyplot"`.
        extra: the extra of the distribution that installs it, for example `"demo"`.
        purpose: what it is needed for, in a few words that complete "... needs".

    Raises:
        MissingExtraError: with the line that installs it.
    """
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs {_PACKAGES.get(top, top)!r}, which is not installed. "
            f"Install it with:  {install_line(extra)}"
        ) from error


def install_line(extra: str) -> str:
    """Return the command that installs an extra: of the distribution, or of the clone that is installed as editable.

    Args:
        extra: its name, for example `"demo"`.
    """
    clone = _clone()
    if clone is None:
        return f'pip install "{_DISTRIBUTION}[{extra}]"'
    return f'cd {shlex.quote(clone)} && pip install -e ".[{extra}]" -c constraints.txt'


def _clone() -> str | None:
    """Return the folder of the clone that is installed as editable; None for any other installation."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname  # which brings along half of the network code

    try:
        told = importlib.metadata.distribution(_DISTRIBUTION).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    about = json.loads(told or "{}")
    if not about.get("dir_info", {}).get("editable"):
        return None
    return url2pathname(urlsplit(about["url"]).path)
