"""Training: one step, the loop around it, and the events that everything else listens to."""

from lepton.train._average import AverageName, WeightAverage
from lepton.train._checkpoint import load_weights, read_checkpoint, save_checkpoint, write_atomically, write_checkpoint
from lepton.train._events import Callback, JsonLines
from lepton.train._loggers import LoggerName, MLflow, TensorBoard, WeightsAndBiases
from lepton.train._loop import Trainer
from lepton.train._optimisers import OptimizerName, make_optimizer, parameter_groups
from lepton.train._processes import (
    ParallelName,
    from_first_process,
    holds_share,
    is_first_process,
    job_note,
    several_processes,
    share_of,
)
from lepton.train._progress import ConsoleProgress, Progress
from lepton.train._saving import load_training, save_training
from lepton.train._schedule import Schedule, ScheduleName, warmup_cosine
from lepton.train._state import TrainState
from lepton.train._step import PrecisionName, StepResult, TrainStep
from lepton.train._traffic import Traffic, step_traffic

__all__ = [
    "AverageName",
    "Callback",
    "ConsoleProgress",
    "JsonLines",
    "LoggerName",
    "MLflow",
    "OptimizerName",
    "ParallelName",
    "PrecisionName",
    "Progress",
    "Schedule",
    "ScheduleName",
    "StepResult",
    "TensorBoard",
    "Traffic",
    "TrainState",
    "TrainStep",
    "Trainer",
    "WeightAverage",
    "WeightsAndBiases",
    "from_first_process",
    "holds_share",
    "is_first_process",
    "job_note",
    "load_training",
    "load_weights",
    "make_optimizer",
    "parameter_groups",
    "read_checkpoint",
    "save_checkpoint",
    "save_training",
    "several_processes",
    "share_of",
    "step_traffic",
    "warmup_cosine",
    "write_atomically",
    "write_checkpoint",
]
