"""Runs that read recordings: transcript, speaker and synthesis together; and what does not go together."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lepton
from lepton.data import AudioRows
from lepton.errors import CheckpointError, ConfigurationError, DataError
from lepton.run import Run, check, load, make_config, probe, resume_run, run_baselines, train_run
from lepton.run._build import initial_model
from lepton.run._prepare import prepare
from lepton.run._rows import labelled_rows
from lepton.tasks import SpeechRecognition
from lepton.train import Callback, TrainState

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("jiwer")

RATE = 8000
TONES = {"a": 500.0, "b": 1700.0}
WORDS = ("ab", "ba", "aba", "b")
VOICES = {"ann": 1.0, "bob": 1.3}
TRUNK = {"type": "acoustic", "width": 32, "depth": 1, "heads": 2, "mels": 40, "dropout": 0.0, "masks": 0}
TASKS: dict[str, Any] = {
    "said": {"type": "speech_recognition", "column": "text"},
    "who": "classification",
    "voice": {"type": "speech_synthesis", "column": "text", "voice": "who"},
}


def spoken(text: str, who: str, draw: random.Random) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Letters as tones of 0.12 to 0.2 seconds, a voice as a factor of their frequencies."""
    parts = []
    for letter in text:
        time = np.arange(int(RATE * draw.uniform(0.12, 0.2))) / RATE
        parts.append(0.3 * np.sin(2 * np.pi * TONES[letter] * VOICES[who] * time) * np.hanning(len(time)) ** 0.3)
    return np.concatenate(parts) + 1e-3 * np.random.default_rng(draw.randrange(1000)).normal(size=sum(map(len, parts)))


