"""A training that was interrupted and resumed equals one that was not, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lepton
from lepton.balance import DynamicWeightAverage, Equal, LearnedWeights, PCGrad
from lepton.data import TensorData, TensorLoader
from lepton.errors import CheckpointError, ConfigurationError
from lepton.tasks import Classification, Regression
from lepton.train import Callback, Trainer, load_weights
from tests.conftest import Lagging, make_batch
from tests.train.conftest import StopAfter, loader, state_equal, timeless, trainer


def noisy_model(balancer) -> lepton.LeptonModel:
    """Dropout and BatchNorm: the generators and the buffers must go on as well."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 8))
    tasks = [Classification("digit", 3), Regression("slant"), Regression("width", outputs=2)]
    return lepton.LeptonModel(trunk, tasks, balancer=balancer)


def table() -> TensorData:
    return TensorData(*make_batch(96))


def batches() -> TensorLoader:
    return TensorLoader(table(), 16, shuffle=True, seed=3)


class Interrupt(Callback):
    """Sends a signal to this process after so many steps."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number
        self.interrupted = 0

    def on_step_end(self, state, result) -> None:
        if state.step == self.step:
            os.kill(os.getpid(), self.number)

    def on_interrupt(self, state) -> None:
        self.interrupted += 1


def uninterrupted(make, options, train=batches):
    model = noisy_model(make())
    torch.manual_seed(7)
    return model, Trainer(model, **options).fit(train(), loader(48, seed=1))


def interrupted(make, options, folder: Path, step: int, train=batches):
    """Stop with Ctrl-C after a step, and go on with everything new."""
    first = Trainer(noisy_model(make()), folder=folder, callbacks=[Interrupt(step)], **options)
    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt):
        first.fit(train(), loader(48, seed=1))
    model = noisy_model(make())
    torch.manual_seed(99)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()  # nothing of the beginning may be left to help
    resumed = Trainer(model, folder=folder, resume_from_checkpoint="auto", **options)
    return model, resumed.fit(train(), loader(48, seed=1))


BALANCERS = [Equal, PCGrad, Lagging, lambda: DynamicWeightAverage(window=4), LearnedWeights]


@pytest.mark.parametrize("step", [9, 12], ids=["within_an_epoch", "at_its_end"])
@pytest.mark.parametrize("make", BALANCERS, ids=["equal", "pcgrad", "lagging", "dwa", "learned"])
def test_interrupted_and_resumed_equals_uninterrupted(make, step: int, tmp_path) -> None:
    options = {"max_epochs": 4, "learning_rate": 0.02}
    model, state = uninterrupted(make, options)
    again, found = interrupted(make, options, tmp_path, step)
    assert state_equal(model, again)
    assert timeless(found.history) == timeless(state.history)
    assert (found.step, found.epoch, found.best_value) == (state.step, state.epoch, state.best_value)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "schedule": "one_cycle"},
        {"optimizer": "rmsprop", "schedule": "plateau", "plateau_patience": 0},
        {"average": "ema", "average_decay": 0.8},
        {"average": "swa", "average_start": 0.3},
        {"precision": "bf16-mixed", "adaptive_clip": 0.05},
        {"precision": "fp16-mixed", "learning_rates": {"trunk": 0.01}},
        {"gradient_accumulation_steps": 4, "max_steps": 5},
    ],
    ids=["one_cycle", "plateau", "ema", "swa", "bf16", "fp16", "accumulation"],
)
def test_whatever_the_options(options, tmp_path) -> None:
    options = {"max_epochs": 4, "learning_rate": 0.02} | options
    step = 3 if "gradient_accumulation_steps" in options else 9
    model, state = uninterrupted(Lagging, options)
    again, found = interrupted(Lagging, options, tmp_path, step)
    assert state_equal(model, again)
    assert timeless(found.history) == timeless(state.history)


class Pairs(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.rows = TensorDataset(table().inputs, *table().targets.values())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int):
        x, digit, slant, width = self.rows[place]
        return x + 0.1 * torch.randn(6), {"digit": digit, "slant": slant, "width": width}


@pytest.mark.parametrize("step", [9, 12])
def test_a_plain_data_loader_resumes_too(step: int, tmp_path) -> None:
    def train() -> DataLoader:
        return DataLoader(Pairs(), 16, shuffle=True)  # order and noise from torch's own generator

    options = {"max_epochs": 3}
    model, state = uninterrupted(Lagging, options, train)
    again, found = interrupted(Lagging, options, tmp_path, step, train)
    assert state_equal(model, again)
    assert timeless(found.history) == timeless(state.history)


def test_a_resumed_training_may_go_further(tmp_path) -> None:
    first = trainer(folder=tmp_path, max_epochs=2)
    first.fit(loader(), loader(48, seed=1))
    more = trainer(folder=tmp_path, max_epochs=4, resume_from_checkpoint=tmp_path / "checkpoints" / "last")
    state = more.fit(loader(), loader(48, seed=1))
    assert (state.epoch, state.step) == (4, 24)
    assert [row["epoch"] for row in state.history] == [1, 2, 3, 4]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_training_that_is_over_is_not_trained_again(tmp_path) -> None:
    first = trainer(folder=tmp_path, max_epochs=2)
    first.fit(loader(), loader(48, seed=1))
    again = trainer(folder=tmp_path, max_epochs=2, resume_from_checkpoint="auto")
    assert again.fit(loader(), loader(48, seed=1)).step == 12
    assert state_equal(first.model, again.model)


def test_auto_begins_anew_where_there_is_nothing(tmp_path) -> None:
    assert trainer(folder=tmp_path, max_epochs=1, resume_from_checkpoint="auto").fit(loader()).step == 6
    with pytest.raises(ConfigurationError, match="looks in the run's folder"):
        trainer(max_epochs=1, resume_from_checkpoint="auto").fit(loader())


def test_checkpoint_every(tmp_path) -> None:
    seen = []

    class Steps(Callback):
        def on_checkpoint(self, state, folder) -> None:
            if folder.name == "last":
                seen.append(state.step)

    trainer(folder=tmp_path, max_epochs=2, checkpoint_every=2, callbacks=[Steps()]).fit(loader())
    assert seen == [2, 4, 6, 8, 10, 12]


def test_ctrl_c_ends_the_step_writes_last_and_is_raised(tmp_path) -> None:
    stop = Interrupt(4)
    before = signal.getsignal(signal.SIGINT)
    run = trainer(folder=tmp_path, max_epochs=2, callbacks=[stop])
    with pytest.raises(KeyboardInterrupt):
        run.fit(loader())
    assert run.state.step == 4
    assert stop.interrupted == 1
    assert signal.getsignal(signal.SIGINT) is before
    again = trainer()
    load_weights(tmp_path / "checkpoints" / "last", again.model)
    assert state_equal(run.model, again.model)


def test_sigterm_exits_with_143(tmp_path) -> None:
    with pytest.raises(SystemExit) as exit_:
        trainer(folder=tmp_path, callbacks=[Interrupt(4, signal.SIGTERM)]).fit(loader())
    assert exit_.value.code == 143
    assert (tmp_path / "checkpoints" / "last" / "model.safetensors").exists()


def test_a_second_ctrl_c_acts_at_once(tmp_path) -> None:
    class Twice(Callback):
        after = False

        def on_step_end(self, state, result) -> None:
            before = signal.getsignal(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            deadline = time.monotonic() + 30
            while signal.getsignal(signal.SIGINT) is before and time.monotonic() < deadline:
                time.sleep(0.001)  # two signals at once may arrive as one
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)  # until the second arrives
            self.after = True

    twice = Twice()
    with pytest.raises(KeyboardInterrupt):
        trainer(folder=tmp_path, callbacks=[twice]).fit(loader())
    assert not twice.after


def test_weights_alone_cannot_be_resumed(tmp_path) -> None:
    trainer(folder=tmp_path, max_epochs=1).fit(loader(), loader(48, seed=1))
    with pytest.raises(CheckpointError, match="holds weights only"):
        trainer(resume_from_checkpoint=tmp_path / "checkpoints" / "best").fit(loader())


def test_another_training_cannot_be_resumed(tmp_path) -> None:
    trainer(folder=tmp_path, max_epochs=1).fit(loader())
    last = tmp_path / "checkpoints" / "last"
    with pytest.raises(CheckpointError, match="cannot be loaded into this model"):
        trainer(heads="own", resume_from_checkpoint=last).fit(loader())
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        trainer(resume_from_checkpoint=tmp_path / "nowhere").fit(loader())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"learning_rates": {"trunk": 0.1}}, "parameter group"),
        ({"optimizer": "sgd"}, "optimizer was AdamW and is SGD"),
        ({"schedule": "linear"}, "schedule was 'cosine' and is 'linear'"),
        ({"average": "ema"}, "average was 'none' and is 'ema'"),
        ({"precision": "fp16-mixed"}, "empty"),
    ],
)
def test_a_training_with_other_options_is_not_gone_on_from(options, match: str, tmp_path) -> None:
    trainer(folder=tmp_path, max_epochs=1).fit(loader())
    with pytest.raises(CheckpointError, match=rf"other options .*{match}"):
        trainer(resume_from_checkpoint=tmp_path / "checkpoints" / "last", **options).fit(loader())


def test_lost_best_weights_are_said_to_be_lost(tmp_path, caplog) -> None:
    trainer(folder=tmp_path, max_epochs=2).fit(loader(), loader(48, seed=1))
    (tmp_path / "checkpoints" / "best" / "model.safetensors").unlink()
    run = trainer(folder=tmp_path, max_epochs=3, resume_from_checkpoint="auto")
    state = run.fit(loader(), loader(48, seed=1))
    assert "The best weights so far are lost" in caplog.text
    assert state.best_step == 18


def test_a_stop_that_was_asked_for_is_resumed_from_there(tmp_path) -> None:
    state = trainer(folder=tmp_path, max_epochs=2, callbacks=[StopAfter(3)]).fit(loader(), loader(48, seed=1))
    assert (state.stopped, state.step, len(state.history)) == ("3 steps are enough", 3, 1)
    state = trainer(folder=tmp_path, max_epochs=2, resume_from_checkpoint="auto").fit(loader(), loader(48, seed=1))
    assert (state.stopped, state.step) == ("", 12)


KILLED = """
    import sys
    import torch
    from tests.train.test_resume import batches, noisy_model
    from tests.conftest import Lagging
    from tests.train.conftest import loader
    from lepton.train import Callback, Trainer

    class Say(Callback):
        def on_step_end(self, state, result):
            print(state.step, flush=True)

    model = noisy_model(Lagging())
    torch.manual_seed(7)
    Trainer(model, max_epochs=6, learning_rate=0.02, checkpoint_every=1, folder=sys.argv[1],
            callbacks=[Say()]).fit(batches(), loader(48, seed=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", range(2, 32, 3))
def test_killed_at_any_instant_and_resumed(step: int, tmp_path) -> None:
    """The process saves after every step, so that the signal usually falls into a save."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == step:
            process.kill()
    process.wait()
    options = {"max_epochs": 6, "learning_rate": 0.02}
    model, state = uninterrupted(Lagging, options)
    again = noisy_model(Lagging())
    found = Trainer(again, folder=tmp_path, resume_from_checkpoint="auto", **options).fit(batches(), loader(48, seed=1))
    assert state_equal(model, again)
    assert timeless(found.history) == timeless(state.history)
