"""Spectra of spoken digits: recordings of the test above, the same words spoken by the model below; and the sounds.

python benchmarks/speech_pictures.py runs/speech/seed-0 --data FOLDER --picture speech.png --sounds sounds
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

import lepton
from lepton.audio import LogMel, level
from lepton.data import read_audio

WORDS = (("seven", "nicolas"), ("three", "theo"), ("zero", "jackson"), ("eight", "lucas"))
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RANGE = 60
"""Decibels below the loudest place that are told apart."""


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the recordings")
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--sounds", type=Path, help="where the spoken words are written")
    told = parser.parse_args()
    run = lepton.load(told.run)
    figure, axes = plt.subplots(2, len(WORDS), figsize=(11, 4.6), sharey=True, layout="constrained")
    for column, (word, speaker) in zip(axes.T, WORDS, strict=True):
        recording = told.data / "recordings" / f"{DIGITS.index(word)}_{speaker}_0.wav"
        waveform, rate = read_audio(recording)
        front = LogMel(rate)
        spoken = run.say(word, speaker)
        draw(column[0], front(level(waveform)).numpy(), front, f"{word}, {speaker}: recorded")
        draw(column[1], front(torch.from_numpy(spoken.waveform)).numpy(), front, f"{word}, {speaker}: spoken")
        for name, start, _ in spoken.characters:
            column[1].text(start + 0.005, 60, name, color="white", va="top", fontweight="bold")
            column[1].axvline(start, color="white", linewidth=0.7, linestyle=":")
        if told.sounds is not None:
            told.sounds.mkdir(parents=True, exist_ok=True)
            spoken.save(told.sounds / f"{word}_{speaker}.wav")
    for row in axes:
        row[0].set_ylabel("Hz")
    for axis in axes[1]:
        axis.set_xlabel("seconds")
    figure.savefig(told.picture, dpi=110)
    print(f"wrote {told.picture}")


def draw(axis: plt.Axes, log_mel: np.ndarray, front: LogMel, title: str) -> None:
    """Draw a spectrum in decibels below its loudest place."""
    decibels = 20 / np.log(10) * (log_mel - log_mel.max())
    centres = front.centres.numpy()
    end = len(log_mel) * front.hop / front.sample_rate
    axis.imshow(
        decibels.T, origin="lower", aspect="auto", vmin=-RANGE, vmax=0, cmap="viridis", extent=(0, end, 0, len(centres))
    )
    shown = [100, 500, 1000, 2000, 3000]
    axis.set_yticks(np.interp(shown, centres, np.arange(len(centres)) + 0.5), [str(number) for number in shown])
    axis.set_title(title, fontsize=10)


if __name__ == "__main__":
    main()