def recordings(place: Path, rows: int = 160) -> dict[str, list[Any]]:
    draw = random.Random(0)
    found: dict[str, list[Any]] = {"audio": [], "text": [], "who": []}
    for row in range(rows):
        text, who = draw.choice(WORDS), draw.choice(sorted(VOICES))
        path = place / f"{row}.wav"
        soundfile.write(path, spoken(text, who, draw), RATE)
        for name, value in (("audio", str(path)), ("text", text), ("who", who)):
            found[name].append(value)
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    return recordings(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def run(table: dict[str, list[Any]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return lepton.fit(
        table,
        TASKS,
        trunk=TRUNK,
        balance="upgrad",
        training={"max_epochs": 18, "batch_size": 8, "learning_rate": 3e-3, "patience": 50, "num_workers": 0},
        folder=tmp_path_factory.mktemp("runs") / "speech",
        data={"augment": False},
        quiet=True,
    )


def test_it_learns_to_listen(run: Run, table: dict[str, list[Any]]) -> None:
    """Four words by two voices are learned by heart: anything else is a fault in labels, frames or decoding."""
    found = run.results["test"]
    assert found["said"].metrics["exact"] > 0.9 and found["who"].metrics["accuracy"] > 0.9
    said = run.predict(table["audio"][:4])
    assert said["said"].tolist() == table["text"][:4] and said["who"].tolist() == table["who"][:4]
    assert said["said_probability"].between(0.2, 1).all()
    assert list(said) == ["said", "said_probability", "who", "who_probability_ann", "who_probability_bob"]


def test_it_learns_to_speak(run: Run) -> None:
    """Spoken texts are understood by its own recogniser, and are in the voice that was asked for."""
    spoken_words = [(text, who) for text in WORDS for who in VOICES]
    place = run.folder / "said"
    place.mkdir()
    paths = [str(run.say(text, who).save(place / f"{text}_{who}.wav")) for text, who in spoken_words]
    heard = run.predict(paths)
    right = [
        found == wanted
        for found, wanted in zip(zip(heard["said"], heard["who"], strict=True), spoken_words, strict=True)
    ]
    assert sum(right) >= 7


def test_what_is_spoken(run: Run) -> None:
    speech = run.say("AB", "ann")
    assert speech.text == "ab" and [name for name, _, _ in speech.characters] == ["a", "b"]
    seconds = len(speech.waveform) / speech.sample_rate
    assert speech.characters[0][1] == 0 and speech.characters[-1][2] == pytest.approx(seconds, abs=0.02)
    assert np.isfinite(speech.waveform).all() and np.abs(speech.waveform).max() <= 1
    slow = run.say("ab", "ann", pace=0.5)
    assert len(slow.waveform) == pytest.approx(2 * len(speech.waveform), rel=0.15)
    assert np.array_equal(run.say("ab", "ann").waveform, speech.waveform)
    # The letters are tones: the loudest band of each is the one of its frequency.
    bands = np.array(speech.frequencies)[speech.log_mel.argmax(1)]
    half = len(bands) // 2
    assert abs(np.median(bands[2 : half - 2]) - 500) < 60 and abs(np.median(bands[half + 2 : -2]) - 1700) < 150


def test_a_loaded_run_is_the_same(run: Run, table: dict[str, list[Any]]) -> None:
    again = load(run.folder)
    one, other = run.predict(table["audio"][:5]), again.predict(table["audio"][:5])
    assert one.equals(other)
    assert np.array_equal(again.say("ba", "bob").waveform, run.say("ba", "bob").waveform)
    assert again.results["test"]["voice"].metrics["distortion"] < 10


def test_batches_and_neighbours_change_nothing(run: Run, table: dict[str, list[Any]]) -> None:
    many = run.predict(table["audio"][:12])
    few = run.predict(table["audio"][:12], batch_size=1)
    assert many["said"].equals(few["said"])
    assert np.allclose(many["said_probability"], few["said_probability"], atol=1e-4)


def test_only_the_tasks_that_are_asked_for(run: Run, table: dict[str, list[Any]]) -> None:
    assert list(run.predict(table["audio"][0], tasks="who")) == ["who", "who_probability_ann", "who_probability_bob"]


@pytest.mark.parametrize(
    ("text", "voice", "error", "words"),
    [
        ("abc", "ann", DataError, "'c'"),
        ("", "ann", DataError, "text"),
        ("ab", "eve", ConfigurationError, r"there is no voice 'eve'.*\['ann', 'bob'\]"),
        ("ab", None, ConfigurationError, "which voice is meant"),
    ],
)
def test_what_cannot_be_said(run: Run, text: str, voice: str | None, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        run.say(text, voice)


def test_a_pace_that_is_none(run: Run) -> None:
    for pace in (0.0, 9.0, float("nan")):
        with pytest.raises(ConfigurationError, match="pace"):
            run.say("ab", "ann", pace=pace)


def test_texts_with_unknown_characters_count_as_errors(run: Run, table: dict[str, list[Any]]) -> None:
    """One word with a letter that training has not: nothing is learned or found there, and it is said."""
    rows = {name: values[:10] for name, values in table.items()}
    right = run.evaluate(rows)["said"].metrics["exact"]
    whole = run.evaluate(rows)["voice"].n_labels
    rows["text"] = ["abz", None, *rows["text"][2:]]
    found = run.evaluate(rows)
    assert found["said"].metrics["exact"] == pytest.approx((10 * right - 1) / 9, abs=0.12) and right > 0.8
    # Without a text that it can read, the synthesiser has no label.
    assert found["voice"].n_labels < whole and np.isfinite(found["voice"].loss)
    fewer = run.evaluate({name: values[2:] for name, values in rows.items()})["voice"]
    assert found["voice"].n_labels == fewer.n_labels and found["voice"].loss == pytest.approx(fewer.loss, rel=1e-4)
    for task in ("said", "voice"):
        assert f"'{task}': 1 of 10 evaluated rows hold a character that training has not." in run.notes


def test_a_recogniser_alone_counts_unknown_characters(table: dict[str, list[Any]], tmp_path: Path) -> None:
    found = lepton.fit(
        table,
        {"said": TASKS["said"]},
        ignore=["who"],
        trunk=TRUNK,
        training={"max_epochs": 1, "batch_size": 16, "num_workers": 0},
        folder=tmp_path / "run",
        quiet=True,
    )
    rows = {name: values[:4] for name, values in table.items()} | {"text": ["abz", "ab", None, ""]}
    result = found.evaluate(rows)["said"]
    assert result.n_labels == 2 and any("1 of 4 evaluated rows hold a character" in note for note in found.notes)
    with pytest.raises(ConfigurationError, match="no task of the kind speech_synthesis"):
        found.say("ab")


def test_the_report_plays_sound(run: Run) -> None:
    page = run.report().read_text()
    assert page.count("data:audio/wav") >= 12
    for words in ("Recordings", "Speech", "Character error rate", "mel-cepstral distortion", "Recommendation: "):
        assert words in page
    assert "text-to-speech" in (run.folder / "README.md").read_text()


def test_each_task_alone(run: Run) -> None:
    found = run_baselines(run, source=run_rows(run), budget="steps", boosting=False, resamples=5, quiet=True)
    assert set(found.alone) == {"said", "who", "voice"}
    assert {"exact", "cer", "wer"} == set(found.alone["said"].seeds[0].test)


def run_rows(run: Run) -> Any:
    """The rows that a run in memory was trained on, in their first order."""
    import pyarrow as pa

    assert run.rows is not None
    table = pa.concat_tables([run.rows[part] for part in run.split.parts])
    places = torch.cat([run.split.parts[part] for part in run.split.parts])
    return table.take(places.argsort().numpy())


def test_a_training_goes_on(table: dict[str, list[Any]], tmp_path: Path) -> None:
    training = {"max_epochs": 2, "batch_size": 16, "num_workers": 0}
    config = make_config(source=None, targets=TASKS, data={}, rest={"trunk": TRUNK, "training": training})
    whole = train_run(config, tmp_path / "whole", source=table, quiet=True)

    class Stop(Callback):
        def on_epoch_begin(self, state: TrainState) -> None:
            if state.epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(config, tmp_path / "half", source=table, quiet=True, callbacks=[Stop()])
    half = resume_run(tmp_path / "half", source=table, quiet=True)
    for (name, one), other in zip(whole.model.state_dict().items(), half.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_kinds_are_found_out(table: dict[str, list[Any]], tmp_path: Path) -> None:
    """Recordings by their endings, a class by its few values, a transcript by its many."""
    rows = {**table, "take": [f"take {row}" for row in range(len(table["audio"]))]}
    found = check(make_config(source=None, targets=["take", "who"], data={}, rest={}), source=rows)
    kinds = {plan.name: plan.kind for plan in found.tasks}
    assert kinds == {"take": "speech_recognition", "who": "classification"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trunk": "tabular"}, "trunk 'tabular' does not read"),
        ({"inputs": {"audio": "audio", "who": "category"}, "targets": ["text"]}, "recordings are read alone"),
        ({"ignore": ["audio"]}, "paths that end in .wav"),
        ({"data": {"max_seconds": 0.0}}, "max_seconds"),
    ],
)
def test_what_does_not_go_together(
    table: dict[str, list[Any]], tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    targets = options.pop("targets", {"said": TASKS["said"]})
    with pytest.raises((ConfigurationError, DataError), match=words):
        lepton.fit(table, targets, folder=tmp_path / "run", quiet=True, **options)


def test_rows_without_text_teach_no_speech(table: dict[str, list[Any]]) -> None:
    """What stands under a task's missing rows must not matter; other tasks learn from them."""
    texts = [None if row % 3 == 0 else text for row, text in enumerate(table["text"])]
    config = make_config(source=None, targets=TASKS, data={"split": {"val": 0, "test": 0}}, rest={"trunk": TRUNK})
    prepared = prepare(config, {**table, "text": texts})
    rows = prepared.data["train"]
    assert isinstance(rows, AudioRows)
    inputs, targets = rows.batch(torch.arange(6))
    assert targets["voice"].isfinite().any((1, 2)).tolist() == [text is not None for text in texts[:6]]
    assert (inputs["text"] > 0).any(1).tolist() == [text is not None for text in texts[:6]]
    assert labelled_rows(rows, "voice").sum() == sum(text is not None for text in texts)
    assert labelled_rows(rows, "who").all()
    model = initial_model(prepared).eval()
    outputs, weights = model(inputs)
    criterion = lepton.MultiTaskLoss(model)
    loss = criterion(outputs, targets, weights)
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_voice_column_that_is_of_no_use(table: dict[str, list[Any]]) -> None:
    """It is said before the training, not behind it."""
    tasks = {"voice": {"type": "speech_synthesis", "column": "text", "voice": "whom"}}
    config = make_config(source=None, targets=tasks, data={}, rest={"trunk": TRUNK})
    with pytest.raises(ConfigurationError, match=r"'whom'.*Did you mean 'who'"):
        check(config, source=table)
    with pytest.raises(DataError, match=r"'whom' tells of no row whose voice"):
        check(config, source={**table, "whom": [None] * len(table["text"])})


def test_digits_may_be_texts(table: dict[str, list[Any]]) -> None:
    rows = {**table, "text": [str(len(text)) for text in table["text"]]}
    tasks = {"said": TASKS["said"]}
    config = make_config(source=None, targets=tasks, data={}, rest={})
    with pytest.raises(ConfigurationError, match=r"say so: data: \{kinds: \{text: text\}\}"):
        check(config, source=rows)
    found = prepare(make_config(source=None, targets=tasks, data={"kinds": {"text": "text"}}, rest={}), rows)
    assert found.rules[0].classes == ("1", "2", "3")


def test_a_synthesiser_on_a_trunk_of_ones_own_is_refused(table: dict[str, list[Any]]) -> None:
    trunk = {"type": "custom", "class": "package.module:Class"}
    config = make_config(source=None, targets=TASKS, data={}, rest={"trunk": trunk})
    with pytest.raises(ConfigurationError, match=r"'voice'.*needs the log-mel of trunk: acoustic"):
        prepare(config, table)


@pytest.mark.parametrize("kind", ["language_modeling", "translation"])
def test_a_task_that_learns_nothing_from_recordings(table: dict[str, list[Any]], kind: str) -> None:
    config = make_config(source=None, targets={"text": kind}, data={}, rest={})
    with pytest.raises(ConfigurationError, match=f"'text': a {kind} does not go with recordings"):
        check(config, source=table)


@pytest.mark.parametrize(
    ("augment", "words"),
    [({"noises": [15, 40]}, r"no option 'noises'.*Did you mean 'noise'"), ({"speed": "fast"}, "speed must be in")],
)
def test_wrong_augmentation(table: dict[str, list[Any]], tmp_path: Path, augment: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        lepton.fit(
            table, ["who"], ignore=["text"], trunk=TRUNK, data={"augment": augment}, folder=tmp_path / "run", quiet=True
        )


def test_what_is_predicted_from(run: Run, table: dict[str, list[Any]], tmp_path: Path) -> None:
    """A path, paths, rows or a folder, and the same for each."""
    paths = [Path(path) for path in table["audio"][:3]]
    wanted = run.predict(paths)
    assert run.predict([str(path) for path in paths]).equals(wanted)
    assert run.predict([{"audio": str(path)} for path in paths]).equals(wanted)
    assert run.predict(paths[0]).equals(wanted.iloc[:1])
    for number, path in enumerate(paths):
        shutil.copy(path, tmp_path / f"{number}.wav")
    assert run.predict(tmp_path)["said"].equals(wanted["said"])
    with pytest.raises(DataError, match=r"hello: there is no such file"):
        run.predict([paths[0], "hello"])
    with pytest.raises(ConfigurationError, match=r"\['voice'\] find nothing in a recording"):
        run.predict(paths, tasks=["voice"])


def test_texts_without_room_are_counted(table: dict[str, list[Any]]) -> None:
    """A letter takes a frame of the trunk's, and a blank must part equal ones: 0.2 s are 13 frames."""
    rows = {"audio": table["audio"][:40], "text": table["text"][:40]}
    soundfile.write(place := Path(rows["audio"][0]).parent / "short.wav", np.full(int(0.2 * RATE), 0.1), RATE)
    config = make_config(source=None, targets={"said": TASKS["said"]}, data={"split": {"val": 0, "test": 0}}, rest={})
    for text, many in (("ab" * 6 + "a", 0), ("ab" * 7, 4), ("a" * 7, 0), ("a" * 8, 4)):
        told = {"audio": [str(place)] * 4 + rows["audio"][4:], "text": [text] * 4 + rows["text"][4:]}
        notes = [note for note in prepare(config, told).notes if "has room for" in note]
        assert notes == ([] if not many else [f"'said': 4 of 40 train rows {notes[0].split('train rows ')[1]}"])


def test_damaged_voices_are_refused(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "copy"
    shutil.copytree(run.folder, place)
    (place / "voices.safetensors").write_bytes(b"no tensors")
    again = load(place)
    with pytest.raises(CheckpointError, match=r"voices\.safetensors"):
        again.say("ab", "ann")
    rules = json.loads((place / "rules.json").read_text())
    rules["audio"]["characters"] = ["b", "a"]
    (place / "rules.json").write_text(json.dumps(rules))
    with pytest.raises(CheckpointError, match="vocabulary"):
        load(place)


def test_a_probe_tells_costs(table: dict[str, list[Any]]) -> None:
    config = make_config(source=None, targets=TASKS, data={}, rest={"trunk": TRUNK, "training": {"batch_size": 16}})
    found = probe(config, source=table)
    assert all(task in json.dumps(found.to_dict()) for task in TASKS)


def test_metrics_use_the_names_of_the_field(run: Run) -> None:
    task = run.model.task("said")
    assert isinstance(task, SpeechRecognition) and task.primary_metric == "exact"
    assert task.higher_is_better == {"exact": True, "cer": False, "wer": False}
