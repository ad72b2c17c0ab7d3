"""The demonstration on real handwriting: its scenes, its runs, its page, its command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="the demonstration needs the extra demo")
pytest.importorskip("matplotlib", reason="the demonstration needs the extra demo")

from lepton.errors import ConfigurationError, install_line
from lepton.recipes.digits import DigitsConfig, make_model, make_scenes, run_demo
from lepton.recipes.digits.main import balancer_class, chance_levels, new_folder, show_demo

SMALL = {"seeds": 1, "epochs": 1, "train_scenes": 128, "test_scenes": 64, "candidates": 2}


def test_scenes_are_real_digits_and_the_parts_share_none() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    scenes = make_scenes(400, 200, seed=0)
    assert scenes.train.inputs.shape == (400, 1, 10, 14)
    seen: dict[str, set[bytes]] = {}
    known = {
        (image / 16).astype("float32").tobytes(): label
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    for name, part in (("train", scenes.train), ("val", scenes.val), ("test", scenes.test)):
        seen[name] = set()
        for row in range(len(part)):
            picture, pixels = part.inputs[row, 0], part.targets["pixels"][row]
            alone = torch.where(pixels == 1, picture, 0.0)
            assert alone.sum() > 0
            assert part.targets["sum"][row] == part.targets["left"][row] + part.targets["right"][row]
        for row in range(len(part)):  # a digit that stands free of the other is found in the collection
            for y in range(3):
                for x in range(2):
                    crop = part.inputs[row, 0, y : y + 8, x : x + 8].contiguous().numpy().tobytes()
                    if crop in known:
                        assert known[crop] == part.targets["left"][row]
                        seen[name].add(crop)
    assert all(seen.values())
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]


def test_scenes_are_fixed_by_their_seed() -> None:
    first, again, other = (make_scenes(64, 64, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)


def test_chance_is_the_best_constant_prediction() -> None:
    test = make_scenes(64, 300, seed=0).test
    levels = chance_levels(test)
    left = levels["left"][0].chance
    assert left == pytest.approx(max((test.targets["left"] == digit).float().mean().item() for digit in range(10)))
    mae, rmse = (metric.chance for metric in levels["sum"])
    constants = torch.linspace(0, 18, 181)
    errors = (test.targets["sum"][None] - constants[:, None]).abs().mean(1)
    assert mae == pytest.approx(errors.min().item(), abs=1e-5)
    squares = (test.targets["sum"][None] - constants[:, None]).square().mean(1).sqrt()
    assert rmse == pytest.approx(squares.min().item(), abs=1e-3)


def test_the_trunk_serves_all_four_tasks() -> None:
    from lepton.balance import Equal

    model = make_model(("left", "right", "pixels", "sum"), Equal(), seed=0)
    outputs, _ = model(torch.rand(3, 1, 10, 14))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "left": (3, 10),
        "right": (3, 10),
        "pixels": (3, 4, 10, 14),
        "sum": (3,),
    }


def test_one_training_of_each_kind_comes_out() -> None:
    *_, results = run_demo(DigitsConfig(**SMALL))
    assert [run.method for run in results.baselines] == ["alone"] * 4
    assert [run.method for run in results.methods] == ["equal", "log-sum", "tuned fixed", "CAGrad"]
    shared = results.methods[0].parameters
    alone = [run.parameters for run in results.baselines]
    assert shared["shared"] == alone[0]["shared"]
    assert shared["private"] == sum(parameters["private"] for parameters in alone)
    assert "best of 2 random weightings" in results.methods[2].notes
    assert any(key.startswith("conflict/") for key in results.methods[3].history[0])
    assert results.pictures["pixels/predicted"].shape == (6, 10, 14)


def test_it_writes_a_page_a_picture_and_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_demo(DigitsConfig(folder=tmp_path / "demo", **SMALL)) == 0
    printed = capsys.readouterr().out
    assert "left accuracy" in printed
    assert "delta_m" in printed
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "What the network predicts" in page
    assert "Conflict does not predict generalisation" in page
    assert (tmp_path / "demo" / "comparison.png").stat().st_size > 1000
    content = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert len(content["methods"]) == 4


def test_results_are_never_overwritten(tmp_path: Path) -> None:
    folders = [new_folder(tmp_path / "demo") for _ in range(3)]
    assert [folder.name for folder in folders] == ["demo", "demo-2", "demo-3"]


def test_an_unknown_balancer() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'UPGrad'"):
        balancer_class("UPGrat")
    assert balancer_class("mgda").__name__ == "MGDA"


def command(*arguments: str, cwd: Path, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lepton", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def test_control_c_keeps_what_was_trained(tmp_path: Path) -> None:
    running = command("demo", "--seeds", "1", "--epochs", "4", "--scenes", "512", cwd=tmp_path)
    results = tmp_path / "runs" / "demo" / "results.json"
    deadline = time.monotonic() + 120
    while not results.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Interrupted." in out
    assert "Traceback" not in out + err
    assert json.loads(results.read_text())["baselines"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--version"], 0, "lepton 0."),
        (["demo", "--help"], 0, "Example: lepton demo"),
        (["demo", "--balancer", "MGDDA"], 2, "Did you mean 'MGDA'"),
        (["demo", "--seeds", "0"], 2, "--seeds"),
    ],
)
def test_the_command_line(arguments: list[str], status: int, words: str, tmp_path: Path) -> None:
    running = command(*arguments, cwd=tmp_path)
    out, err = running.communicate(timeout=120)
    assert running.returncode == status
    assert words in out + err
    assert "Traceback" not in err


def test_a_missing_extra_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')")
    running = command("demo", cwd=tmp_path)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 2
    assert install_line("demo") in out + err
    assert "Traceback" not in err
