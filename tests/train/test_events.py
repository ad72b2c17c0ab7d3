"""Events and what listens to them: order, dashboards, progress."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton.errors import ConfigurationError, MissingExtraError, install_line
from lepton.evaluate import TaskResult
from lepton.train import Callback, ConsoleProgress, MLflow, TensorBoard, TrainState, WeightsAndBiases
from lepton.train._progress import clock
from tests.train.conftest import StopAfter, loader, trainer


class Everything(Callback):
    """Writes down every event that comes."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __getattribute__(self, name: str):
        if name.startswith("on_"):
            return lambda *arguments: self._note(name, arguments)
        return super().__getattribute__(name)

    def _note(self, name: str, arguments) -> None:
        event = name.removeprefix("on_")
        self.seen.append(f"{event} {arguments[1].name}" if event == "checkpoint" else event)


def test_all_events_come_in_order(tmp_path) -> None:
    record = Everything()
    trainer(max_epochs=2, callbacks=[record], folder=tmp_path, monitor="val/slant/loss").fit(loader(32), loader(16))
    epoch = ["epoch_begin", "step_end", "step_end", "evaluate_end", "checkpoint best", "epoch_end", "checkpoint last"]
    assert record.seen == ["train_begin", *epoch, *epoch, "train_end"]


class Luck(Callback):
    """Gives every evaluation a score that no task measures."""

    def __init__(self, scores: list[float], columns: dict[str, bool]) -> None:
        self.scores = scores
        self.columns = columns

    def on_evaluate_end(self, state: TrainState, results: dict[str, TaskResult]) -> None:
        slant = results["slant"]
        score = self.scores[state.epoch - 1]
        results["slant"] = dataclasses.replace(slant, metrics={**slant.metrics, "luck": score})


@pytest.mark.parametrize(("better", "best", "last"), [(True, 2, 4), (False, 1, 3)])
def test_a_score_that_a_listener_gives_can_be_monitored(tmp_path, better: bool, best: int, last: int) -> None:
    """It selects and stops, the higher the better or the other way round: the best epoch, and two more."""
    luck = Luck([3.0, 5.0, 4.0, 4.5, 6.0], {"val/slant/luck": better})
    run = trainer(max_epochs=5, callbacks=[luck], folder=tmp_path, monitor="val/slant/luck", patience=2)
    state = run.fit(loader(32), loader(16))
    assert (state.best_value, state.epoch) == (luck.scores[best - 1], last)
    assert [row["val/slant/luck"] for row in rows_of(tmp_path)] == luck.scores[:last]
    kept = json.loads((tmp_path / "checkpoints" / "best" / "state.json").read_text())
    assert (kept["epoch"], kept["val/slant/luck"]) == (best, state.best_value)


def test_a_score_that_no_listener_gives_cannot_be_monitored() -> None:
    with pytest.raises(ConfigurationError, match="'val/slant/luck', which is no column of the metrics"):
        trainer(callbacks=[Luck([1.0], {})], monitor="val/slant/luck").fit(loader(32), loader(16))
    with pytest.raises(ConfigurationError, match=r"name \['val/slant/fate'\], but the results hold no such metric"):
        trainer(callbacks=[Luck([1.0], {"val/slant/fate": True})]).fit(loader(32), loader(16))


def test_an_interruption_is_told_after_the_checkpoint(tmp_path) -> None:
    class Press(Callback):
        def on_step_end(self, state, result) -> None:
            if state.step == 1:
                os.kill(os.getpid(), signal.SIGINT)

    record = Everything()
    with pytest.raises(KeyboardInterrupt):
        trainer(max_epochs=2, callbacks=[Press(), record], folder=tmp_path).fit(loader(32))
    assert record.seen == ["train_begin", "epoch_begin", "step_end", "checkpoint last", "interrupt", "train_end"]


def test_a_callback_may_stop_the_training() -> None:
    run = trainer(max_epochs=5, callbacks=[StopAfter(8)])
    state = run.fit(loader(), loader(48, seed=1))
    assert (state.step, state.epoch, state.stopped) == (8, 2, "8 steps are enough")
    assert "val/relative_loss" in state.history[-1]


def test_an_epoch_that_was_stopped_need_not_have_seen_every_task() -> None:
    batches = list(loader(32))
    x, targets = batches[0]
    batches[0] = (x, {name: target for name, target in targets.items() if name != "slant"})
    run = trainer(callbacks=[StopAfter(1)])
    for name in ("slant", "width"):
        run.model.task(name).fit_statistics(targets[name])
    assert math.isnan(run.fit(batches).history[0]["train/slant/loss"])


