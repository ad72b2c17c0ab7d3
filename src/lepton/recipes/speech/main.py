"""The speech recipes: all tasks on one network, each alone, and what judges hear of the synthesiser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lepton.config import Config
from lepton.errors import ConfigurationError, nearest
from lepton.recipes._runs import ProcessTime, RecipeRun, write_results
from lepton.recipes.speech.config import RecipeConfig
from lepton.recipes.speech.data import FSDD, WORDS, Recording, write_rows
from lepton.recipes.speech.model import speech
from lepton.run import Run, Speech, load, new_folder, override_config, run_baselines, train_run

__all__ = ["RECIPES", "run_recipe", "say"]

JUDGES = ("transcript", "speaker")
JUDGE_SEED = 1000
"""Judges are trained from a seed that no run of the recipe has."""


def run_recipe(name: str, settings: RecipeConfig, *, quiet: bool = False) -> Iterator[RecipeRun]:
    """Train a recipe, yielding each training when it is done; `results.json` in the folder grows with them.

    Args:
        name: `speech`: the official test; or `speech_unseen`: each speaker left out of one training and tested by it.
        settings: data, folder, length.
        quiet: print nothing.

    Raises:
        ConfigurationError: there is no recipe of that name, or an override that is not allowed.
        DataError: the recordings are not there.
    """
    if name not in RECIPES:
        raise ConfigurationError(f"there is no recipe {name!r}; there are {sorted(RECIPES)}.{nearest(name, RECIPES)}")
    rows = FSDD.rows(settings.data, settings.limit)
    folder = new_folder(settings.folder)
    done: list[RecipeRun] = []
    for found in RECIPES[name](settings, rows, folder, quiet):
        done.append(found)
        write_results(folder / "results.json", name, done)
        yield found


# -- the official test --------------------------------------------------------------------------------------------
def _all_speakers(settings: RecipeConfig, rows: list[Recording], folder: Path, quiet: bool) -> Iterator[RecipeRun]:
    config = speech(settings, write_rows(folder / "rows.csv", rows))
    judges = {task: _judge(settings, folder, task, quiet) for task in JUDGES}
    for seed in range(config.seed, config.seed + settings.seeds):
        found = _trained(config, seed, folder / f"seed-{seed}", quiet)
        if settings.alone:
            found.alone = run_baselines(load(found.run.folder), boosting=False, quiet=quiet)
        found.further["spoken"] = _heard(found.run, judges, rows, found.run.folder / "spoken")
        yield found


def _trained(config: Config, seed: int, folder: Path, quiet: bool) -> RecipeRun:
    start = time.process_time()
    told = override_config(config, [f"seed={seed}"])
    run = train_run(told, folder, quiet=quiet, callbacks=[ProcessTime()])
    return RecipeRun(seed, run, time.process_time() - start)


def _judge(settings: RecipeConfig, folder: Path, task: str, quiet: bool) -> Run:
    """Return a run of one task alone, which learned from recordings only."""
    config = speech(settings, folder / "rows.csv", (task,))
    return _trained(config, JUDGE_SEED, folder / f"judge-{task}", quiet).run


def _heard(run: Run, judges: dict[str, Run], rows: list[Recording], folder: Path) -> dict[str, Any]:
    """Let every speaker say every word, and return what judges make of it; the sounds stay in the folder."""
    folder.mkdir()
    truth = [(word, speaker) for word in WORDS for speaker in sorted({row.speaker for row in rows})]
    paths = [run.say(word, speaker).save(folder / f"{word}_{speaker}.wav") for word, speaker in truth]
    said = judges["transcript"].predict([str(path) for path in paths])["transcript"]
    voices = judges["speaker"].predict([str(path) for path in paths])["speaker"]
    wrong = [
        {"word": word, "speaker": speaker, "heard": heard, "voice": voice}
        for (word, speaker), heard, voice in zip(truth, said, voices, strict=True)
        if (heard, voice) != (word, speaker)
    ]
    return {
        "sounds": len(truth),
        "words": float(np.mean([heard == word for (word, _), heard in zip(truth, said, strict=True)])),
        "speakers": float(np.mean([voice == speaker for (_, speaker), voice in zip(truth, voices, strict=True)])),
        "wrong": wrong,
    }


# -- speakers that training never heard ---------------------------------------------------------------------------
def _unseen_speakers(settings: RecipeConfig, rows: list[Recording], folder: Path, quiet: bool) -> Iterator[RecipeRun]:
    """Leave each speaker out of one training, and test on all that the speaker said."""
    for speaker in sorted({row.speaker for row in rows}):
        place = folder / speaker
        place.mkdir()
        others = [row for row in rows if row.speaker != speaker]
        parts = {"test": "train", "val": "val", "train": "train"}
        kept = [row._replace(part=parts[row.part]) for row in others]
        left_out = [row._replace(part="test") for row in rows if row.speaker == speaker]
        table = write_rows(place / "rows.csv", kept + left_out)
        found = _trained(speech(settings, table, ("transcript",)), 0, place / "run", quiet)
        found.further["left_out"] = speaker
        yield found


RECIPES: dict[str, Callable[[RecipeConfig, list[Recording], Path, bool], Iterator[RecipeRun]]] = {
    "speech": _all_speakers,
    "speech_unseen": _unseen_speakers,
}


# -- speaking -----------------------------------------------------------------------------------------------------
def say(text: str, speaker: str, folder: Path) -> Speech:
    """Return a text spoken by the first seed of a recipe's folder.

    Args:
        text: what is said.
        speaker: whose voice.
        folder: of a trained recipe, or of one run.

    Raises:
        ConfigurationError: there is no trained recipe, or no such speaker.
    """
    runs = [folder] if (folder / "run.json").exists() else sorted(folder.glob("seed-*"))
    if not runs:
        raise ConfigurationError(
            f"there is no trained speech recipe in {str(folder)!r}: train it first, lepton recipe speech --data "
            "FOLDER, or name its folder with --folder."
        )
    return load(runs[0]).say(text, speaker)
