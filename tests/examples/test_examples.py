"""Every example runs in a few steps and learns something."""

from __future__ import annotations

import importlib
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch

import lepton
from tests.conftest import gradients

pytest.importorskip("sklearn", reason="the examples read scikit-learn's digits: pip install 'lepton-mtl[demo]'")

from digits import Digits

EXAMPLES = Path(__file__).parents[2] / "examples"
CHANCE = 0.1


@pytest.fixture(scope="module")
def rows() -> Digits:
    return Digits(train=True, missing=1 / 3)


def test_a_third_of_the_training_labels_is_missing_and_none_of_the_test_labels(rows: Digits) -> None:
    test = Digits(train=False)
    for name, missing in (("digit", -100), ("ink", math.nan), ("slant", math.nan)):
        gone = rows.targets[name].isnan() if math.isnan(missing) else rows.targets[name] == missing
        assert 0.25 < gone.float().mean() < 0.4
        assert not test.targets[name].isnan().any()
    assert len(rows) + len(test) == 1797


def test_slant_is_zero_for_an_upright_stroke_and_grows_to_the_right() -> None:
    from digits import slant

    upright, diagonal = torch.zeros(8, 8), torch.eye(8).flip(1)
    upright[:, 3] = 1
    torch.testing.assert_close(slant(torch.stack([upright, diagonal])), torch.tensor([0.0, 1.0]))


def test_plain_loop_learns_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.import_module("plain_loop").main(epochs=4)
    assert found["digit/accuracy"] > 5 * CHANCE
    assert found["slant/r2"] > 0.5
    assert found["ink/r2"] > 0.3
    assert "weights at the fork: digit" in capsys.readouterr().out


def test_plain_loop_repeats_itself() -> None:
    plain_loop = importlib.import_module("plain_loop")
    assert plain_loop.main(epochs=1) == plain_loop.main(epochs=1)
    assert plain_loop.main(epochs=1) != plain_loop.main(epochs=1, seed=1)


def test_your_own_model_is_balanced_by_its_fork_and_only_its_trunk() -> None:
    example = importlib.import_module("your_own_model")
    torch.manual_seed(0)
    model, test = example.DigitNet(), Digits(train=False)
    example.loss_of(model, test.pixels, test.targets).backward()
    balanced = [gradients(part).clone() for part in (model.trunk, model.digit, model.slant)]
    model.zero_grad()
    with lepton.no_balancing():
        example.loss_of(model, test.pixels, test.targets).backward()
    plain = [gradients(part) for part in (model.trunk, model.digit, model.slant)]
    assert (balanced[0] - plain[0]).norm() > 0.1 * plain[0].norm()
    torch.testing.assert_close(balanced[1:], plain[1:])


def test_your_own_model_learns() -> None:
    found = importlib.import_module("your_own_model").main(epochs=4)
    assert found["digit/accuracy"] > 5 * CHANCE
    assert found["slant/mae"] < 0.08  # always to answer the mean: 0.087


def test_lightning_module_learns() -> None:
    pytest.importorskip("lightning", reason="the example trains with lightning: pip install lightning")
    found = importlib.import_module("lightning_module").main(epochs=4)
    assert found["val/digit/accuracy"] > 5 * CHANCE
    assert found["val/slant/r2"] > 0.5


def test_hf_trainer_learns() -> None:
    pytest.importorskip("transformers", reason="the example trains with transformers: pip install transformers")
    pytest.importorskip("accelerate", reason="the Trainer needs accelerate: pip install accelerate")
    found = importlib.import_module("hf_trainer").main(epochs=5)
    assert found["eval_digit/accuracy"] > 3 * CHANCE
    assert found["eval_ink/r2"] > 0.5


@pytest.mark.parametrize("name", ["plain_loop", "your_own_model"])
def test_a_script_takes_its_arguments(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--epochs", "1"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert "digit/accuracy" in capsys.readouterr().out


def test_two_objectives_descend_and_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the example draws: pip install 'lepton-mtl[plot]'")
    example = importlib.import_module("two_objectives")
    # By hand at (0, -2): tanh(1) of the bowls, above is zero.
    below = math.tanh(1)
    expected = torch.tensor([0.1 * ((49 + 3.6) / 10 - 20) * below, ((49 + 3.6) / 10 - 20) * below])
    torch.testing.assert_close(example.objectives(torch.tensor([0.0, -2.0])), expected)
    picture = tmp_path / "two.png"
    paths = example.main(["--steps", "200", "--methods", "Equal,FAMO,NashMTL", "--picture", str(picture)])
    assert picture.stat().st_size > 10_000 and "NashMTL" in capsys.readouterr().out
    for name, found in paths.items():  # every method descends its own way: Equal down the sum, Nash by equal shares
        start, end = example.objectives(found[4][0]), example.objectives(found[4][-1])
        assert (found[4][-1] - found[4][0]).norm() > 0.1 and not (end > start).all()
        assert name != "Equal" or end.sum() < start.sum() - 0.1
