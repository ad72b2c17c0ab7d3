"""The house: imports go down only, a method's name stays in its own file, and what is public is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lepton
import lepton.balance

ROOT = Path(lepton.__file__).parent

LAYERS: dict[str, int] = {
    "errors": 0,
    "audio": 1,
    "linalg": 1,
    "tasks": 1,
    "balance": 2,
    "data": 2,
    "gradients": 3,
    "nn": 4,
    "evaluate": 5,
    "train": 6,
    "compress": 7,
    "export": 7,
    "insight": 7,
    "transfer": 7,
    "config": 8,
    "serve": 8,
    "run": 9,
    "recipes": 10,
    "cli": 11,
}
ONLY: dict[str, set[str]] = {
    "balance": {"errors", "linalg"},
    "data": {"errors", "audio", "tasks"},
    "export": {"errors", "data", "nn", "tasks"},
    "serve": {"errors", "data", "export"},
}
"""Packages that may import less than everything below them."""


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py") if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> list[tuple[str, str]]:
    """Every `lepton.x.y` that a file imports anywhere, with the imported name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: relative import; write it out")
    return [(module, name) for module, name in found if module.split(".")[0] == "lepton"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    for module, name in imports(path):
        parts = module.split(".")
        if len(parts) == 1:  # `from lepton import X`: the public face, for recipes and the command line
            assert LAYERS[here] >= 9, f"{path} imports {name} from the package's front door"
            continue
        there = parts[1]
        if there == here:
            continue
        assert LAYERS[there] < LAYERS[here], f"{path} (layer {LAYERS[here]}) imports {module} (layer {LAYERS[there]})"
        assert here not in ONLY or there in ONLY[here], f"{path} may not import {module}"
        assert len(parts) == 2 or there == "recipes", (
            f"{path} reaches into {module}: import what lepton.{there} exports"
        )


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_across_packages_only_public_names_are_imported(path: Path) -> None:
    here = room(path)
    for module, name in imports(path):
        there = module.split(".")[1] if "." in module else ""
        if there and there != here and name and here != "__init__":
            allowed = importlib.import_module(module).__all__
            assert name in allowed, f"{path}: {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_in_a_room_keeps_its_files_to_itself(path: Path) -> None:
    here = ("lepton", *path.relative_to(ROOT).parent.parts)
    for module, _ in imports(path):
        *folder, file = module.split(".")
        if len(folder) > 2 and file.startswith("_"):
            assert here[: len(folder)] == tuple(folder), f"{path} reaches into {module}"


def test_the_table_names_every_room() -> None:
    rooms = {room(path) for path in modules()} - {"__init__", "__main__"}
    assert rooms <= set(LAYERS)


def test_no_balancer_is_named_where_training_happens() -> None:
    bases = {"Balancer", "GradientBalancer", "LossBalancer", "VIEWS"}
    methods = set(lepton.balance.__all__) - bases
    for path in modules():
        if room(path) not in ("train", "gradients", "cli", "nn", "insight"):
            continue
        tree = ast.parse(path.read_text())
        named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        named |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        # The model's default, and what costs are held against, must be some balancer: the one that does nothing.
        assert not (named & methods) - {"Equal"}, f"{path} names {named & methods}"


def public_objects() -> list[tuple[str, object]]:
    found = []
    for info in pkgutil.iter_modules(lepton.__path__):
        package = importlib.import_module(f"lepton.{info.name}")
        found += [(f"{info.name}.{name}", getattr(package, name)) for name in getattr(package, "__all__", [])]
    return found


@pytest.mark.parametrize(("name", "value"), public_objects(), ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_public_is_documented(name: str, value: object) -> None:
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__, f"{name} has no docstring"
        assert len(value.__doc__) > 20


def test_the_public_names() -> None:
    assert sorted(lepton.__all__) == sorted(lepton._HOMES)
    for name in lepton.__all__:
        assert getattr(lepton, name) is not None
    with pytest.raises(AttributeError, match="Did you mean 'LeptonModel'"):
        lepton.LeptonModell  # noqa: B018


# Without collections of garbage: one goes through all of torch's objects, a tenth of a second that falls on whoever
# allocates next.
IMPORT_TIME = """
import gc, sys, time
gc.disable()
start = time.process_time()
import torch
middle = time.process_time()
{statement}
end = time.process_time()
print((end - middle) / (middle - start))
late = ("torchmetrics", "sklearn", "matplotlib", "rich", "typer", "pandas", "transformers")
heavy = [name for name in late if name in sys.modules]
print(",".join(heavy))
"""


@pytest.mark.parametrize("statement", ["import lepton", "from lepton import LeptonModel"])
def test_importing_costs_little_more_than_torch(statement: str) -> None:
    ratios = []
    for _ in range(3):
        code = IMPORT_TIME.format(statement=statement)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        ratio, heavy = run.stdout.split("\n")[:2]
        assert heavy == ""
        ratios.append(float(ratio))
    assert min(ratios) <= 0.2


def test_no_pickle_in_the_package() -> None:
    for path in modules():
        text = path.read_text()
        assert "import pickle" not in text
        # The files of others that `start:` takes, read as tensors only.
        assert text.count("torch.load(") == (path.name == "_tensor_files.py")
        assert "torch.load(" not in text or 'map_location="cpu", weights_only=True)' in text
        assert "weights_only=False" not in text
