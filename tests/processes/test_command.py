"""`torchrun -m lepton train`: the run of two processes, and one that loses a process on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import lepton
from lepton.data import write_atomically

CONFIG = """
data: {source: rows.csv}
tasks: {price: {type: regression}, kind: {type: classification}}
trunk: {type: tabular, dropout: 0.1}
balance: {method: cagrad}
training: {max_epochs: 3, batch_size: 30, num_workers: 0}
"""


def torchrun(
    folder: Path, *arguments: str, processes: int = 2, restarts: int = 0, what: str = "config.yaml"
) -> subprocess.Popen[str]:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=draws)
    lines = ["a,b,c,price,kind"]
    for row, (a, b, c) in enumerate(x.tolist()):
        price = "" if row % 3 == 0 else f"{2 * a - b:.4f}"
        lines.append(f"{a:.4f},{b:.4f},{c:.4f},{price},{'yes' if a + c > 0 else 'no'}")
    write_atomically(folder / "rows.csv", "\n".join(lines).encode())
    write_atomically(folder / "config.yaml", CONFIG.encode())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["--max-restarts", str(restarts), "--monitor-interval", "0.1", "-m", "lepton", "train"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *what.split(), *arguments], cwd=folder, env=environment, **pipes)  # type: ignore[call-overload,no-any-return]


def finished(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return out


def rows_of(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.faults)])
def test_two_processes_write_one_run(parallel: str, tmp_path: Path) -> None:
    out = finished(torchrun(tmp_path, f"training.parallel={parallel}", "--folder", "run", "--json"))
    assert len(out.strip().splitlines()) == 1  # one result, of the first process
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "rows.csv", "run"]
    run = lepton.load(tmp_path / "run")
    assert json.loads(out)["results"]["test"]["kind"]["metrics"]["accuracy"] > 0.7
    assert len(run.predict(tmp_path / "rows.csv")) == 400
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == [1, 2, 3]
    again = run.evaluate(tmp_path / "rows.csv")
    assert again["kind"].n_labels == 400


@pytest.mark.faults
@pytest.mark.parametrize("processes", [1, 3])
def test_another_number_of_processes_goes_on(processes: int, tmp_path: Path) -> None:
    process = torchrun(tmp_path, "training.max_epochs=200", "--folder", "run", "--quiet")
    while not (tmp_path / "run" / "checkpoints" / "last").is_dir():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    config = (tmp_path / "run" / "config.yaml").read_text().replace("max_epochs: 200", "max_epochs: 8")
    write_atomically(tmp_path / "run" / "config.yaml", config.encode())
    before = len(rows_of(tmp_path / "run"))
    assert before < 8
    finished(torchrun(tmp_path, "--quiet", processes=processes, what="--resume run"))
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == list(range(1, 9))


@pytest.mark.faults
def test_a_killed_process_costs_the_steps_since_the_checkpoint(tmp_path: Path) -> None:
    """Row 7 through the command: torchrun starts both anew, they go on with the same run, to the same end."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    options = ("training.max_epochs=30", "--folder", "run", "--quiet")
    finished(torchrun(whole, *options))
    process = torchrun(killed, *options, restarts=3)
    threading.Thread(target=_kill_one, args=(process.pid, killed / "run"), daemon=True).start()
    finished(process)
    assert (killed / "died").exists()
    assert sorted(path.name for path in killed.iterdir()) == ["config.yaml", "died", "rows.csv", "run"]
    assert rows_of(killed / "run") == rows_of(whole / "run")


def _kill_one(agent: int, run: Path) -> None:
    """Kill a child of torchrun when a checkpoint is there."""
    while not (run / "checkpoints" / "last").is_dir():
        time.sleep(0.02)
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    (run.parent / "died").touch()
