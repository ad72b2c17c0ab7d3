"""`manifest.json` of an exported folder: what goes in, what comes out, by which rules, and a hash of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lepton.data import Encoder, LabelRule, rules_from_dict
from lepton.errors import CheckpointError, ExportError
from lepton.export._reading import Reading

__all__ = [
    "FLOAT32",
    "FORMAT",
    "MANIFEST",
    "MODEL",
    "Manifest",
    "Port",
    "described",
    "hash_of",
    "is_export",
    "read_manifest",
]

FORMAT = 1
"""Version of the folder's layout; a larger one than this was written by a newer Lepton."""

MANIFEST, MODEL = "manifest.json", "model.onnx"

FLOAT32 = "float32"

_BLANK = "0" * 64
"""What stands in the place of the manifest's own hash while it is taken."""

_BLOCK = 1 << 20

_HOLDS = {
    ("classification", "label"): "number of the most probable class: argmax of the logits",
    ("classification", "probability"): "softmax of the logits, one number for each label",
    ("multi_label", "label"): "whether each label's probability is above one half",
    ("multi_label", "probability"): "sigmoid of the logits, one number for each label",
    ("regression", "value"): "in the units of the target's column: raw output * std + mean",
    ("segmentation", "label"): "number of the most probable class of each pixel: argmax of the logits",
    ("language_modeling", "perplexity"): "exp of the mean negative log-probability of next_tokens",
    ("speech_recognition", "logits"): "of the blank and the characters at each frame, searched by CTC afterwards",
    ("token_classification", "label"): "number of the most probable class at each position: argmax of the logits",
    ("token_classification", "probability"): "softmax of the logits at each position",
}


@dataclass(frozen=True)
class Port:
    """One tensor that goes into the graph or comes out of it.

    Attributes:
        name: its name in the graph; of an output `TASK.KEY`.
        dtype: as torch names it, without `torch.`.
        shape: sizes; a word where any number may stand.
        holds: what the numbers are, in words.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    holds: str = ""

    @property
    def key(self) -> str:
        """What the task's `predict` calls it."""
        return self.name.rpartition(".")[2]

    @property
    def task(self) -> str:
        """The task of an output."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Manifest:
    """What an exported folder says of itself.

    Attributes:
        name: of the run.
        versions: of the packages that wrote it.
        inputs: what the graph takes.
        outputs: task -> what the graph gives for it.
        rules: rules of inputs and labels, see `lepton.data.rules_to_dict`.
        reading: how rows become batches, beside the rules.
        beams: transcript -> texts that the search for it keeps at a time.
        left_out: task of the run -> why it is not here.
        checked: rows that run and graph were compared on, the tolerance, and the largest difference of each output; of
            a rewritten folder, those from the graph that it was made of, and for each output of labels the share of
            them that is the same (`agreement`).
        weights: what the weights are, such as `float32` or `int8`.
        files: file -> its SHA-256.
        format: version of the layout.
    """

    name: str
    versions: dict[str, str]
    inputs: tuple[Port, ...]
    outputs: dict[str, tuple[Port, ...]]
    rules: dict[str, Any]
    reading: Reading = Reading()  # noqa: RUF009  # frozen
    beams: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    checked: dict[str, Any] = field(default_factory=dict)
    weights: str = FLOAT32
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that the graph predicts."""
        return list(self.outputs)

    def encoder_and_rules(self) -> tuple[Encoder, list[LabelRule]]:
        """Return what turns rows into inputs, and the rules of the labels of the tasks that are here."""
        encoder, rules = rules_from_dict(self.rules, MANIFEST)
        return encoder, [rule for rule in rules if rule.task in self.outputs]

    def to_bytes(self) -> bytes:
        """Return the file: JSON with the hash of itself, taken with zeros in its place."""
        _, rules = self.encoder_and_rules()
        tasks = {rule.task: self._described(rule) for rule in rules}
        content = {
            "format": self.format,
            "sha256": _BLANK,
            "name": self.name,
            "versions": self.versions,
            "inputs": [asdict(port) for port in self.inputs],
            "tasks": tasks,
            "left_out": self.left_out,
            "reading": asdict(self.reading),
            "beams": self.beams,
            "rules": self.rules,
            "checked": self.checked,
            "weights": self.weights,
            "files": self.files,
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        return text.replace(_BLANK, hashlib.sha256(text.encode()).hexdigest(), 1).encode()

    def _described(self, rule: LabelRule) -> dict[str, Any]:
        return {
            "kind": rule.kind,
            "predicted": rule.predicted,
            "labels": list(rule.classes),
            "units": [f"those of the column {name!r}" for name in rule.columns if rule.kind == "regression"],
            "outputs": [asdict(port) for port in self.outputs[rule.task]],
        }


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an exported folder, and compare its own hash.

    Raises:
        ExportError: the folder is no export, is damaged, or was written by a newer Lepton.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ExportError(f"{str(folder)!r} is no exported model: it holds no {MANIFEST}. Make one:  lepton export RUN")
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text)
        newer = content["format"] > FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is damaged: {error!r}.") from error
    if newer:
        raise ExportError(
            f"{str(folder)!r} has the layout {content['format']}, written by lepton "
            f"{content.get('versions', {}).get('lepton')}; this version reads the layout {FORMAT}: install a newer one."
        )
    told = str(content.get("sha256"))
    if hashlib.sha256(text.replace(told, _BLANK, 1).encode()).hexdigest() != told:
        raise ExportError(f"{path} was changed after it was written: its SHA-256 is another one. Export the run again.")
    return _manifest_of(content, path)


def _manifest_of(content: Mapping[str, Any], path: Path) -> Manifest:
    try:
        found = Manifest(
            name=content["name"],
            versions=content["versions"],
            inputs=_ports(content["inputs"]),
            outputs={task: _ports(about["outputs"]) for task, about in content["tasks"].items()},
            rules=content["rules"],
            reading=_reading(content["reading"]),
            beams=content["beams"],
            left_out=content["left_out"],
            checked=content["checked"],
            weights=content.get("weights", FLOAT32),  # the first folders do not say
            files=content["files"],
            format=content["format"],
        )
        found.encoder_and_rules()
    except (KeyError, TypeError, AttributeError, CheckpointError) as error:
        raise ExportError(f"{path} is damaged: {error}.") from error
    return found


def _reading(found: Mapping[str, Any]) -> Reading:
    size = found["image_size"]
    return Reading(**{**found, "image_size": None if size is None else tuple(size)})


def _ports(described: Sequence[Mapping[str, Any]]) -> tuple[Port, ...]:
    return tuple(Port(**{**port, "shape": tuple(port["shape"])}) for port in described)


def described(rule: LabelRule, ports: Sequence[Port]) -> tuple[Port, ...]:
    """Return the outputs of one task with the words that say what they hold.

    Args:
        rule: of its labels.
        ports: its outputs.
    """
    return tuple(replace(port, holds=_HOLDS.get((rule.kind, port.key), "")) for port in ports)


def is_export(folder: Path) -> bool:
    """Return whether a folder is an exported model, by its manifest, and not a run."""
    return (folder / MANIFEST).is_file() and not (folder / "run.json").exists()


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
