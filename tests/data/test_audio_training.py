"""A training on recordings: interrupted within an epoch and resumed, it equals one that was not, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lepton.audio import LogMel
from lepton.data import AudioLoader, AudioRows, AugmentAudio
from lepton.nn import LeptonModel
from lepton.tasks import Classification, Regression
from lepton.train import Trainer, TrainState
from tests.conftest import Interrupt

soundfile = pytest.importorskip("soundfile", reason="needs the extra audio")

RATE = 8000


class Ear(nn.Module):
    """The mean of the frames that belong to the recording, through one layer and dropout."""

    out_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.front = LogMel(RATE, mels=16)
        self.layer = nn.Linear(16, 12)

    def forward(self, waveform: Tensor, samples: Tensor) -> Tensor:
        log_mel = (self.front(waveform) + 5) / 2
        filled = torch.arange(log_mel.shape[1]) < self.front.frames(samples)[:, None]
        mean = (log_mel * filled[..., None]).sum(1) / filled.sum(1, keepdim=True)
        return torch.dropout(torch.relu(self.layer(mean)), 0.2, self.training)


@pytest.fixture
def rows(tmp_path: Path) -> AudioRows:
    draw = np.random.default_rng(0)
    paths, pitches = [tmp_path / f"{row}.flac" for row in range(24)], draw.uniform(200, 2000, 24)
    for path, pitch in zip(paths, pitches, strict=True):
        samples = int(draw.integers(800, 2400))
        noise = 0.02 * draw.normal(size=samples)
        soundfile.write(path, 0.2 * np.sin(2 * np.pi * pitch * np.arange(samples) / RATE) + noise, RATE)
    targets = {
        "high": torch.from_numpy(pitches > 1000).long(),
        "pitch": torch.from_numpy(np.log(pitches)).float(),
    }
    return AudioRows(paths, sample_rate=RATE, max_seconds=1.0, targets=targets, cache_bytes=10**6)


def train(rows: AudioRows, folder: Path | None, workers: int, stop: bool = False) -> tuple[LeptonModel, TrainState]:
    torch.manual_seed(3)
    tasks = [Classification("high", classes=2), Regression("pitch", mean=6.8, std=0.6)]
    model = LeptonModel(Ear(), tasks)
    loader = AudioLoader(rows, 5, shuffle=True, seed=2, augment=AugmentAudio(speed=0.02), workers=workers)
    callbacks = [Interrupt(7)] if stop else []
    resume = "auto" if folder is not None and not stop else None
    options = {"max_epochs": 12, "learning_rate": 0.03, "folder": folder, "callbacks": callbacks}
    return model, Trainer(model, resume_from_checkpoint=resume, **options).fit(loader, AudioLoader(rows, 10))


def test_recordings_are_learned_and_a_training_goes_on_within_an_epoch(rows: AudioRows, tmp_path: Path) -> None:
    model, state = train(rows, None, 0)
    assert state.history[-1]["val/high/accuracy"] > 0.9
    with pytest.raises(KeyboardInterrupt):
        train(rows, tmp_path / "run", 2, stop=True)
    again, found = train(rows, tmp_path / "run", 0)
    assert found.step == state.step == 60
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
