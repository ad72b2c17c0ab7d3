"""What a prediction costs: more work takes longer, and the figures are those of the calls."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lepton.compress import Cost, bytes_of, measured, measured_together
from lepton.errors import ConfigurationError


def work(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 64)).eval()


def test_more_work_takes_longer() -> None:
    models = {str(width): work(width) for width in (16, 2048, 16384)}
    sizes = {name: bytes_of(model) for name, model in models.items()}
    costs = measured_together(models, torch.randn(64, 64), (1, 64), sizes=sizes, seconds=0.1)
    for small, large in (("16", "2048"), ("2048", "16384")):
        for size in (1, 64):
            assert costs[small].latency[size].p50 < costs[large].latency[size].p50
            assert costs[small].times_faster(costs[large], size) > 1
        assert costs[small].times_smaller(costs[large]) > 5
    for cost in costs.values():
        assert cost.latency[1].p50 < cost.latency[64].p50
        assert cost.latency[1].calls >= 200 and cost.latency[64].calls >= 8


def test_the_figures_are_those_of_the_calls() -> None:
    calls = 0

    def predict(batch: Tensor) -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.02 if calls % 10 == 0 else 0.001)

    found = measured(predict, torch.zeros(4, 1), (1, 4), size=7, seconds=0.05)
    assert found.bytes == 7
    one, four = found.latency[1], found.latency[4]
    assert 1 <= one.p50 < 3 and 20 <= one.p99 < 40
    assert one.rows_per_second == pytest.approx(1e3 / (0.9 * 1.1 + 0.1 * 20.1), rel=0.3)
    assert four.rows_per_second > 2 * one.rows_per_second
    assert set(found.to_dict()["latency"]) == {"1", "4"}


def test_one_thread_that_is_given_back() -> None:
    seen: set[int] = set()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measured(lambda batch: seen.add(torch.get_num_threads()), torch.zeros(1, 1), (1,), seconds=0.01)
        assert seen == {1} and torch.get_num_threads() == 2
        measured(lambda batch: seen.add(torch.get_num_threads()), torch.zeros(1, 1), (1,), threads=2, seconds=0.01)
        assert seen == {1, 2}
    finally:
        torch.set_num_threads(before)


def test_every_row_comes_and_batches_are_full() -> None:
    seen: dict[int, set[float]] = {3: set(), 1: set()}

    def predict(batch: dict[str, Tensor]) -> None:
        seen[len(batch["x"])].update(batch["x"].flatten().tolist())

    measured(predict, {"x": torch.arange(7.0)[:, None]}, (1, 3), seconds=0.01)
    assert seen == {3: set(range(7)), 1: set(range(7))}


def test_batches_as_they_are() -> None:
    seen: set[tuple[int, ...]] = set()
    texts = {1: [torch.zeros(1, 3), torch.zeros(1, 9)], 2: [torch.zeros(2, 9)]}
    measured(lambda batch: seen.add(tuple(batch.shape)), texts, (1, 2), seconds=0.01)
    assert seen == {(1, 3), (1, 9), (2, 9)}
    with pytest.raises(ConfigurationError, match="batches of 4 rows"):
        measured(lambda batch: None, texts, (4,))


def test_what_cannot_be_measured() -> None:
    with pytest.raises(ConfigurationError, match="candidates"):
        measured_together({}, torch.zeros(1, 1))
    with pytest.raises(ConfigurationError, match="at least one row"):
        measured(lambda batch: None, torch.zeros(0, 1))
    with pytest.raises(ConfigurationError, match="bytes of both"):
        Cost(None, {}, 1).times_smaller(Cost(3, {}, 1))
    with pytest.raises(ConfigurationError, match="is not there"):
        bytes_of("nowhere")


def test_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"123")
    (tmp_path / "y").write_bytes(b"12345")
    assert bytes_of(tmp_path) == 8 and bytes_of(tmp_path / "y") == 5
    tied = nn.Linear(4, 4, bias=False)
    assert bytes_of(nn.Sequential(tied, tied)) == 64
