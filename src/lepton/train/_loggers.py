"""Epochs' metrics to other people's dashboards, under the keys of `metrics.jsonl`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lepton.errors import ConfigurationError, import_extra, nearest
from lepton.train._events import Callback
from lepton.train._state import TrainState

__all__ = ["LoggerName", "MLflow", "TensorBoard", "WeightsAndBiases", "make_loggers"]

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
"""Dashboards that metrics can be sent to."""


class TensorBoard(Callback):
    """Writes each epoch's metrics as TensorBoard events; look at them with `tensorboard --logdir FOLDER`.

    Args:
        folder: where the event files go.

    Raises:
        MissingExtraError: the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path | str) -> None:
        import_extra("tensorboard", "tensorboard", "The TensorBoard logger")
        self.folder = Path(folder)
        self._writer: Any = None

    def on_train_begin(self, state: TrainState) -> None:
        """Open the event file; steps after the resumed one, from before an interruption, are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        purge = state.step + 1 if state.step else None
        self._writer = SummaryWriter(str(self.folder), purge_step=purge)

    def on_epoch_end(self, state: TrainState, row: dict[str, float]) -> None:
        """Write the row."""
        for key, value in row.items():
            self._writer.add_scalar(key, value, global_step=state.step)
        self._writer.flush()

    def on_train_end(self, state: TrainState) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases(Callback):
    """Sends each epoch's metrics to Weights & Biases; with `WANDB_MODE=offline` they stay in the folder.

    Args:
        folder: where wandb keeps its files.
        project: the project's name there.
        config: what describes the run.

    Raises:
        MissingExtraError: the extra `wandb` is not installed.
    """

    def __init__(self, folder: Path | str, *, project: str = "lepton", config: Mapping[str, Any] | None = None) -> None:
        self._wandb = import_extra("wandb", "wandb", "The Weights & Biases logger")
        self.folder = Path(folder)
        self.project = project
        self.config = dict(config or {})
        self._run: Any = None

    def on_train_begin(self, state: TrainState) -> None:
        """Begin a run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._run = self._wandb.init(project=self.project, dir=str(self.folder), config=self.config)

    def on_epoch_end(self, state: TrainState, row: dict[str, float]) -> None:
        """Send the row."""
        self._run.log(row, step=state.step)

    def on_train_end(self, state: TrainState) -> None:
        """End the run; one that stopped early says why in its summary."""
        if self._run is not None:
            if state.stopped:
                self._run.summary["stopped"] = state.stopped
            self._run.finish()


class MLflow(Callback):
    """Logs each epoch's metrics to MLflow: into a local data base, or where `MLFLOW_TRACKING_URI` points.

    Look at them with `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db`.

    Args:
        folder: where the local data base `mlflow.db` is.
        experiment: the experiment's name there.

    Raises:
        MissingExtraError: the extra `mlflow` is not installed.
    """

    def __init__(self, folder: Path | str, *, experiment: str = "lepton") -> None:
        self._mlflow = import_extra("mlflow", "mlflow", "The MLflow logger")
        self.folder = Path(folder)
        self.experiment = experiment
        self._client: Any = None
        self._run = ""

    def on_train_begin(self, state: TrainState) -> None:
        """Begin a run."""
        address, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not address:
            self.folder.mkdir(parents=True, exist_ok=True)
            folder = self.folder.resolve()
            address, artifacts = f"sqlite:///{folder}/mlflow.db", (folder / "artifacts").as_uri()
        self._client = self._mlflow.MlflowClient(address)
        found = self._client.get_experiment_by_name(self.experiment)
        number = found.experiment_id if found else self._client.create_experiment(self.experiment, artifacts)
        self._run = self._client.create_run(number).info.run_id

    def on_epoch_end(self, state: TrainState, row: dict[str, float]) -> None:
        """Log the row; MLflow takes finite numbers only."""
        for key, value in row.items():
            if math.isfinite(value):
                self._client.log_metric(self._run, key, value, step=state.step)

    def on_train_end(self, state: TrainState) -> None:
        """End the run."""
        if self._client is not None:
            if state.stopped:
                self._client.set_tag(self._run, "stopped", state.stopped)
            self._client.set_terminated(self._run)


def make_loggers(names: tuple[str, ...], folder: Path | None) -> list[Callback]:
    """Return the loggers of the given names, each with a folder of its own in a run's folder."""
    kinds: dict[str, type[TensorBoard] | type[WeightsAndBiases] | type[MLflow]] = {
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "mlflow": MLflow,
    }
    for name in names:
        if name not in kinds:
            raise ConfigurationError(
                f"Trainer: loggers may be {list(kinds)}, but {name!r} stands there.{nearest(str(name), kinds)}"
            )
    if names and folder is None:
        raise ConfigurationError(f"Trainer: loggers={list(names)} need a folder to write to: pass folder=...")
    return [] if folder is None else [kinds[name](folder / name) for name in names]
