"""AudioRows and AudioLoader: what a row holds, the memory that workers share, padding, order and position."""

from __future__ import annotations

import pickle
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lepton.audio import LogMel, level
from lepton.data import AudioEncoder, AudioLoader, AudioRows, read_audio, read_table
from lepton.data._audio_rows import WaveformCache
from lepton.errors import ConfigurationError, DataError

soundfile = pytest.importorskip("soundfile", reason="needs the extra audio")

RATE = 8000
LENGTHS = [700, 300, 1100, 500, 900, 310, 710]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Recordings of noise whose level rises, so that every sample tells which it is."""
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{row}.wav" for row in range(len(LENGTHS))]
    for path, samples in zip(paths, LENGTHS, strict=True):
        soundfile.write(path, generator.normal(0, 0.03, samples) * np.linspace(1, 2, samples), RATE)
    return paths


def make(paths: list[Path], **options: Any) -> AudioRows:
    rows = len(paths)
    said = torch.full((rows, 9), -100, dtype=torch.int16)
    for row in range(rows):
        said[row, : row + 1] = row + 1
    defaults: dict[str, Any] = {
        "sample_rate": RATE,
        "max_seconds": 20.0,
        "inputs": {"text": said.clamp(min=0)},
        "targets": {"said": said, "row": torch.arange(rows, dtype=torch.int32), "age": torch.arange(float(rows))},
        "front_ends": {"spoken": LogMel(RATE, mels=20)},
    }
    return AudioRows(paths, **{**defaults, **options})


def same(first: object, second: object) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


def order(loader: AudioLoader) -> list[list[int]]:
    return [targets["row"].tolist() for _, targets in loader]


# -- rows -------------------------------------------------------------------------------------------------------------
def test_a_row_is_its_recording_at_one_level_and_its_labels(files: list[Path]) -> None:
    inputs, targets = make(files)[-5]
    wave = read_audio(files[2])[0].double()
    expected = wave * 0.1 / wave.square().mean().sqrt()
    assert expected.abs().max() < 1
    torch.testing.assert_close(inputs["waveform"].double(), expected, rtol=1e-5, atol=1e-6)
    assert inputs["samples"] == 1100
    assert inputs["text"].tolist() == targets["said"].tolist() == [3, 3, 3]
    assert (targets["row"].item(), targets["age"].item()) == (2, 2.0)
    same(targets["spoken"], LogMel(RATE, mels=20)(inputs["waveform"]))
    with pytest.raises(IndexError):
        make(files)[len(files)]
    assert len([*make(files)]) == len(files)


def test_a_batch_is_padded_with_what_its_kind_asks_for(files: list[Path]) -> None:
    rows = make(files)
    inputs, targets = rows.batch(torch.tensor([3, 1, 2]))
    assert inputs["samples"].tolist() == [500, 300, 1100]
    assert inputs["waveform"].shape == (3, 1100)
    assert (inputs["waveform"][1, 300:] == 0).all()
    assert inputs["text"].tolist() == [[4, 4, 4, 4], [2, 2, 0, 0], [3, 3, 3, 0]]
    assert targets["said"].tolist() == [[4, 4, 4, 4], [2, 2, -100, -100], [3, 3, 3, -100]]
    assert {targets[name].dtype for name in ("said", "row")} == {inputs["text"].dtype} == {torch.int64}
    assert targets["age"].tolist() == [3.0, 1.0, 2.0]
    assert targets["spoken"].shape == (3, 18, 20)
    frames = (~targets["spoken"].isnan()).any(2).sum(1)
    assert frames.tolist() == [8, 5, 18]  # ceil(samples / 64)
    for place, row in enumerate([3, 1, 2]):
        alone = rows[row]
        same(inputs["waveform"][place, : len(alone[0]["waveform"])], alone[0]["waveform"])
        mel = targets["spoken"][place, : frames[place]]
        torch.testing.assert_close(mel, alone[1]["spoken"], rtol=1e-4, atol=1e-4)


def test_texts_without_a_label_keep_one_place(files: list[Path]) -> None:
    none = torch.full((7, 4), -100, dtype=torch.int16)
    inputs, targets = make(files, targets={"said": none}, inputs={"text": 0 * none}).batch(torch.tensor([0, 1]))
    assert targets["said"].tolist() == [[-100], [-100]]
    assert inputs["text"].tolist() == [[0], [0]]


def test_another_rate_another_width_and_two_channels_sound_the_same(tmp_path: Path) -> None:
    seconds = 0.5
    for name, rate, channels, subtype in [
        ("a.wav", 8000, 1, "PCM_16"), ("b.wav", 44100, 2, "PCM_24"), ("c.flac", 16000, 1, "PCM_16"),
    ]:  # fmt: skip
        wave = 0.2 * np.sin(2 * np.pi * 500 * np.arange(int(seconds * rate)) / rate)
        soundfile.write(tmp_path / name, np.stack([wave] * channels, 1), rate, subtype=subtype)
    rows = AudioRows([tmp_path / name for name in ("a.wav", "b.wav", "c.flac")], sample_rate=8000, max_seconds=20)
    assert rows.lengths.tolist() == [4000, 4000, 4000]
    first, *others = (rows.waveform(row) for row in range(3))
    for other in others:
        assert other.shape == first.shape
        middle = slice(200, -200)
        torch.testing.assert_close(other[middle], first[middle], rtol=0, atol=2e-3)


def test_silence_and_a_single_sample_are_rows(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(400), RATE)
    soundfile.write(tmp_path / "one.wav", np.array([0.5]), RATE)
    front_ends = {"spoken": LogMel(RATE, mels=20)}
    options: dict[str, Any] = {"sample_rate": RATE, "max_seconds": 1, "trim": True, "front_ends": front_ends}
    rows = AudioRows([tmp_path / "silent.wav", tmp_path / "one.wav"], **options)
    inputs, targets = rows.batch(torch.tensor([0, 1]))
    assert inputs["samples"].tolist() == [400, 1]
    assert (inputs["waveform"][0] == 0).all()
    assert inputs["waveform"].isfinite().all()
    assert targets["spoken"][0].isfinite().all()


def test_trim_leaves_out_silence_at_the_ends(tmp_path: Path) -> None:
    wave = np.zeros(8000)
    wave[3000:5000] = 0.3 * np.sin(np.arange(2000) / 3)
    soundfile.write(tmp_path / "a.wav", wave, RATE)
    options: dict[str, Any] = {"sample_rate": RATE, "max_seconds": 20, "cache_bytes": 10**6}
    rows = AudioRows([tmp_path / "a.wav"], trim=True, **options)
    assert rows.lengths.tolist() == [8000]
    for _ in range(2):  # decoded, then out of the memory
        assert len(rows.waveform(0)) == pytest.approx(2000, abs=500)
    assert len(AudioRows([tmp_path / "a.wav"], **options).waveform(0)) == 8000


def test_of_a_long_recording_the_beginning_is_read(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 44100 * 60)
    soundfile.write(tmp_path / "whole.wav", wave, 44100, subtype="FLOAT")
    soundfile.write(
        tmp_path / "torn.wav", np.where(np.arange(len(wave)) < 80_000, wave, np.nan), 44100, subtype="FLOAT"
    )
    rows = AudioRows([tmp_path / "torn.wav"], sample_rate=8000, max_seconds=1.5)
    whole = AudioRows([tmp_path / "whole.wav"], sample_rate=8000, max_seconds=60).waveform(0)[:12000]
    found = rows.waveform(0)
    assert rows.lengths.tolist() == [12000]
    # As if all of it had been resampled, and cut then: to the last sample.
    torch.testing.assert_close(found, level(whole), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"targets": {"row": torch.arange(3)}}, DataError, "7 recordings, but 3 rows of 'row'"),
        ({"lengths": torch.arange(3)}, DataError, "7 recordings, but 3 rows of 'lengths'"),
        ({"inputs": {"samples": torch.arange(7)}}, ConfigurationError, r"\['samples'\] come from the recordings"),
        ({"front_ends": {"row": LogMel(RATE)}}, ConfigurationError, r"\['row'\] are among the targets and among"),
        ({"front_ends": {"spoken": LogMel(16000)}}, ConfigurationError, "16000 samples per second, but the record"),
        ({"sample_rate": 0}, ConfigurationError, "sample_rate"),
        ({"max_seconds": 0}, ConfigurationError, "max_seconds"),
        ({"cache_bytes": -1}, ConfigurationError, "cache_bytes"),
    ],
)
def test_options_that_do_not_fit(
    files: list[Path], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make(files, **options)


def test_files_that_are_gone_or_changed(files: list[Path]) -> None:
    with pytest.raises(DataError, match="there are no rows"):
        AudioRows([], sample_rate=RATE, max_seconds=1)
    rows = make(files, cache_bytes=10**6)
    files[1].unlink()
    with pytest.raises(DataError, match=r"1\.wav: there is no such file"):
        rows.batch(torch.tensor([0, 1]))
    with pytest.raises(DataError, match=r"1\.wav: there is no such file"):
        make(files)
    soundfile.write(files[2], np.full(5000, 0.1), RATE)  # longer than the memory for it
    assert [len(rows.waveform(2)) for _ in range(2)] == [5000, 5000]
    assert len(rows.waveform(3)) == 500


# -- memory -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_the_same_batches_with_and_without_a_cache(files: list[Path], workers: int) -> None:
    plain = [*AudioLoader(make(files), 3)]
    rows = make(files, cache_bytes=10**6)
    loader = AudioLoader(rows, 3, workers=workers)
    for _ in range(2):
        same([*loader], plain)
    for path in files:
        path.unlink()  # what was decoded, in workers that are gone by now, is not read again
    same([*loader], plain)


def test_the_first_rows_that_fit_are_kept(files: list[Path]) -> None:
    rows = make(files, cache_bytes=4 * (700 + 300 + 1100) + 8 * 3 + 7)
    for row in range(len(files)):
        rows.waveform(row)
        files[row].unlink()
    assert [len(rows.waveform(row)) for row in range(3)] == LENGTHS[:3]
    with pytest.raises(DataError, match=r"3\.wav"):
        rows.waveform(3)


def test_what_is_kept_is_a_copy_and_stays_behind_on_pickling(files: list[Path]) -> None:
    rows = make(files, cache_bytes=10**6)
    first = rows.waveform(0).clone()
    rows.waveform(0).zero_()
    same(rows.waveform(0), first)
    again = pickle.loads(pickle.dumps(rows))
    same(again.waveform(0), first)
    files[0].unlink()
    same(rows.waveform(0), first)
    same(again.waveform(0), first)
    with pytest.raises(DataError, match=r"0\.wav"):
        pickle.loads(pickle.dumps(rows)).waveform(0)


def test_an_empty_cache_takes_nothing() -> None:
    cache = WaveformCache(torch.tensor([3, 4]), 0)
    cache.put(0, torch.ones(3))
    assert cache.get(0) is None
    cache = WaveformCache(torch.tensor([3, 4]), 20)
    cache.put(0, torch.ones(2))
    cache.put(1, torch.ones(4))
    kept = cache.get(0)
    assert kept is not None
    assert kept.tolist() == [1.0, 1.0]
    assert cache.get(1) is None


# -- order ------------------------------------------------------------------------------------------------------------
def test_rows_keep_their_order_unless_length_decides(files: list[Path]) -> None:
    rows = make(files)
    assert order(AudioLoader(rows, 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert order(AudioLoader(rows, 3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert order(AudioLoader(rows, 3, by_length=True)) == [[1, 5, 3], [0, 6, 4], [2]]
    assert [len(AudioLoader(rows, 3, drop_last=drop)) for drop in (False, True)] == [3, 2]
    assert AudioLoader(rows, 3).targets is rows.targets


def test_the_order_is_fixed_by_seed_and_epoch_whatever_the_workers(files: list[Path]) -> None:
    rows = make(files)
    loaders = [AudioLoader(rows, 2, shuffle=True, seed=5, workers=workers) for workers in (0, 0, 2)]
    first = [[*loader] for loader in loaders]
    second = [[*loader] for loader in loaders]
    for passes in (first, second):
        same(passes[1], passes[0])
        same(passes[2], passes[0])
    rows_first = [targets["row"].tolist() for _, targets in first[0]]
    rows_second = [targets["row"].tolist() for _, targets in second[0]]
    assert rows_first != rows_second
    assert rows_first != order(AudioLoader(rows, 2, shuffle=True, seed=6))
    assert sorted(chain(*rows_first)) == sorted(chain(*rows_second)) == list(range(7))


def test_shuffled_batches_hold_recordings_of_like_length(tmp_path: Path) -> None:
    lengths = torch.from_numpy(np.random.default_rng(0).integers(100, 2000, 300))
    paths = [tmp_path / "a.wav"] * 300
    soundfile.write(paths[0], np.full(2000, 0.1), RATE)
    rows = AudioRows(paths, sample_rate=RATE, max_seconds=1, lengths=lengths, targets={"row": torch.arange(300)})

    def padding(loader: AudioLoader) -> float:
        batches = [lengths[targets["row"]] for _, targets in loader]
        return 1 - float(lengths.sum()) / sum(int(batch.max()) * len(batch) for batch in batches)

    assert padding(AudioLoader(rows, 10, shuffle=True)) < 0.08
    assert padding(AudioLoader(rows, 10)) > 0.3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_goes_on_where_another_stood(files: list[Path], workers: int, shuffle: bool) -> None:
    def loader() -> AudioLoader:
        return AudioLoader(make(files), 2, shuffle=shuffle, seed=1, workers=workers)

    whole = loader()
    epochs = [[*whole], [*whole]]
    left = loader()
    assert left.state_dict() == {"epoch": 0, "batch": 0}
    assert len([*left]) == 4
    same([*islice(left, 3)], epochs[1][:3])
    state = left.state_dict()
    assert state == {"epoch": 1, "batch": 3}
    again = loader()
    again.load_state_dict(state)
    same([*again], epochs[1][3:])
    assert again.state_dict() == whole.state_dict() == {"epoch": 2, "batch": 0}


def test_a_pass_leaves_the_random_numbers_of_a_training_alone(files: list[Path]) -> None:
    before = torch.get_rng_state()
    [*AudioLoader(make(files), 2, shuffle=True)]
    [*AudioLoader(make(files), 2, shuffle=True, workers=1)]
    same(torch.get_rng_state(), before)


def test_loaders_refuse_what_is_no_number(files: list[Path]) -> None:
    for options in ({"batch_size": 0}, {"batch_size": 2, "workers": -1}):
        with pytest.raises(ConfigurationError, match="AudioLoader"):
            AudioLoader(make(files), **options)


# -- people -----------------------------------------------------------------------------------------------------------
def test_the_digits_of_people_in_batches(data_folder: Path) -> None:
    folder = data_folder / "fsdd" / "recordings"
    names = sorted(path.name for path in folder.glob("*.wav"))[::50]
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    said = [words[int(name[0])] for name in names]
    table = read_table({"audio": [str(folder / name) for name in names], "said": said})
    encoder = AudioEncoder.fit(table, "audio", texts=["said"])
    labels, unseen = encoder.text_labels(table, "said")
    assert unseen == 0
    rows = AudioRows(
        encoder.paths(table),
        sample_rate=encoder.sample_rate,
        max_seconds=encoder.max_seconds,
        lengths=encoder.samples(table),
        targets={"said": labels, "row": torch.arange(len(names))},
        front_ends={"spoken": LogMel(encoder.sample_rate)},
        cache_bytes=10**8,
    )
    seen: list[int] = []
    for inputs, targets in AudioLoader(rows, 16, shuffle=True, seed=3):
        index = targets["row"]
        seen += index.tolist()
        same(inputs["samples"], rows.lengths[index])
        assert inputs["waveform"].shape == (len(index), int(rows.lengths[index].max()))
        assert [encoder.decode(row) for row in targets["said"].tolist()] == [said[row] for row in index.tolist()]
        loudness = (inputs["waveform"].square().sum(1) / inputs["samples"]).sqrt()
        assert loudness.max() < 0.101
        assert loudness.median() > 0.09
    assert sorted(seen) == list(range(len(names)))
