"""Masks and noise: shares, ratios, padding and draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lepton.audio import add_noise, mask_spectrogram
from lepton.errors import ConfigurationError, DataError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def runs(row: Tensor) -> list[int]:
    """Lengths of the stretches of True."""
    words = "".join("x" if value else " " for value in row.tolist()).split()
    return [len(word) for word in words]


# -- masks --------------------------------------------------------------------------------------------------------
@settings(deadline=None)
@given(
    st.integers(0, 2**31), st.lists(st.integers(0, 90), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 3)
)
def test_masks_cover_no_more_than_their_shares(seed: int, lengths: list[int], times: int, bands: int) -> None:
    frames = torch.tensor(lengths)
    spectrogram = torch.randn(len(lengths), 90, 40, generator=seeded(seed + 1))
    found = mask_spectrogram(spectrogram, frames, times=times, bands=bands, generator=seeded(seed))
    for row, before, after in zip(lengths, spectrogram, found, strict=True):
        assert torch.equal(after[row:], before[row:])
        changed = (after != before)[:row]
        whole_frames, whole_bands = changed.all(1), changed.all(0)
        assert whole_frames.sum() <= times * int(0.15 * row)
        assert whole_bands.sum() <= bands * 6 or row == 0
        assert torch.equal(changed, whole_frames[:, None] | whole_bands[None, :])
        if changed.any():
            filled = before[:row]
            torch.testing.assert_close(
                after[:row][changed], filled.mean().expand(int(changed.sum())), rtol=0, atol=1e-5
            )


def test_widths_and_places_are_drawn_evenly() -> None:
    """One mask on 4000 equal rows of 100 frames: widths 0 to 15 alike, all frames but those at the ends alike."""
    spectrogram = torch.randn(1, 100, 2).expand(4000, 100, 2)
    changed = (
        mask_spectrogram(spectrogram, torch.full((4000,), 100), times=1, bands=0, generator=seeded()) != spectrogram
    ).all(-1)
    assert all(len(runs(row)) <= 1 for row in changed)
    counts = torch.bincount(changed.sum(1), minlength=16)
    assert len(counts) == 16
    assert ((counts - 250).abs() < 5 * 250**0.5).all()
    covered = changed.float().mean(0)
    assert torch.allclose(covered[15:85], covered[15:85].mean(), atol=0.02)
    assert 0 < covered[0] < covered[20]
    assert 0 < covered[99] < covered[20]


def test_bands_are_masked_in_filled_frames_only_and_rows_differ() -> None:
    spectrogram = torch.randn(50, 30, 64)
    found = mask_spectrogram(spectrogram, torch.full((50,), 20), times=0, bands=1, generator=seeded())
    changed = found != spectrogram
    assert not changed[:, 20:].any()
    assert torch.equal(changed[:, :20].any(1), changed[:, :20].all(1))
    assert len({tuple(row.tolist()) for row in changed[:, 0]}) > 30
    assert changed[:, 0].sum(1).max() == 9  # 15 % of 64


def test_the_mean_is_that_of_the_row_without_its_padding() -> None:
    spectrogram = torch.randn(1, 100, 4)
    spectrogram[:, 60:] = 1e6
    found = mask_spectrogram(spectrogram, torch.tensor([60]), times=3, bands=0, generator=seeded(3))
    changed = found != spectrogram
    assert changed.any()
    torch.testing.assert_close(found[changed], spectrogram[:, :60].mean().expand(int(changed.sum())))


def test_the_same_generator_masks_the_same() -> None:
    spectrogram, frames = torch.randn(3, 50, 20), torch.tensor([50, 30, 1])
    first = mask_spectrogram(spectrogram, frames, times=2, bands=2, generator=seeded(5))
    assert torch.equal(first, mask_spectrogram(spectrogram, frames, times=2, bands=2, generator=seeded(5)))
    assert not torch.equal(first, mask_spectrogram(spectrogram, frames, times=2, bands=2, generator=seeded(6)))
    torch.manual_seed(1)
    without = mask_spectrogram(spectrogram, frames, times=2, bands=2)
    torch.manual_seed(1)
    assert torch.equal(without, mask_spectrogram(spectrogram, frames, times=2, bands=2))
    assert torch.equal(mask_spectrogram(spectrogram, frames, times=0, bands=0), spectrogram)
    half = mask_spectrogram(spectrogram.half(), frames, times=2, bands=2)
    assert half.dtype == torch.float16


def test_masks_read_nothing_from_the_device() -> None:
    with FakeTensorMode():
        spectrogram, frames = torch.ones(3, 50, 20), torch.ones(3, dtype=torch.int64)
        assert mask_spectrogram(spectrogram, frames, times=2, bands=2).shape == (3, 50, 20)


def test_wrong_masks() -> None:
    spectrogram, frames = torch.zeros(2, 5, 3), torch.tensor([5, 5])
    for options in ({"times": -1, "bands": 0}, {"times": 0, "bands": 1.5}):
        with pytest.raises(ConfigurationError, match="must be a whole number, 0 or more"):
            mask_spectrogram(spectrogram, frames, **options)
    for wrong in ((spectrogram[0], frames), (spectrogram, frames[:1])):
        with pytest.raises(DataError, match=r"log_mel must be \[rows, frames, bands\]"):
            mask_spectrogram(*wrong, times=1, bands=1)


# -- noise --------------------------------------------------------------------------------------------------------
def test_the_ratio_holds_for_every_row() -> None:
    samples, ratio = torch.tensor([3000, 500, 1, 2999]), torch.tensor([0.0, 10.0, 20.0, -5.0])
    waveform = torch.randn(4, 3000) * (torch.arange(3000) < samples[:, None])
    noise = add_noise(waveform, samples, ratio, seeded()) - waveform
    found = 10 * (waveform.square().sum(1) / noise.square().sum(1)).log10()
    torch.testing.assert_close(found, ratio, rtol=0, atol=1e-2)
    assert all((noise[row, length:] == 0).all() for row, length in enumerate(samples.tolist()))


def test_the_noise_is_white_and_normal() -> None:
    waveform = torch.ones(1, 60000)
    noise = (add_noise(waveform, torch.tensor([60000]), torch.tensor([0.0]), seeded()) - waveform)[0].double()
    power = torch.fft.rfft(noise).abs().square()[:30000].unflatten(0, (10, 3000)).mean(1)
    assert ((power / power.mean() - 1).abs() < 0.1).all()
    assert (noise**4).mean().item() == pytest.approx(3, abs=0.15)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)


def test_silence_and_padding_stay_as_they_are() -> None:
    waveform = torch.zeros(2, 10)
    waveform[1, :4] = 0.5
    found = add_noise(waveform, torch.tensor([10, 4]), torch.tensor([0.0, 5.0]), seeded())
    assert torch.equal(found[0], waveform[0])
    assert torch.equal(found[1, 4:], waveform[1, 4:])
    assert (found[1, :4] != 0.5).all()
    none = add_noise(torch.zeros(1, 4), torch.tensor([0]), torch.tensor([5.0]), seeded())
    assert torch.equal(none, torch.zeros(1, 4))


def test_the_same_generator_draws_the_same_noise() -> None:
    waveform, samples, ratio = torch.randn(2, 100), torch.tensor([100, 50]), torch.tensor([5.0, 5.0])
    first = add_noise(waveform, samples, ratio, seeded(2))
    assert torch.equal(first, add_noise(waveform, samples, ratio, seeded(2)))
    assert not torch.equal(first, add_noise(waveform, samples, ratio, seeded(3)))


def test_noise_reads_nothing_from_the_device() -> None:
    with FakeTensorMode():
        found = add_noise(torch.ones(3, 50), torch.ones(3, dtype=torch.int64), torch.ones(3))
        assert found.shape == (3, 50)


def test_wrong_shapes_for_noise() -> None:
    one = torch.ones(1)
    for wrong in ((torch.ones(5), one, one), (torch.ones(2, 5), one, one), (torch.ones(1, 5), one, torch.ones(2))):
        with pytest.raises(DataError, match=r"snr_db \[rows\]"):
            add_noise(*wrong)
    with pytest.raises(DataError, match="add_noise: a waveform must be floating point"):
        add_noise(torch.ones(1, 5, dtype=torch.int16), one, one)
