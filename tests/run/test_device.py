"""Where a run trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import lepton
from lepton.config import check_config
from lepton.errors import ConfigurationError
from lepton.run import training_device


def test_auto_is_a_gpu_if_there_is_one() -> None:
    expected = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    assert training_device("auto") == expected
    assert training_device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused() -> None:
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ConfigurationError, match=rf"training.device is '{missing}'.*\['cpu'.*'auto'"):
        training_device(missing)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "xla", "cuda:-1"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"training\.device: should be auto, cpu, cuda, cuda:N or mps, but it"):
        check_config({"tasks": ["a"], "training": {"device": name}})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_trains_and_predicts_on_a_gpu(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"x": draw.normal(size=400), "y": draw.normal(size=400)})
    frame["size"], frame["sign"] = frame.x * 2, np.where(frame.y > 0, "plus", "minus")
    options = {"balance": {"method": "cagrad"}, "training": {"max_epochs": 3, "device": "cuda"}}
    run = lepton.fit(frame, targets=["size", "sign"], folder=tmp_path / "run", quiet=True, **options)
    assert run.model.device.type == "cuda"
    loaded = lepton.load(run.folder)
    there, here = run.predict(frame), loaded.predict(frame)
    np.testing.assert_allclose(there["size"], here["size"], atol=1e-3)
