"""`replay/`: rows of its data that a run keeps, so that it can be continued when their source is gone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import default_collate

from lepton.config import Config
from lepton.data import ImageRows, Rows, SequenceData, TensorData
from lepton.errors import CheckpointError, LeptonError
from lepton.run._prepare import Prepared
from lepton.run._rows import labelled_rows
from lepton.tasks import Task
from lepton.train import read_checkpoint, write_checkpoint
from lepton.transfer import Replay

__all__ = [
    "KeptRows",
    "has_kept_rows",
    "keep_rows",
    "keep_training_rows",
    "read_kept_rows",
    "remember",
    "rows_fit",
    "rows_in",
    "write_kept_rows",
]

FOLDER, STATE = "replay", "state.json"
KEPT_BYTES = 32 << 20
"""Memory for the rows of a part: of pictures, fewer are kept than of tables."""

NOTE = (
    "These files hold rows of the data that the run was trained on, as numbers: treat them as you treat the data. "
    "They let `lepton continue` go on when the source is gone; the run works without this folder, which may be deleted."
)


@dataclass
class KeptRows:
    """Rows of a run's data.

    Attributes:
        train: training rows, as many of every task and of each of its classes.
        held_out: `val` and `test` -> rows drawn at random from the part, for measuring.
    """

    train: Replay
    held_out: dict[str, Replay]


def rows_fit(rows: Rows) -> bool:
    """Return whether rows can be kept: those of one shape. Texts as sequences and recordings are not."""
    return isinstance(rows, (TensorData, ImageRows)) and not isinstance(rows, SequenceData)


def remember(
    tasks: Iterable[Task],
    rows: Rows,
    capacity: int,
    *,
    balanced: bool = True,
    seed: int = 0,
    limit: int = KEPT_BYTES,
    before: Replay | None = None,
) -> Replay:
    """Return a memory of rows; of pictures only those that stay in it are decoded.

    Args:
        tasks: whose labels the rows have.
        rows: of one shape; see `rows_fit`.
        capacity: rows, fewer where each is large.
        balanced: as many rows of each task and class, instead of a sample.
        seed: of the draws.
        limit: bytes of all rows.
        before: a memory of rows that came before these.
    """
    tasks = list(tasks)
    capacity = max(1, min(capacity, limit // _bytes_of_row(rows)))
    chooser = Replay(tasks, capacity, balanced=balanced, seed=seed)
    earlier = None if before is None else rows_in(before)
    if before is not None and earlier is not None:
        order = torch.randperm(len(earlier), generator=torch.Generator().manual_seed(seed))
        chooser.add(order, earlier.rows(order).targets)
        # What stayed is a sample of all that the memory has seen, against which the new rows are weighed.
        chooser.load_state_dict({**chooser.state_dict(), "seen": before.state_dict()["seen"]})
    first = 0 if earlier is None else len(earlier)
    presence = {task.name: _presence(rows, task) for task in tasks if _labels(rows, task)}
    chooser.add(torch.arange(first, first + len(rows)), presence)
    state = chooser.state_dict()
    if len(chooser):
        state["inputs"], state["targets"] = _gathered(earlier, rows, state["inputs"], {t.name: t for t in tasks})
    found = Replay(tasks, capacity, balanced=balanced, seed=seed)
    found.load_state_dict(state)
    return found


def _gathered(
    earlier: TensorData | None, rows: Rows, chosen: Tensor, tasks: Mapping[str, Task]
) -> tuple[Any, dict[str, Tensor]]:
    """Return the rows `chosen` [M], which are numbered through the earlier ones and then the others."""
    first = 0 if earlier is None else len(earlier)
    old, new = chosen < first, chosen >= first
    if earlier is None or not old.any():
        return rows_at(rows, chosen - first)
    if not new.any():
        return earlier.batch(chosen)
    parts = earlier.batch(chosen[old]), rows_at(rows, chosen[new] - first)
    back = torch.cat([old.nonzero(), new.nonzero()]).flatten().argsort()
    inputs = pytree.tree_map(lambda a, b: torch.cat([a, b])[back], parts[0][0], parts[1][0])
    targets = {}
    for name in {**parts[0][1], **parts[1][1]}:
        like = next(targets[name] for _, targets in parts if name in targets)
        empty = [like.new_full((int(which.sum()), *like.shape[1:]), tasks[name].missing) for which in (old, new)]
        both = [targets.get(name, none) for (_, targets), none in zip(parts, empty, strict=True)]
        targets[name] = torch.cat(both)[back]
    return inputs, targets


def rows_at(rows: Rows, chosen: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """Return inputs and targets of some rows [M]."""
    if isinstance(rows, ImageRows):
        inputs, targets = default_collate([rows[row] for row in chosen.tolist()])
        return inputs, dict(targets)
    assert isinstance(rows, TensorData)
    return rows.batch(chosen)


def rows_in(replay: Replay) -> TensorData | None:
    """Return the rows of a memory; None if it is empty."""
    state = replay.state_dict()
    return TensorData(state["inputs"], state["targets"]) if len(replay) else None


def _labels(rows: Rows, task: Task) -> bool:
    return task.name in rows.targets or (isinstance(rows, ImageRows) and task.name in rows.masks)


def _presence(rows: Rows, task: Task) -> Tensor:
    """Return a task's labels, or for masks, which are not decoded for that, whether there is one."""
    if task.name in rows.targets:
        return rows.targets[task.name]
    known = labelled_rows(rows, task.name)
    return torch.where(known, 0, int(task.missing))