# -- dashboards ---------------------------------------------------------------------------------------------------
def rows_of(folder) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_holds_the_rows_under_their_keys(tmp_path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(max_epochs=2, folder=tmp_path, loggers=["tensorboard"]).fit(loader(32), loader(16))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = rows_of(tmp_path)
    assert set(events.Tags()["scalars"]) == set(rows[0])
    for key in rows[0]:
        found = [(event.step, event.value) for event in events.Scalars(key)]
        assert found == [(row["step"], pytest.approx(row[key], rel=1e-6)) for row in rows]


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of wandb's file, whose format is LevelDB's log after a header of 7 bytes."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the rest of a block, too short for a record's head
            place += 32768 - place % 32768
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


def wandb_history(path: Path) -> list[dict[str, float]]:
    from wandb.proto import wandb_internal_pb2

    found = []
    for content in log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found


def test_wandb_offline_holds_the_rows_under_their_keys(tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trainer(max_epochs=2, folder=tmp_path, loggers=["wandb"]).fit(loader(32), loader(16))
    (path,) = (tmp_path / "wandb").rglob("*.wandb")
    rows = rows_of(tmp_path)
    deadline = time.monotonic() + 30
    # Another process writes the file, and may be at it after the run has ended.
    while len(found := wandb_history(path)) < len(rows) and time.monotonic() < deadline:
        time.sleep(0.2)
    for seen, row in zip(found, rows, strict=True):
        assert {key: seen[key] for key in row} == pytest.approx(row)


def test_mlflow_holds_the_rows_under_their_keys(tmp_path, monkeypatch) -> None:
    for module in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(module, reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    trainer(max_epochs=2, folder=tmp_path, loggers=["mlflow"]).fit(loader(32), loader(16))
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path.resolve()}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("lepton")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    rows = rows_of(tmp_path)
    for key in rows[0]:
        found = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))
        assert found == [(row["step"], pytest.approx(row[key])) for row in rows]


def test_loggers_by_name() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'tensorboard'"):
        trainer(loggers=["tensorbord"], folder="unused-by-this-test")
    with pytest.raises(ConfigurationError, match="need a folder"):
        trainer(loggers=["tensorboard"])


@pytest.mark.parametrize(
    ("module", "kind"), [("tensorboard", TensorBoard), ("wandb", WeightsAndBiases), ("mlflow", MLflow)]
)
def test_a_missing_extra_is_named(module: str, kind, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=re.escape(install_line(module))):
        kind(tmp_path)


# -- progress -----------------------------------------------------------------------------------------------------
class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    progress = ConsoleProgress(["digit", "slant", "width"], stream=stream, line_interval=0.0)
    trainer(max_epochs=2, callbacks=[progress, StopAfter(5)]).fit(loader(64), loader(16))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("epoch 1, step 1 of 8, 0:0")
    assert "left: digit" in lines[0]
    assert lines[4].startswith("epoch 1, step 4 of 8: digit")
    assert "val" in lines[4]
    assert lines[-1] == "stopped: 5 steps are enough"
    assert "\x1b" not in stream.getvalue()


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    trainer(max_epochs=2, callbacks=[ConsoleProgress(["digit", "slant", "width"], stream=stream, interval=0.0)]).fit(
        loader(64)
    )
    shown = stream.getvalue()
    assert "epoch 2, step 8 of 8" in shown.replace("\n", " ")
    assert "\x1b[" in shown


def test_of_many_tasks_the_first_are_shown() -> None:
    stream = io.StringIO()
    names = [f"task{place}" for place in range(20)]
    ConsoleProgress(names, stream=stream).on_epoch_end(TrainState(), {f"train/{name}/loss": 1.0 for name in names})
    assert stream.getvalue().endswith("task7 1; and 12 more\n")


def test_progress_is_an_option(capfd) -> None:
    trainer(max_epochs=1, progress=True).fit(loader(32))
    found = capfd.readouterr()
    assert "epoch 1, step 2 of 2: digit" in found.err
    assert found.out == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (75, "1:15"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_progress_after_a_resumption_counts_the_new_steps_only() -> None:
    stream = io.StringIO()
    progress = ConsoleProgress(["a"], stream=stream, line_interval=0.0)
    progress.on_train_begin(TrainState(step=100, max_steps=102))
    progress._begun -= 1.0  # a second for the next step
    import torch

    from lepton.train import StepResult

    one = torch.ones(1)
    progress.on_step_end(TrainState(step=101, max_steps=102), StepResult(one, one.bool(), one, one, True, ~one.bool()))
    assert "0:01 left" in stream.getvalue()
