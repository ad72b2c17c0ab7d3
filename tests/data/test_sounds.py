"""Files of sound: every shape that they come in, what is wrong with a file, and the rules of AudioEncoder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lepton.data import AudioEncoder, AudioRows, InputEncoder, describe_columns, infer_task, read_audio, read_table
from lepton.errors import CheckpointError, ConfigurationError, DataError

soundfile = pytest.importorskip("soundfile", reason="needs the extra audio")


def tone(samples: int, rate: int = 8000, hertz: float = 440.0, height: float = 0.5) -> np.ndarray[Any, Any]:
    return height * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)


# -- files ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "subtype", "rate", "width"),
    [
        ("a.wav", "PCM_16", 8000, 2**-15),
        ("a.wav", "PCM_24", 44100, 2**-23),
        ("a.wav", "PCM_U8", 11025, 2**-7),
        ("a.wav", "FLOAT", 16000, 1e-7),
        ("a.flac", "PCM_16", 48000, 2**-15),
        ("a.flac", "PCM_24", 96000, 2**-23),
    ],
)
def test_samples_come_back_whatever_the_width(tmp_path: Path, name: str, subtype: str, rate: int, width: float) -> None:
    wave = tone(1234, rate)
    soundfile.write(tmp_path / name, wave, rate, subtype=subtype)
    found, found_rate = read_audio(tmp_path / name)
    assert (found.dtype, found.shape, found_rate) == (torch.float32, (1234,), rate)
    np.testing.assert_allclose(found.numpy(), wave, atol=width)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(500), tone(500, hertz=700.0)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right, 0 * left], 1), 8000, subtype="FLOAT")
    found, _ = read_audio(str(tmp_path / "two.wav"))
    np.testing.assert_allclose(found.numpy(), (left + right) / 3, atol=1e-6)


def test_ogg_is_heard_nearly_as_it_was(tmp_path: Path) -> None:
    wave = tone(44100, 44100)
    soundfile.write(tmp_path / "a.ogg", wave, 44100)
    found, rate = read_audio(tmp_path / "a.ogg")
    assert rate == 44100
    assert np.corrcoef(found.numpy()[: len(wave)], wave[: len(found)])[0, 1] > 0.99


def write_bad(folder: Path, name: str) -> Path:
    path = folder / name
    if name == "text.wav":
        path.write_text("this is no sound at all, but long enough for a header of one")
    elif name == "nothing.wav":
        path.write_bytes(b"")
    elif name == "silent.wav":
        soundfile.write(path, np.zeros(0), 8000)
    elif name in ("nan.wav", "inf.wav"):
        soundfile.write(path, np.array([0.1, float(path.stem), 0.2]), 8000, subtype="FLOAT")
    elif name == "folder.wav":
        path.mkdir()
    elif name == "cut.flac":
        soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 8000), 8000)
        path.write_bytes(path.read_bytes()[:120])
    elif name == "stream.flac":
        soundfile.write(path, tone(8000), 8000)
        header = bytearray(path.read_bytes())
        header[21] &= 0xF0  # the 36 bits of the number of samples, 0 for unknown
        header[22:26] = bytes(4)
        path.write_bytes(header)
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.wav", "there is no such file"),
        ("folder.wav", "there is no such file"),
        ("text.wav", "no recording that can be read"),
        ("text.raw", "there is no such file"),
        ("nothing.wav", "the file is empty"),
        ("silent.wav", "has no samples"),
        ("nan.wav", "not finite"),
        ("inf.wav", "not finite"),
        ("stream.flac", "does not say how long the recording is"),
        ("cut.flac", "broken|breaks off|not be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, words: str) -> None:
    path = write_bad(tmp_path, name)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}.*({words})"):
        read_audio(path)


def test_a_raw_file_lacks_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(DataError, match=r"a\.raw: no recording that can be read"):
        read_audio(tmp_path / "a.raw")


def test_a_recording_that_breaks_off_is_as_long_as_it_is(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(8000), 8000)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[: 44 + 2 * 3000])
    assert len(read_audio(tmp_path / "a.wav")[0]) == 3000


def test_silence_is_a_recording(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000)
    assert read_audio(tmp_path / "a.wav")[0].tolist() == [0.0] * 100


# -- the encoder: recordings ------------------------------------------------------------------------------------------
def table_of(folder: Path, files: dict[str, tuple[int, int]], **columns: list[Any]) -> Any:
    """Write tones, name -> (samples, rate), and return a table of them."""
    for name, (samples, rate) in files.items():
        soundfile.write(folder / name, tone(samples, rate), rate)
    return read_table({"audio": [str(folder / name) for name in files], **columns})


def test_the_rate_is_that_of_most_files_and_no_more_than_16_kilohertz(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"a.wav": (80, 8000), "b.wav": (80, 11025), "c.wav": (80, 8000), "d.wav": (80, 44100)})
    assert AudioEncoder.fit(table, "audio").sample_rate == 8000
    assert AudioEncoder.fit(table.slice(3), "audio").sample_rate == 16000
    assert AudioEncoder.fit(table.slice(0, 2), "audio").sample_rate == 11025
    assert AudioEncoder.fit(table, "audio", sample_rate=12000).sample_rate == 12000


def test_lengths_come_from_headers_after_resampling_and_cut(tmp_path: Path) -> None:
    files = {"a.wav": (4001, 8000), "b.wav": (44101, 44100), "c.wav": (1, 48000), "d.wav": (9000, 8000)}
    table = table_of(tmp_path, files | {"e.flac": (100, 44100), "f.wav": (301, 44100), "g.wav": (7, 48000)})
    encoder = AudioEncoder.fit(table, "audio", sample_rate=16000, max_seconds=1.0)
    assert encoder.samples(table).tolist() == [8002, 16000, 1, 16000, 37, 110, 3]
    rows = AudioRows(encoder.paths(table), sample_rate=16000, max_seconds=1.0)
    assert [len(rows.waveform(row)) for row in range(len(rows))] == encoder.samples(table).tolist()
    assert encoder.samples(table).dtype == torch.int64
    assert encoder.truncated(table) == {"audio": 2}
    assert encoder.truncated(table.slice(2, 1)) == {}


def test_ten_minutes_are_cut_and_counted(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"long.flac": (600 * 8000, 8000), "short.wav": (800, 8000)})
    encoder = AudioEncoder.fit(table, "audio")
    assert encoder.samples(table).tolist() == [160_000, 800]
    assert encoder.truncated(table) == {"audio": 1}


@pytest.mark.parametrize("value", [None, ""])
def test_a_row_without_a_recording_is_named(tmp_path: Path, value: str | None) -> None:
    soundfile.write(tmp_path / "a.wav", tone(80), 8000)
    table = read_table({"audio": [str(tmp_path / "a.wav"), value], "y": [1, 2]})
    with pytest.raises(DataError, match="column 'audio', row 1, counted from 0, names no recording; 1 of 2"):
        AudioEncoder.fit(table, "audio")
    with pytest.raises(DataError, match="no column 'sound'"):
        AudioEncoder.fit(table, "sound")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sample_rate": 0}, "sample_rate must be a whole number of at least 1000"),
        ({"sample_rate": 8000.0}, "sample_rate"),
        ({"max_seconds": 0}, "max_seconds must be a number of seconds above 0"),
        ({"max_seconds": float("nan")}, "max_seconds"),
        ({"max_seconds": float("inf")}, "max_seconds"),
        ({"texts": ["audio"]}, "texts must be other columns than source"),
    ],
)
def test_options_that_are_not_allowed(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    table = table_of(tmp_path, {"a.wav": (80, 8000)})
    with pytest.raises(ConfigurationError, match=words):
        AudioEncoder.fit(table, "audio", **options)


# -- the encoder: texts -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Three\t FOUR\n", "three four"),
        ("Straße", "strasse"),
        ("ﬁve", "five"),
        ("ｏｎｅ", "one"),
        ("e\u0301t\u00e9", "\u00e9t\u00e9"),
        ("don't", "don't"),
        (" \u00a0 ", ""),
    ],
)
def test_normalised_texts(text: str, normal: str) -> None:
    assert AudioEncoder.normalise(text) == normal


@given(st.text(max_size=20))
def test_a_normalised_text_is_normal(text: str) -> None:
    once = AudioEncoder.normalise(text)
    assert AudioEncoder.normalise(once) == once


def test_characters_of_texts_and_what_training_did_not_have(tmp_path: Path) -> None:
    files = {f"{row}.wav": (80, 8000) for row in range(5)}
    table = table_of(tmp_path, files, said=["Two", "ONE", None, "", "one  two"])
    encoder = AudioEncoder.fit(table.slice(0, 4), "audio", texts=["said"])
    assert encoder.characters == ["e", "n", "o", "t", "w"]
    o, n, e, t, w = (encoder.characters.index(c) + 1 for c in "onetw")
    labels, unseen = encoder.text_labels(table, "said")
    blank = [-100] * 7
    assert labels.tolist() == [
        [t, w, o, *blank[3:]], [o, n, e, *blank[3:]], blank, blank, [o, n, e, -101, t, w, o],
    ]  # fmt: skip
    assert unseen == 1
    assert encoder.unseen(table) == {"said": 1}
    assert encoder.unseen(table.slice(0, 4)) == {}
    assert encoder.text_ids(table.slice(0, 4), "said").tolist() == [[t, w, o], [o, n, e], [0] * 3, [0] * 3]
    assert encoder.decode(labels[4].tolist()) == "onetwo"
    with pytest.raises(DataError, match=r"'said', row 4, counted from 0: 'one two' holds ' '.*known are \['e', 'n'"):
        encoder.text_ids(table, "said")


def test_texts_that_are_none(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"a.wav": (80, 8000), "b.wav": (80, 8000)}, said=["", " "], words=[["a"], ["b"]])
    with pytest.raises(DataError, match="'said' holds no text to learn characters from"):
        AudioEncoder.fit(table, "audio", texts=["said"])
    with pytest.raises(DataError, match="'words' holds lists of words"):
        AudioEncoder.fit(table, "audio", texts=["words"])
    with pytest.raises(DataError, match="no column 'sayd'"):
        AudioEncoder.fit(table, "audio", texts=["sayd"])
    numbers = table_of(tmp_path, {"a.wav": (80, 8000), "b.wav": (80, 8000)}, said=[1, 20])
    assert AudioEncoder.fit(numbers, "audio", texts=["said"]).characters == ["0", "1", "2"]


def test_stored_rules_are_the_same_rules(tmp_path: Path) -> None:
    table = table_of(tmp_path, {"a.wav": (4000, 8000)}, said=["zwölf boxkämpfer"])
    encoder = AudioEncoder.fit(table, "audio", texts=["said"], max_seconds=0.3, trim=True)
    again = AudioEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again.to_dict() == encoder.to_dict()
    assert again.samples(table).tolist() == [2400]
    assert again.text_ids(table, "said").tolist() == encoder.text_ids(table, "said").tolist()
    assert again.names == ["audio"]
    assert [(column.name, column.kind) for column in again.columns] == [("audio", "audio")]
    assert again.images == again.tokens == []
    with pytest.raises(CheckpointError, match="damaged"):
        AudioEncoder.from_dict({"source": "audio"})


# -- columns and folders ----------------------------------------------------------------------------------------------
def test_a_column_of_recordings_is_found_and_is_no_target(tmp_path: Path) -> None:
    names = [f"{row}.{suffix}" for row, suffix in enumerate(["wav", "FLAC", "ogg"] * 10)]
    table = read_table({"file": names, "said": ["a", "b", "c"] * 10})
    (file, said) = describe_columns(table)
    assert (file.kind, file.why, said.kind) == ("audio", "paths of recordings", "category")
    with pytest.raises(DataError, match="target 'file' holds paths of recordings, which are listened to"):
        infer_task(table, file)
    with pytest.raises(DataError, match="column 'file' holds recordings, which are not read beside other columns"):
        InputEncoder.fit(table, [file, said])


def recording(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(10), 8000)
    return str(path)


def test_folders_of_recordings(tmp_path: Path) -> None:
    files = [recording(tmp_path / name) for name in ("no/1.wav", "no/2.flac", "yes/1.wav", "yes/2.flac")]
    (tmp_path / "yes" / "notes.txt").write_text("not a recording")
    assert read_table(tmp_path).to_pydict() == {"audio": files, "label": ["no", "no", "yes", "yes"]}
    assert read_table(tmp_path / "yes").to_pydict() == {"audio": files[2:]}
    (tmp_path / "metadata.csv").write_text("file,said\nyes/1.wav,oh yes\n,nothing\n")
    assert read_table(tmp_path).to_pydict() == {"file": [files[2], None], "said": ["oh yes", "nothing"]}


def test_a_folder_of_pictures_and_recordings_is_refused(tmp_path: Path) -> None:
    file = recording(tmp_path / "yes" / "1.wav")
    (tmp_path / "cover.png").write_bytes(b"")
    assert read_table(tmp_path).to_pydict() == {"audio": [file], "label": ["yes"]}
    (tmp_path / "yes" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds pictures and recordings: a metadata\.csv"):
        read_table(tmp_path)


def test_the_digits_of_people(data_folder: Path) -> None:
    table = read_table(data_folder / "fsdd" / "recordings")
    encoder = AudioEncoder.fit(table, "audio")
    assert (table.num_rows, encoder.sample_rate) == (3000, 8000)
    lengths = encoder.samples(table)
    assert lengths[7] == len(read_audio(encoder.paths(table)[7])[0])
    assert 0.1 < float(lengths.double().mean()) / 8000 < 1.0


def test_paths_beside_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not found from the current folder is looked for beside the table."""
    place = tmp_path / "beside it"
    place.mkdir()
    soundfile.write(place / "a.wav", tone(400), 8000)
    (place / "rows.csv").write_text("take,said\na.wav,yes\n,no\n")
    assert read_table(place / "rows.csv").column("take").to_pylist() == [str(place / "a.wav"), None]
    monkeypatch.chdir(place)
    assert read_table("rows.csv").column("take").to_pylist() == ["a.wav", None]


def test_a_wav_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "half.wav"
    soundfile.write(path, tone(8000), 8000)
    whole, _ = read_audio(path)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 3000])
    found, rate = read_audio(path)
    encoder = AudioEncoder.fit(table := read_table({"audio": [str(path)]}), "audio")
    assert encoder.samples(table).tolist() == [3000]
    assert rate == 8000 and torch.equal(found, whole[:3000])
