"""What is trained in the tests of faults: every balancer, every loader, and the options that have a state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import lepton
from lepton.balance import (
    DBMTL,
    FAMO,
    IMTLG,
    IMTLL,
    MGDA,
    AlignedMTL,
    Balancer,
    CAGrad,
    ClipWeights,
    ConFIG,
    DualProj,
    DynamicWeightAverage,
    Equal,
    Every,
    ExcessMTL,
    FairGrad,
    Fixed,
    Frozen,
    GeometricMean,
    GradDrop,
    GradNorm,
    GradVac,
    LearnedWeights,
    Log,
    LogSum,
    MoCo,
    NashMTL,
    PCGrad,
    PerGroup,
    RandomWeight,
    Smooth,
    SmoothTchebycheff,
    Uncertainty,
    UPGrad,
)
from lepton.data import (
    AudioLoader,
    AudioRows,
    Augment,
    AugmentAudio,
    ImageLoader,
    ImageRows,
    LengthLoader,
    SequenceData,
    TensorData,
    TensorLoader,
)
from lepton.tasks import Classification, Regression
from lepton.train import Callback, Trainer

ROWS = 48

BALANCERS: dict[str, Callable[[], Balancer]] = {
    "equal": Equal,
    "fixed": lambda: Fixed([1.0, 2.0, 3.0]),
    "frozen": lambda: Frozen(torch.tensor([1.0, 2.0, 3.0])),
    "log_sum": LogSum,
    "uncertainty": Uncertainty,
    "learned_weights": LearnedWeights,
    "dynamic_weight_average": lambda: DynamicWeightAverage(window=4),
    "famo": FAMO,
    "mgda": MGDA,
    "pcgrad": PCGrad,
    "cagrad": CAGrad,
    "imtlg": IMTLG,
    "upgrad": UPGrad,
    "geometric_mean": GeometricMean,
    "imtll": IMTLL,
    "smooth_tchebycheff": SmoothTchebycheff,
    "random_weight": RandomWeight,
    "grad_vac": GradVac,
    "nash_mtl": NashMTL,
    "fair_grad": FairGrad,
    "aligned_mtl": AlignedMTL,
    "config": ConFIG,
    "dual_proj": DualProj,
    "grad_norm": GradNorm,
    "grad_drop": GradDrop,
    "moco": MoCo,
    "db_mtl": DBMTL,
    "excess_mtl": lambda: ExcessMTL(warmup=3),
    "log(moco)": lambda: Log(MoCo()),
    "log(grad_drop)": lambda: Log(GradDrop()),
    "per_group": lambda: PerGroup(
        {"first": (["digit"], Uncertainty()), "others": (..., Smooth(PCGrad()))}, over=Smooth(GradVac())
    ),
    "per_group(dwa)": lambda: PerGroup(
        {"first": (["digit"], Equal()), "others": (..., DynamicWeightAverage(window=4))}, over=FAMO()
    ),
    "log(uncertainty)": lambda: Log(Uncertainty()),
    "smooth(mgda)": lambda: Smooth(MGDA()),
    "every(pcgrad)": lambda: Every(PCGrad(), 3),
    "clip(imtlg)": lambda: ClipWeights(IMTLG(), 0.1, 2.0),
    "every(smooth(log(pcgrad)))": lambda: Every(Smooth(Log(PCGrad())), 3),
}


@dataclass(frozen=True)
class Setting:
    """A training: who weighs, what is read, and the options."""

    balancer: str = "every(smooth(log(pcgrad)))"
    reads: str = "table"
    workers: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def loaders(self, files: Path) -> tuple[Any, Any]:
        """Return fresh loaders of the training and the validation rows; `files` has what `write_files` wrote."""
        return LOADERS[self.reads](files, self.workers, True), LOADERS[self.reads](files, 0, False)


SETTINGS: dict[str, Setting] = {
    **{name: Setting(name) for name in BALANCERS},
    **{f"{reads}, {n} workers": Setting(reads=reads, workers=n) for reads in ("images", "audio") for n in (0, 2)},
    "texts": Setting(reads="texts"),
    "a plain loader, 0 workers": Setting(reads="plain"),
    "a plain loader, 2 workers": Setting(reads="plain", workers=2),
    "ema": Setting(options={"average": "ema", "average_decay": 0.8}),
    "swa": Setting(options={"average": "swa", "average_start": 0.3}),
    "fp16": Setting(options={"precision": "fp16-mixed", "learning_rates": {"trunk": 0.01}}),
    "bf16": Setting(options={"precision": "bf16-mixed", "adaptive_clip": 0.05}),
    "plateau": Setting(options={"optimizer": "rmsprop", "schedule": "plateau", "plateau_patience": 0}),
    "one_cycle": Setting(options={"optimizer": "sgd", "schedule": "one_cycle"}),
    "accumulation": Setting(options={"gradient_accumulation_steps": 2}),
}


# -- models -------------------------------------------------------------------------------------------------------
class Pictures(nn.Module):
    """Convolution, BatchNorm and dropout of the images of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Tanh(), nn.Flatten())
        self.last = nn.Linear(4 * 36, 8)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.layers(image.float()))


