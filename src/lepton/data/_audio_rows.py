"""`AudioRows`: rows whose recordings are files, decoded in a loader's workers."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lepton.audio import LogMel, level, resample, trim
from lepton.data._augment_audio import AugmentAudio
from lepton.data._sequences import MISSING
from lepton.data._sounds import SoundPath, read_header, read_start, resampled_length
from lepton.errors import ConfigurationError, DataError, is_whole, require

__all__ = ["AudioRows"]

Row = tuple[dict[str, Tensor], dict[str, Tensor]]

MARGIN = 0.1
"""Seconds that are read beyond the longest recording, so that resampling sees what follows the cut."""

OWN = ("waveform", "samples")
"""Inputs that come from the recording."""


class AudioRows(Dataset[Row]):
    """Rows of recordings, other inputs and labels, read when they are asked for: in a loader's workers, if it has some.

    A recording becomes one channel at `sample_rate`, is cut to `max_seconds`, loses the silence at its ends if `trim`
    says so, and is brought to one level (`lepton.audio.level`); silence stays silence. Those that fit are kept in
    memory once decoded. The memory is shared with workers that are forked and outlives them; workers that are started
    anew (`spawn`, `forkserver`) have one each.

    Args:
        paths: the recording of each row.
        sample_rate: samples per second.
        max_seconds: longer recordings lose their end, which is not read.
        trim: whether silence at both ends is left out.
        inputs: other inputs, name -> tensor [N, ...]; whole numbers [N, U] are texts that 0 pads.
        targets: labels, name -> tensor [N, ...]; whole numbers [N, U] are texts that -100 pads.
        front_ends: task -> the front end that makes its target, the log-mel [M, mels], of the recording itself.
        absent: task of `front_ends` -> bool [N], rows for which it has no target: NaN.
        cache_bytes: bound on the memory for decoded recordings, in bytes: the first rows that fit are kept.
        lengths: samples of each recording after resampling and cutting [N], as `AudioEncoder.samples` gives them;
            otherwise all headers are read.

    Raises:
        ConfigurationError: options that do not fit together.
        DataError: columns of different lengths; and, when a row is read, a file that cannot be used: it is named.

    Example:
        >>> import numpy, soundfile, torch
        >>> for samples in (400, 800):
        ...     soundfile.write(f"{samples}.wav", numpy.full(samples, 0.1), 8000)
        >>> targets = {"said": torch.tensor([[1, 2, -100], [2, -100, -100]])}
        >>> rows = AudioRows(["400.wav", "800.wav"], sample_rate=8000, max_seconds=20.0, targets=targets)
        >>> inputs, targets = rows.batch(torch.tensor([0, 1]))
        >>> inputs["waveform"].shape, inputs["samples"].tolist(), targets["said"].tolist()
        (torch.Size([2, 800]), [400, 800], [[1, 2], [2, -100]])
    """

    def __init__(
        self,
        paths: Sequence[SoundPath],
        *,
        sample_rate: int,
        max_seconds: float,
        trim: bool = False,
        inputs: Mapping[str, Tensor] | None = None,
        targets: Mapping[str, Tensor] | None = None,
        front_ends: Mapping[str, LogMel] | None = None,
        absent: Mapping[str, Tensor] | None = None,
        cache_bytes: int = 0,
        lengths: Tensor | None = None,
    ) -> None:
        require(is_whole(sample_rate), "AudioRows", "sample_rate", sample_rate, "a whole number of at least 1")
        require(max_seconds > 0, "AudioRows", "max_seconds", max_seconds, "above 0")
        require(cache_bytes >= 0, "AudioRows", "cache_bytes", cache_bytes, "at least 0")
        self.paths = list(paths)
        self.sample_rate = sample_rate
        self.max_seconds = max_seconds
        self.trim = trim
        self.inputs = dict(inputs or {})
        self.targets = dict(targets or {})
        self.front_ends = dict(front_ends or {})
        self.absent = {task: torch.zeros(len(self.paths), dtype=torch.bool) for task in self.front_ends}
        self.absent |= absent or {}
        self._check(lengths)
        self.lengths = self._header_lengths() if lengths is None else lengths.long()
        self._cache = WaveformCache(self.lengths, cache_bytes)

    def _check(self, lengths: Tensor | None) -> None:
        if not self.paths:
            raise DataError("AudioRows: there are no rows.")
        sizes = {name: len(column) for name, column in (self.inputs | self.targets | self.absent).items()}
        sizes |= {} if lengths is None else {"lengths": len(lengths)}
        for name, size in sizes.items():
            if size != len(self.paths):
                raise DataError(f"AudioRows: there are {len(self.paths)} recordings, but {size} rows of {name!r}.")
        taken = set(self.inputs) & set(OWN)
        if taken:
            raise ConfigurationError(f"AudioRows: the inputs {sorted(taken)} come from the recordings: rename them.")
        double = set(self.targets) & set(self.front_ends)
        if double:
            raise ConfigurationError(f"AudioRows: {sorted(double)} are among the targets and among the front ends.")
        for task, front in self.front_ends.items():
            if front.sample_rate != self.sample_rate:
                raise ConfigurationError(
                    f"AudioRows: the front end of {task!r} is made for {front.sample_rate} samples per second, but the "
                    f"recordings have {self.sample_rate}."
                )

    def _header_lengths(self) -> Tensor:
        headers = map(read_header, self.paths)
        return torch.tensor([resampled_length(header, self.sample_rate, self.max_seconds) for header in headers])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Row:
        """Return the inputs and the targets of one row, as `batch` does, without the batch's dimension."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        inputs, targets = self.batch(torch.tensor([row % len(self)]))
        return {name: value[0] for name, value in inputs.items()}, {name: value[0] for name, value in targets.items()}

    def batch(
        self, index: Tensor, *, augment: AugmentAudio | None = None, generator: torch.Generator | None = None
    ) -> Row:
        """Return inputs and targets of the rows named by `index` [B], padded to the longest of them.

        Args:
            index: row numbers.
            augment: changes the recordings: their pace and ends before the targets of front ends are made of them,
                noise after that.
            generator: fixes the draws of `augment`.

        Returns:
            Inputs `waveform` float32 [B, N], zero beyond the recording, `samples` int64 [B], and the others, of which
            texts are cut to the longest [B, U]; targets, likewise, and log-mels [B, M, mels], NaN beyond.
        """
        waveforms = [self.waveform(row) for row in index.tolist()]
        if augment is not None:
            waveforms = augment.move(waveforms, self.sample_rate, generator=generator)
        samples = torch.tensor([len(waveform) for waveform in waveforms])
        waveform = pad_sequence(waveforms, batch_first=True)
        targets = {name: _cut(column[index], MISSING) for name, column in self.targets.items()}
        for task, front in self.front_ends.items():
            absent = self.absent[task][index, None, None]
            targets[task] = _log_mel(front, waveform, samples).masked_fill(absent, torch.nan)
        if augment is not None:
            waveform = augment.disturb(waveform, samples, generator=generator)
        others = {name: _cut(column[index], 0) for name, column in self.inputs.items()}
        return {"waveform": waveform, "samples": samples} | others, targets

    def waveform(self, row: int) -> Tensor:
        """Return a row's recording float32 [n], decoded or out of the memory.

        Raises:
            DataError: the file cannot be used; it is named.
        """
        kept = self._cache.get(row)
        if kept is None:
            kept = self._decode(row)
            self._cache.put(row, kept)
        return kept

    def _decode(self, row: int) -> Tensor:
        waveform, rate = read_start(self.paths[row], self.max_seconds + MARGIN)
        if rate != self.sample_rate:
            waveform = resample(waveform, rate, self.sample_rate)
        waveform = waveform[: max(1, round(self.max_seconds * self.sample_rate))]
        if self.trim:
            first, end = trim(waveform, self.sample_rate)
            waveform = waveform[first:end]
        return level(waveform)


