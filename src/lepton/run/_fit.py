"""`fit`: rows and targets to a trained run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton.balance import Balancer
from lepton.config import Config, Source, check_config, content_of, snake_case
from lepton.errors import ConfigurationError
from lepton.run._run import Run
from lepton.run._train import train_run

__all__ = ["default_folder", "fit", "make_config", "override_config"]


def fit(
    source: Any,
    targets: Sequence[str] | Mapping[str, Any],
    *,
    inputs: Mapping[str, str] | None = None,
    ignore: Iterable[str] = (),
    kinds: Mapping[str, str] | None = None,
    date_formats: Mapping[str, str] | None = None,
    data: Mapping[str, Any] | None = None,
    split: Mapping[str, Any] | None = None,
    val: Any = None,
    test: Any = None,
    trunk: str | Mapping[str, Any] = "auto",
    balance: str | Mapping[str, Any] = "equal",
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    trust: bool = False,
    quiet: bool = False,
) -> Run:
    """Train one model that predicts several columns of a table.

    What the columns hold and what kind of task each target is are inferred and said; every decision can be changed.

    Args:
        source: a path to CSV, Parquet or JSON lines, a folder of images or recordings, a DataFrame, a pyarrow Table, or
            a mapping of columns; see `lepton.data.read_table`.
        targets: columns to predict; or a mapping from names of tasks to a kind such as `"regression"`, or to options,
            `{"churn": {"type": "classification", "label_smoothing": 0.1}}`.
        inputs: column -> kind, for those to read; by default all that are no targets.
        ignore: columns that are not to be read.
        kinds: column -> kind, where inference is wrong.
        date_formats: column -> what its dates look like, as `strptime` says it, such as `"%d/%m/%Y"`; by default found
            out, but it need not be plain whether day or month comes first.
        data: further options of the section `data`, such as `{"augment": False, "image_size": [64, 64]}` or, for
            recordings, `{"sample_rate": 16000, "max_seconds": 10}`.
        split: options of the split, `{"method": "group", "column": "patient"}`; see `lepton.data.SplitRule`.
        val: path of another table for validation, instead of a share of the rows.
        test: path of another table for the test.
        trunk: the shared part: a name, or a mapping with `type` and options.
        balance: how the tasks are weighed: a name such as `"cagrad"`, or a mapping with `method` and options.
        training: options of the training loop, such as `{"max_epochs": 20, "learning_rate": 1e-3}`; see
            `lepton.Trainer`.
        seed: fixes initial weights and order.
        folder: where the run is written; a number is added if it is taken. By default `runs/` and the source's name.
        trust: whether classes of your own that `trunk` or `targets` name may be imported, which runs their code.
        quiet: print nothing.

    Returns:
        The run: `run.predict(rows)`, `run.evaluate()`, `run.plot.weights()`.

    Raises:
        DataError: nothing can be learned from the rows, with the reason.
        ConfigurationError: an option that is not allowed.

    Example:
        >>> import tempfile, lepton
        >>> rows = {"size": list(range(60)), "kind": ["a", "b", "c"] * 20}
        >>> rows["price"] = [2.0 * size + 1 for size in rows["size"]]
        >>> with tempfile.TemporaryDirectory() as place:
        ...     run = lepton.fit(rows, ["price", "kind"], training={"max_epochs": 1}, folder=place + "/run", quiet=True)
        ...     list(run.predict({"size": [3]}).columns)[:3]
        ['price', 'kind', 'kind_probability_a']
    """
    config = make_config(
        source=str(source) if isinstance(source, (str, Path)) else None,
        targets=targets,
        data={
            "inputs": None if inputs is None else {str(name): kind for name, kind in inputs.items()},
            "ignore": [ignore] if isinstance(ignore, str) else [str(name) for name in ignore],
            "kinds": {str(name): kind for name, kind in (kinds or {}).items()},
            "date_formats": {str(name): form for name, form in (date_formats or {}).items()},
            "split": split,
            "val": val,
            "test": test,
            **(data or {}),
        },
        rest={"trunk": trunk, "balance": balance, "training": dict(training or {}), "seed": seed},
    )
    wanted = Path(folder) if folder is not None else default_folder(config)
    return train_run(config, wanted, source=source, trust=trust, quiet=quiet)


def make_config(
    *, source: str | None, targets: Sequence[str] | Mapping[str, Any], data: Mapping[str, Any], rest: Mapping[str, Any]
) -> Config:
    """Return the checked configuration of arguments; those that are None are left at their defaults.

    Args:
        source: path of the rows; None for rows in memory.
        targets: columns to predict, or tasks with their options, as in `fit`.
        data: further keys of the section `data`.
        rest: the other sections.

    Raises:
        ConfigurationError: no target is named, or an option is not allowed.
    """
    if isinstance(targets, str):
        raise ConfigurationError(f"targets must be a list of columns, [{targets!r}], not one string.")
    if isinstance(rest.get("balance"), Balancer):
        name = snake_case(type(rest["balance"]).__name__)
        raise ConfigurationError(
            f'balance must be something that can be written into the run: balance="{name}", or with options '
            f'balance={{"method": "{name}", ...}}; balancer objects go into LeptonModel.'
        )
    targets = targets if isinstance(targets, Mapping) else list(targets)
    if not targets:
        raise ConfigurationError("targets names no column: there is nothing to predict.")
    section = {
        "source": source,
        **{key: str(value) if isinstance(value, Path) else value for key, value in data.items()},
    }
    given = {key: value for key, value in section.items() if value is not None}
    return check_config({"data": given, "tasks": targets, **rest})


def override_config(config: Config, assignments: Sequence[str]) -> Config:
    """Return the configuration with assignments applied.

    Args:
        config: the configuration.
        assignments: `section.key=value`; the later ones win.

    Raises:
        ConfigurationError: an unknown key, or a value that is not allowed.
    """
    if not assignments:
        return config
    source = Source("the configuration", content_of(config), None)
    for assignment in assignments:
        source.override(assignment)
    return check_config(source.content, source)


def default_folder(config: Config) -> Path:
    """Return `runs/` and the name of the source."""
    source = "-".join(config.data.sources) if config.data.sources else config.data.source
    return Path("runs") / (Path(source).name.split(".")[0] if source else "run")
