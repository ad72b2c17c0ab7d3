"""A run's folder: what is written where."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lepton.config import Config, config_yaml, read_config
from lepton.data import Encoder, InputEncoder, LabelRule, Split, rules_from_dict, rules_to_dict
from lepton.errors import CheckpointError, ConfigurationError
from lepton.train import write_atomically

__all__ = [
    "FORMAT",
    "check_vocabulary",
    "new_folder",
    "read_architecture",
    "read_json",
    "read_rules",
    "read_run_config",
    "read_split",
    "write_architecture",
    "write_json",
    "write_rules",
    "write_run",
    "write_split",
]

FORMAT = 1
"""Version of the folder's layout; a larger one than this was written by a newer Lepton."""


def new_folder(wanted: Path) -> Path:
    """Make a folder that was not there: `wanted`, or `wanted-2`, `wanted-3`, ... so that no result is overwritten.

    Raises:
        ConfigurationError: the disk does not let one be made there.
    """
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigurationError(f"folder {str(folder)!r} cannot be made: {error.strerror}.") from error
        return folder
    raise AssertionError("unreachable")


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False, default=str).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one where there is no such file.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: it holds no object.")
    return found


def write_run(folder: Path, config: Config, version: str, vocabulary: str = "") -> None:
    """Write `config.yaml` and `run.json`: what the run is and where it came from.

    Args:
        folder: the run's folder.
        config: resolved.
        version: of Lepton.
        vocabulary: fingerprint of the vocabulary that the weights are trained with; empty without one.
    """
    write_atomically(folder / "config.yaml", config_yaml(config).encode())
    about = {
        "format": FORMAT,
        "lepton": version,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "threads": torch.get_num_threads(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
    write_json(folder / "run.json", about | ({"vocabulary": vocabulary} if vocabulary else {}))


def check_vocabulary(folder: Path, encoder: Encoder) -> None:
    """Refuse an encoder whose vocabulary is not the one that the run's weights were trained with.

    Raises:
        CheckpointError: it is another one, or none is known of a run that reads one text as a sequence.
    """
    known = read_json(folder / "run.json").get("vocabulary")
    if known is None and (isinstance(encoder, InputEncoder) or not encoder.fingerprint):
        return  # no tokens or texts, or of before their vocabulary was written down
    encoder.check_fingerprint(str(known), f"the run {str(folder)!r}")


def read_run_config(folder: Path) -> Config:
    """Read the configuration of a run.

    Raises:
        CheckpointError: the folder is no run, or of a newer Lepton.
    """
    if not (folder / "run.json").is_file():
        raise CheckpointError(f"{str(folder)!r} is no run: it holds no run.json.")
    about = read_json(folder / "run.json")
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"{str(folder)!r} has the layout {about.get('format')}, written by lepton {about.get('lepton')}; this "
            f"version reads the layout {FORMAT}."
        )
    return read_config(folder / "config.yaml")


def write_rules(folder: Path, encoder: Encoder, rules: Sequence[LabelRule]) -> None:
    """Write `rules.json`: how columns become inputs and labels."""
    write_json(folder / "rules.json", rules_to_dict(encoder, rules))


def read_rules(folder: Path) -> tuple[Encoder, list[LabelRule]]:
    """Read what `write_rules` wrote."""
    path = folder / "rules.json"
    if not path.is_file():
        raise CheckpointError(f"{path} cannot be read: there is no such file.")
    return rules_from_dict(read_json(path), str(path))


def write_architecture(folder: Path, trunk: nn.Module) -> None:
    """Write `trunk.json` for a pre-trained trunk: what its own folder says of it, so that a run needs that no more."""
    config = getattr(trunk, "config", None)
    if isinstance(config, Mapping):
        write_json(folder / "trunk.json", dict(config))


def read_architecture(folder: Path) -> dict[str, Any] | None:
    """Return what `write_architecture` wrote; None for a trunk that needs nothing.

    Raises:
        CheckpointError: the file is damaged.
    """
    return read_json(folder / "trunk.json") or None


def write_split(folder: Path, split: Split) -> None:
    """Write `split.safetensors`: the row numbers of each part."""
    from safetensors.torch import save

    about = {"fingerprint": split.fingerprint, "how": split.how}
    write_atomically(folder / "split.safetensors", save(dict(split.parts), metadata=about))


def read_split(folder: Path) -> Split:
    """Read what `write_split` wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "split.safetensors", framework="pt") as file:
            parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            about = file.metadata() or {}
        return Split(parts, about["fingerprint"], about["how"])
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{folder / 'split.safetensors'} cannot be read: {error}.") from error