def _log_mel(front: LogMel, waveform: Tensor, samples: Tensor) -> Tensor:
    """Return [B, M, mels], NaN beyond the frames of each recording."""
    with torch.no_grad():
        log_mel: Tensor = front(waveform)
    frames = torch.as_tensor(front.frames(samples))
    beyond = torch.arange(log_mel.shape[1]) >= frames[:, None]
    return log_mel.masked_fill(beyond[..., None], torch.nan)


def _cut(column: Tensor, fill: int) -> Tensor:
    """Return whole numbers as int64, and texts [B, U] among them without the places that none of the rows fills."""
    if column.is_floating_point() or column.dtype == torch.bool:
        return column
    if column.ndim == 2:
        filled = (column != fill).any(0).nonzero()
        column = column[:, : max(1, int(filled[-1]) + 1 if len(filled) else 0)]
    return column.long()


class WaveformCache:
    """Recordings of known greatest lengths in one piece of memory that forked workers share.

    Two workers that decode one row at the same time write the same numbers, so nothing is locked: a row's mark, which
    is the number of its samples and one more, is set after them.
    """

    def __init__(self, lengths: Tensor, limit: int) -> None:
        ends = lengths.cumsum(0)
        marks = 8 * torch.arange(1, len(lengths) + 1)
        rows = int((4 * ends + marks <= limit).sum())
        self.starts = torch.cat([ends.new_zeros(1), ends[:rows]]).tolist()
        self._map()

    def _map(self) -> None:
        rows = len(self.starts) - 1
        # Not under /dev/shm, which is small in containers; pages are taken up when they are first written.
        memory = torch.frombuffer(mmap.mmap(-1, max(8, 8 * rows + 4 * self.starts[-1])), dtype=torch.uint8)
        self._marks = memory[: 8 * rows].view(torch.int64)
        self._values = memory[8 * rows : 8 * rows + 4 * self.starts[-1]].view(torch.float32)

    def get(self, row: int) -> Tensor | None:
        """Return a copy of a row's samples, or None."""
        mark = int(self._marks[row]) if row < len(self._marks) else 0
        start = self.starts[row] if mark else 0
        return self._values[start : start + mark - 1].clone() if mark else None

    def put(self, row: int, values: Tensor) -> None:
        """Keep a row's samples, if it is one of those that fit, and they are no more than was said."""
        if row < len(self._marks) and len(values) <= self.starts[row + 1] - self.starts[row]:
            self._values[self.starts[row] : self.starts[row] + len(values)] = values
            self._marks[row] = len(values) + 1

    def __getstate__(self) -> dict[str, list[int]]:
        return {"starts": self.starts}

    def __setstate__(self, state: dict[str, list[int]]) -> None:
        self.__dict__.update(state)
        self._map()