def _bytes_of_row(rows: Rows) -> int:
    inputs, targets = rows_at(rows, torch.tensor([0]))
    sizes: list[int] = [leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves([inputs, targets])]
    return max(1, sum(sizes))


def keep_rows(
    tasks: Iterable[Task],
    data: Mapping[str, Rows],
    capacity: int,
    seed: int,
    before: Mapping[str, Replay] | None = None,
) -> KeptRows:
    """Return what is kept of rows, part by part.

    Args:
        tasks: whose labels the rows have.
        data: part -> rows.
        capacity: rows of each part.
        seed: of the draws.
        before: part -> memory of rows that came before.
    """
    tasks, before = list(tasks), before or {}
    kept = {
        part: remember(tasks, rows, capacity, balanced=part == "train", seed=seed, before=before.get(part))
        for part, rows in data.items()
    }
    kept |= {part: replay for part, replay in before.items() if part not in kept}
    return KeptRows(kept.pop("train"), kept)


# -- the folder ---------------------------------------------------------------------------------------------------
def has_kept_rows(folder: Path) -> bool:
    """Return whether a run keeps rows."""
    return (folder / FOLDER).is_dir()


def write_kept_rows(folder: Path, kept: KeptRows) -> None:
    """Write `replay/`: safetensors and JSON with a manifest of hashes, whole or not at all.

    Raises:
        OSError: the disk is full or cannot be written to.
    """
    from safetensors.torch import save

    files: dict[str, bytes] = {}
    about: dict[str, Any] = {"note": NOTE, "parts": {}}
    for part, replay in {"train": kept.train, **kept.held_out}.items():
        state = replay.state_dict()
        inputs, targets, generator = state.pop("inputs"), state.pop("targets"), state.pop("generator")
        named = inputs if isinstance(inputs, Mapping) else {} if inputs is None else {"": inputs}
        tensors = {f"inputs/{name}": tensor for name, tensor in named.items()}
        tensors |= {f"targets/{name}": tensor for name, tensor in targets.items()}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()} | {"generator": generator}
        files[f"{part}.safetensors"] = save(tensors)
        about["parts"][part] = {"capacity": replay.capacity, **state}
    files[STATE] = json.dumps(about, indent=1).encode()
    write_checkpoint(folder / FOLDER, files)


def read_kept_rows(folder: Path, tasks: Iterable[Task]) -> KeptRows:
    """Read what `write_kept_rows` wrote, after comparing it with its hashes.

    Args:
        folder: the run's folder.
        tasks: the run's tasks.

    Raises:
        CheckpointError: the files are damaged, or there are none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    files, tasks = read_checkpoint(folder / FOLDER), list(tasks)
    found: dict[str, Replay] = {}
    try:
        for part, state in json.loads(files[STATE])["parts"].items():
            tensors = load(files[f"{part}.safetensors"])
            replay = Replay(tasks, state.pop("capacity"))
            replay.load_state_dict({**state, **_nest(tensors)})
            found[part] = replay
        return KeptRows(found.pop("train"), found)
    except (KeyError, TypeError, ValueError, SafetensorError, LeptonError) as error:
        raise CheckpointError(f"{folder / FOLDER} cannot be read: {error}.") from error


def _nest(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    inputs = {name.removeprefix("inputs/"): x for name, x in tensors.items() if name.startswith("inputs/")}
    targets = {name.removeprefix("targets/"): x for name, x in tensors.items() if name.startswith("targets/")}
    alone = inputs[""] if set(inputs) == {""} else inputs or None
    return {"inputs": alone, "targets": targets, "generator": tensors["generator"]}


def keep_training_rows(folder: Path, prepared: Prepared, tasks: Iterable[Task]) -> int:
    """Write `replay/` for a training, unless that is switched off, and return how many training rows are in it."""
    config: Config = prepared.config
    if not config.data.replay or not all(rows_fit(rows) for rows in prepared.data.values()):
        return 0
    kept = keep_rows(tasks, prepared.data, config.data.replay, config.seed)
    write_kept_rows(folder, kept)
    return len(kept.train)
