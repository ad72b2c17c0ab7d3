"""What sound costs: process time of one core for a second of it.

python benchmarks/audio.py [--seconds 2] [--batch 16] [--rates 8000 16000 44100]

Noise, since no step looks at the sound. Resampling is also measured for one recording whose filters are not yet there,
and beside scipy's (`resample_poly`, whose filter is shorter: tests/audio/test_resample.py compares their errors).
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch

from lepton.audio import LogMel, add_noise, mask_spectrogram, resample

ROUNDS = 15


def milliseconds(step: Callable[[], object], seconds: float) -> float:
    """Return the median over rounds, for one second of sound."""
    step()
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times) / seconds


def front_end(rate: int, seconds: float, batch: int) -> dict[str, float]:
    """Return milliseconds a second of sound of what happens at one sample rate."""
    front, sound = LogMel(rate), 0.1 * torch.randn(batch, int(rate * seconds))
    log_mel, samples = front(sound), torch.full((batch,), sound.shape[1])
    frames, ratio = front.frames(samples), torch.full((batch,), 20.0)
    steps: dict[str, tuple[Callable[[], object], float]] = {
        "log-mel": (lambda: front(sound), batch * seconds),
        "add_noise": (lambda: add_noise(sound, samples, ratio), batch * seconds),
        "mask_spectrogram": (lambda: mask_spectrogram(log_mel, frames, times=2, bands=2), batch * seconds),
        "magnitude": (lambda: front.magnitude(log_mel[0]), seconds),
        "Griffin-Lim, 60 rounds": (lambda: front.waveform(log_mel[0]), seconds),
    }
    return {name: milliseconds(step, length) for name, (step, length) in steps.items()}


def resampling(old: int, new: int, seconds: float) -> tuple[float, float, float]:
    """Return milliseconds a second of sound: the first recording, further ones, scipy."""
    from scipy.signal import resample_poly

    sound, common = torch.randn(int(old * seconds)), math.gcd(old, new)
    start = time.process_time()
    resample(sound, old, new)
    first = 1e3 * (time.process_time() - start) / seconds
    plain = sound.numpy()
    theirs = milliseconds(lambda: resample_poly(plain, new // common, old // common), seconds)
    return first, milliseconds(lambda: resample(sound, old, new), seconds), theirs


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rates", type=int, nargs="+", default=[8000, 16000, 44100])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, process time in milliseconds for one second of sound\n")
    found = {rate: front_end(rate, options.seconds, options.batch) for rate in options.rates}
    print("| step | " + " | ".join(f"{rate} Hz" for rate in found) + " |\n|---|" + "---|" * len(found))
    for name in found[options.rates[0]]:
        print(f"| {name} | " + " | ".join(f"{row[name]:.2f}" for row in found.values()) + " |")
    print("\n| resampling | first recording | further ones | scipy |\n|---|---|---|---|")
    for old, new in ((44100, 16000), (48000, 16000), (16000, 8000), (8000, 16000), (11127, 8000)):
        first, further, theirs = resampling(old, new, options.seconds)
        print(f"| {old} to {new} | {first:.2f} | {further:.2f} | {theirs:.2f} |")


if __name__ == "__main__":
    main()