class Sounds(nn.Module):
    """Moments of the recordings of a batch, through a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 8))

    def forward(self, waveform: Tensor, samples: Tensor) -> Tensor:
        return self.layers(torch.stack([waveform.mean(1), waveform.square().mean(1), samples / 1000], 1))


class Texts(nn.Module):
    """Mean embeddings of the tokens of a batch, through a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 8, padding_idx=0)
        self.layers = nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 8))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(self.tokens(tokens).sum(1) / (tokens > 0).sum(1, keepdim=True))


def table_trunk() -> nn.Sequential:
    """Dropout and BatchNorm: the generators and the buffers must go on as well."""
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Tanh(), nn.Linear(16, 8))


TRUNKS: dict[str, Callable[[], nn.Module]] = {
    "table": table_trunk,
    "plain": table_trunk,
    "images": Pictures,
    "audio": Sounds,
    "texts": Texts,
}


def make_model(setting: Setting) -> lepton.LeptonModel:
    torch.manual_seed(0)
    tasks = [Classification("digit", 3), Regression("slant"), Regression("width", outputs=2)]
    balancer = BALANCERS[setting.balancer]()
    view = "fork_layer" if "fork_layer" in balancer.views else "parameters"
    trunk = TRUNKS[setting.reads]()
    return lepton.LeptonModel(trunk, tasks, balancer=balancer, gradients=view, features=8)


def make_trainer(setting: Setting, folder: Path, *, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
    """Return the trainer of a setting: three epochs, a checkpoint at every second step, going on if there is one."""
    given = {"max_epochs": 3, "learning_rate": 0.02, "checkpoint_every": 2} | setting.options | options
    model = make_model(setting)
    torch.manual_seed(7)
    return Trainer(model, folder=folder, callbacks=callbacks, resume_from_checkpoint="auto", **given)


# -- rows ---------------------------------------------------------------------------------------------------------
def labels() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    slant, width = torch.randn(ROWS, generator=generator), torch.randn(ROWS, 2, generator=generator)
    slant[::5] = float("nan")  # unequal label counts
    return {"digit": torch.arange(ROWS) % 3, "slant": slant, "width": width}


def table() -> TensorData:
    return TensorData(torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1)), labels())


def texts() -> SequenceData:
    lengths = torch.arange(ROWS) % 5 + 1
    tokens = torch.randint(1, 9, (ROWS, 5), generator=torch.Generator().manual_seed(1))
    tokens[torch.arange(5) >= lengths[:, None]] = 0
    return SequenceData({"tokens": tokens}, labels(), {"tokens": lengths})


class Noisy(Dataset):
    """Rows with noise of torch's own generator, which a worker has from the loader's."""

    def __init__(self) -> None:
        self.rows = table()

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, place: int) -> Any:
        inputs, targets = self.rows.inputs[place], {name: target[place] for name, target in self.rows.targets.items()}
        return inputs + 0.1 * torch.randn(6), targets


def _images(files: Path, workers: int, shuffle: bool) -> ImageLoader:
    rows = ImageRows([files / f"{row}.png" for row in range(ROWS)], size=(8, 8), targets=labels())
    return ImageLoader(rows, 8, shuffle=shuffle, seed=3, augment=Augment() if shuffle else None, workers=workers)


def _audio(files: Path, workers: int, shuffle: bool) -> AudioLoader:
    paths = [files / f"{row}.wav" for row in range(ROWS)]
    rows = AudioRows(paths, sample_rate=8000, max_seconds=1.0, targets=labels())
    return AudioLoader(rows, 8, shuffle=shuffle, seed=3, augment=AugmentAudio() if shuffle else None, workers=workers)


LOADERS: dict[str, Callable[[Path, int, bool], Any]] = {
    "table": lambda files, workers, shuffle: TensorLoader(table(), 8, shuffle=shuffle, seed=3),
    "texts": lambda files, workers, shuffle: LengthLoader(texts(), 8, shuffle=shuffle, seed=3),
    "plain": lambda files, workers, shuffle: DataLoader(Noisy(), 8, shuffle=shuffle, num_workers=workers),
    "images": _images,
    "audio": _audio,
}


def write_files(folder: Path) -> None:
    """Write the pictures and recordings that `images` and `audio` read."""
    import numpy as np
    import soundfile
    from PIL import Image

    folder.mkdir(exist_ok=True)
    draws = np.random.default_rng(0)
    for row in range(ROWS):
        Image.fromarray(draws.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{row}.png")
        soundfile.write(folder / f"{row}.wav", draws.normal(0, 0.1, 300 + 40 * (row % 7)), 8000)
