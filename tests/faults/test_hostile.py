"""Files from strangers: a checkpoint, a configuration, a class to import. Nothing of theirs runs. Row 10."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lepton
from lepton.config import check_config, read_config
from lepton.errors import CheckpointError, ConfigurationError
from lepton.train import load_weights, read_checkpoint, save_checkpoint
from tests.conftest import make_model, parameters
from tests.train.conftest import loader, trainer

PACKAGE = Path(lepton.__file__).parent


# -- the package --------------------------------------------------------------------------------------------------
def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def runs_code(path: Path) -> Iterator[str]:
    """Return what of a file could run code that it reads."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (f"import {name}" for name in names if name.split(".")[0] in modules)
    for name, call in calls(tree):
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        last = name.rpartition(".")[2]
        if name == "torch.load" and options.get("weights_only") != "True":
            yield ast.unparse(call)
        if name in ("eval", "exec", "torch.save", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            yield ast.unparse(call)
        if last in ("load", "memmap") and options.get("allow_pickle", "False") != "False":
            yield ast.unparse(call)
        if options.get("trust_remote_code", "False") != "False":
            yield ast.unparse(call)


def test_nothing_in_the_package_unpickles_or_runs_what_it_reads() -> None:
    found = {str(path.relative_to(PACKAGE)): list(runs_code(path)) for path in sorted(PACKAGE.rglob("*.py"))}
    assert len(found) > 100
    assert {path: what for path, what in found.items() if what} == {}


def test_classes_are_imported_in_one_place_of_the_configuration() -> None:
    """`load_class`, which asks for trust, and the package's own lazy names."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for name, _ in calls(ast.parse(path.read_text(encoding="utf-8")))
        if name.endswith("import_module") or name == "__import__"
    }
    assert found <= {"config/_read.py", "errors.py", "__init__.py"}


# -- checkpoints --------------------------------------------------------------------------------------------------
class Bomb:
    """What runs when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.sign),)


def plant(folder: Path, name: str, content: bytes) -> None:
    """Put a file into a checkpoint, with a manifest that says it is right."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "state.json", ".metadata", "x.pt"])
def test_a_planted_pickle_does_not_run(name: str, tmp_path: Path) -> None:
    trainer(folder=tmp_path, max_epochs=1).fit(loader())
    last = tmp_path / "checkpoints" / "last"
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    pickle.loads(bomb)
    assert (tmp_path / "ran").is_dir()  # it would
    (tmp_path / "ran").rmdir()
    plant(last, name, bomb)
    run = trainer(folder=tmp_path, max_epochs=2, resume_from_checkpoint="auto")
    if name in (".metadata", "x.pt"):
        run.fit(loader())  # nobody reads it
    else:
        with pytest.raises(CheckpointError):
            run.fit(loader())
    assert not (tmp_path / "ran").exists()


HOSTILE = {
    "a header of 8 EiB": struct.pack("<Q", 2**63) + b"{}",
    "an offset beyond the end": struct.pack("<Q", 64)
    + json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode().ljust(64),
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_weights_that_lie_about_their_size(name: str, tmp_path: Path) -> None:
    model = make_model()
    save_checkpoint(tmp_path / "best", model, {})
    plant(tmp_path / "best", "model.safetensors", HOSTILE[name])
    before = parameters(model)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_weights(tmp_path / "best", model)
    assert (parameters(model) == before).all()


def test_a_state_nested_too_deep_is_refused(tmp_path: Path) -> None:
    trainer(folder=tmp_path, max_epochs=1).fit(loader())
    plant(tmp_path / "checkpoints" / "last", "state.json", b'{"format": 2, "training": ' + b"[" * 200_000)
    with pytest.raises(CheckpointError, match="cannot be read"):
        trainer(folder=tmp_path, max_epochs=2, resume_from_checkpoint="auto").fit(loader())


@pytest.mark.parametrize("name", ["/dev/zero", "../secret", "link"])
def test_a_manifest_that_names_what_lies_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    """To read a device to its end would never end."""
    save_checkpoint(tmp_path / "best", make_model(), {})
    (tmp_path / "best" / "link").symlink_to("/dev/zero")
    manifest = json.loads((tmp_path / "best" / "manifest.json").read_text()) | {name: "0" * 64}
    (tmp_path / "best" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="no file of its own"):
        read_checkpoint(tmp_path / "best")


# -- configurations; tests/config/test_yaml.py has more -------------------------------------------------------------
BOMBS = {
    "a tag that runs": "data: !!python/object/apply:os.mkdir ['ran']\ntasks: [y]\n",
    "nine levels of nine aliases": "data:\n  a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"  {b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "101 aliases": "a: &a 1\nb: [" + "*a, " * 101 + "]\n",
    "a megabyte and one": "#" * 1_000_001,
    "21 levels": "data: " + "[" * 21 + "]" * 21,
}


@pytest.mark.parametrize("name", BOMBS)
def test_configurations_that_would_run_or_explode(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(BOMBS[name])
    with pytest.raises(ConfigurationError):
        read_config(tmp_path / "c.yaml")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", ["trunk", "head"])
def test_a_class_from_a_configuration_needs_trust(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it would already run its file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "planted.py").write_text("import os; os.mkdir('ran')\n")
    own = {"type": "custom", "class": "planted:Planted"}
    task = {"type": "regression", **({"head": own} if part == "head" else {})}
    content = {"data": {}, "tasks": {"y": task}, **({"trunk": own} if part == "trunk" else {})}
    rows = {"x": list(range(40)), "y": [float(n) for n in range(40)]}
    check_config(content)  # names alone import nothing
    with pytest.raises(ConfigurationError, match="trust"):
        lepton.fit(rows, content["tasks"], trunk=content.get("trunk", "auto"), folder=tmp_path / "run", quiet=True)
    assert not (tmp_path / "ran").exists()
