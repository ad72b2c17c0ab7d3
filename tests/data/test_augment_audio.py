"""AugmentAudio: what each option does to a recording, and that seed, epoch and batch fix it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lepton.audio import LogMel
from lepton.data import AudioLoader, AudioRows, AugmentAudio
from lepton.errors import ConfigurationError

RATE = 8000


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tones(*samples: int) -> list[Tensor]:
    return [torch.sin(2 * torch.pi * 500 * torch.arange(n) / RATE) for n in samples]


def same(first: object, second: object) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


def pitch(waveform: Tensor) -> float:
    """The strongest frequency in hertz."""
    padded = 1 << 16
    return float(torch.fft.rfft(waveform * torch.hann_window(len(waveform)), padded).abs().argmax()) * RATE / padded


# -- ends -------------------------------------------------------------------------------------------------------------
def test_ends_gain_silence_or_lose_samples() -> None:
    before = [0.1 + torch.rand(4000, generator=draws(row)) for row in range(300)]
    after = AugmentAudio(noise=None, shift=0.02, speed=0).move(before, RATE, generator=draws())
    starts, ends = [], []
    for old, new in zip(before, after, strict=True):
        filled = new.nonzero()
        silence, end = int(filled[0]), int(filled[-1]) + 1
        cut = int((old == new[silence]).nonzero()[0])
        same(new[silence:end], old[cut : cut + end - silence])  # what is left is a piece of the old one
        assert not (silence and cut)
        starts.append(silence - cut)
        ends.append(len(new) - len(old) - starts[-1])
        assert (len(new) > end) == (ends[-1] > 0)
    for shifts in (starts, ends):  # 0.02 s are 160 samples
        assert -160 <= min(shifts) < -140
        assert 140 < max(shifts) <= 160
        assert abs(sum(shifts) / 300) < 20
    assert abs(np.corrcoef(starts, ends)[0, 1]) < 0.2


def test_a_short_recording_keeps_four_fifths() -> None:
    augment = AugmentAudio(noise=None, shift=1.0, speed=0)
    lengths = [len(row) for row in augment.move(tones(*[100] * 200), RATE, generator=draws())]
    assert min(lengths) == 80
    assert max(lengths) > 8000
    assert {len(row) for row in augment.move([torch.ones(1)] * 20, RATE, generator=draws()) if len(row) < 2} <= {1}


# -- pace -------------------------------------------------------------------------------------------------------------
def test_one_pace_for_a_batch_changes_length_and_pitch_alike() -> None:
    augment = AugmentAudio(noise=None, shift=0, speed=0.2)
    factors = set()
    for seed in range(30):
        first, second = augment.move(tones(8000, 5000), RATE, generator=draws(seed))
        factor = round(100 * 8000 / len(first)) / 100
        factors.add(factor)
        assert len(first) == -(-8000 // factor) or abs(len(first) - 8000 / factor) <= 1
        assert abs(len(second) - 5000 / factor) <= 1
        (alone,) = augment.move(tones(5000), RATE, generator=draws(seed))
        torch.testing.assert_close(second, alone, rtol=0, atol=1e-5)
        assert pitch(first[500:-500]) == pytest.approx(500 * factor, rel=0.005)
        assert pitch(second[500:-500]) == pytest.approx(500 * factor, rel=0.005)
    assert len(factors) > 10
    assert 0.8 <= min(factors) < 0.9
    assert 1.1 < max(factors) <= 1.2


# -- noise ------------------------------------------------------------------------------------------------------------
def test_noise_has_the_ratio_that_was_drawn() -> None:
    waveform = 0.1 * torch.stack(tones(*[8000] * 100))
    samples = torch.full((100,), 8000)
    samples[0], waveform[0, 3000:], waveform[1] = 3000, 0.0, 0.0
    noisy = AugmentAudio(noise=(10, 30)).disturb(waveform, samples, generator=draws())
    assert (noisy[0, 3000:] == 0).all()
    assert (noisy[1] == 0).all()  # silence has no level to which a ratio could be held
    ratio = 10 * (waveform[2:].square().mean(1) / (noisy - waveform)[2:].square().mean(1)).log10()
    assert ratio.min() > 9.5
    assert ratio.max() < 30.5
    assert ratio.min() < 12 < 28 < ratio.max()
    same(AugmentAudio(noise=None).disturb(waveform, samples, generator=draws()), waveform)


def test_draws_of_one_option_do_not_depend_on_the_others() -> None:
    batch = tones(2000, 1000)
    shifted = AugmentAudio(noise=None, shift=0.05, speed=0).move(batch, RATE, generator=draws())
    noisy = draws()
    also = AugmentAudio(noise=(5, 10), shift=0.05, speed=0.0).move(batch, RATE, generator=noisy)
    same(shifted, also)
    still, moved = draws(), draws()
    AugmentAudio(shift=0, speed=0).move(batch, RATE, generator=still)
    AugmentAudio(shift=0.05, speed=0.2).move(batch, RATE, generator=moved)
    same(still.get_state(), moved.get_state())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": (10,)}, "noise must be the least and the greatest ratio"),
        ({"noise": (20, 10)}, "noise"),
        ({"noise": ("a", "b")}, "noise"),
        ({"noise": 10}, "noise"),
        ({"shift": -0.1}, "shift"),
        ({"speed": 1.0}, "speed"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"AugmentAudio: {words}"):
        AugmentAudio(**options)


# -- in a loader ------------------------------------------------------------------------------------------------------
@pytest.fixture
def rows(tmp_path: Path) -> AudioRows:
    soundfile = pytest.importorskip("soundfile", reason="needs the extra audio")
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{row}.wav" for row in range(6)]
    for row, path in enumerate(paths):
        soundfile.write(path, generator.normal(0, 0.05, 600 + 100 * row), RATE)
    front_ends = {"spoken": LogMel(RATE, mels=20)}
    targets = {"row": torch.arange(6)}
    return AudioRows(paths, sample_rate=RATE, max_seconds=5, targets=targets, front_ends=front_ends, cache_bytes=10**6)


def test_augmented_batches_depend_on_seed_and_epoch_alone(rows: AudioRows) -> None:
    def loader(workers: int = 0, seed: int = 0) -> AudioLoader:
        return AudioLoader(rows, 2, seed=seed, augment=AugmentAudio(), workers=workers)

    one, two, three = loader(), loader(), loader(workers=2)
    first, second = [*one], [*one]
    same([*two], first)
    same([*three], first)
    same([*three], second)
    assert not torch.equal(first[0][0]["waveform"], second[0][0]["waveform"])
    assert not torch.equal(first[0][0]["waveform"], next(iter(loader(seed=1)))[0]["waveform"])
    resumed = loader()
    resumed.load_state_dict({"epoch": 1, "batch": 2})
    same([*resumed], second[2:])
    plain = [*AudioLoader(rows, 2)]
    same([*AudioLoader(rows, 2)], plain)  # what is kept in memory has not changed


def test_targets_of_front_ends_follow_pace_and_ends_but_not_noise(rows: AudioRows) -> None:
    noisy = [*AudioLoader(rows, 3, augment=AugmentAudio(noise=(0.0, 5.0), shift=0.02, speed=0.1))]
    clean = [*AudioLoader(rows, 3, augment=AugmentAudio(noise=None, shift=0.02, speed=0.1))]
    front = LogMel(RATE, mels=20)
    for (loud, spoken), (quiet, same_spoken) in zip(noisy, clean, strict=True):
        same(spoken["spoken"], same_spoken["spoken"])
        same(loud["samples"], quiet["samples"])
        for place, samples in enumerate(quiet["samples"].tolist()):
            expected = front(quiet["waveform"][place, :samples])
            found = spoken["spoken"][place]
            torch.testing.assert_close(found[: len(expected)], expected, rtol=1e-4, atol=1e-4)
            assert found[len(expected) :].isnan().all()
            assert (front(loud["waveform"][place, :samples]) - expected).abs().mean() > 0.05
