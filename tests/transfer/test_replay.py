"""Replay: what is in the memory, counted over many streams."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from lepton import MultiTaskLoss, Trainer
from lepton.balance import UPGrad
from lepton.errors import ConfigurationError, DataError
from lepton.tasks import Classification, Regression
from lepton.transfer import Replay
from tests.transfer.conftest import OLD, make_model, new_rows, old_rows

KIND = Classification("kind", classes=3)


def stored(replay: Replay) -> tuple[Tensor, dict[str, Tensor]]:
    """All rows of the memory."""
    return replay.draw(len(replay))


def test_a_reservoir_holds_every_row_with_the_same_probability() -> None:
    found: Counter[int] = Counter()
    for seed in range(200):
        replay = Replay([KIND], 10, balanced=False, seed=seed)
        for start in range(0, 60, 7):  # the size of the batches does not matter
            rows = torch.arange(start, min(start + 7, 60))
            replay.add(rows[:, None].double(), {"kind": torch.zeros(len(rows), dtype=torch.int64)})
        assert len(replay) == 10
        found.update(int(x) for x in stored(replay)[0].flatten())
    assert sum(found.values()) == 2000
    # Drawn without replacement, the counts vary less than chi-square by the factor 1 - 10/60.
    assert 0.001 < chisquare([found[row] for row in range(60)]).pvalue < 1 - 1e-9


def test_a_balanced_memory_holds_as_many_rows_of_each_class_each_with_the_same_probability() -> None:
    sizes = [80, 12, 30]
    found: Counter[int] = Counter()
    for seed in range(150):
        replay = Replay([KIND], 15, seed=seed)
        order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))
        kind = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
        for part in order.split(10):
            replay.add(part[:, None], {"kind": kind[part]})
        counts = replay.counts
        assert max(counts.values()) - min(counts.values()) <= 1 and sum(counts.values()) == 15
        inputs, targets = stored(replay)
        assert torch.equal(targets["kind"], kind[inputs.flatten()])
        found.update(inputs.flatten().tolist())
    first = 0
    for size in sizes:
        assert chisquare([found[row] for row in range(first, first + size)]).pvalue > 0.001
        first += size


def test_tasks_share_the_memory_whatever_came_first_and_however_many_classes() -> None:
    few, many = Classification("few", classes=2), Classification("many", classes=8)
    replay = Replay([few, many, Regression("size")], 60)
    replay.add(torch.zeros(500, 1), {"many": torch.arange(500) % 8})
    replay.add(torch.ones(200, 1), {"few": torch.arange(200) % 2})
    replay.add(torch.full((90, 1), 2.0), {"size": torch.randn(90)})
    by_task = Counter[str]()
    for (name, _), count in replay.counts.items():
        by_task[name] += count
    assert all(abs(by_task[name] - 20) <= 1 for name in ("few", "many", "size"))
    assert all(abs(count - 10) <= 1 for (name, _), count in replay.counts.items() if name == "few")
    assert all(1 <= count <= 4 for (name, _), count in replay.counts.items() if name == "many")
    inputs, targets = stored(replay)
    assert torch.equal(inputs.flatten() == 2, ~targets["size"].isnan())
    assert torch.equal(inputs.flatten() == 1, targets["few"] != -100)
    assert torch.equal(inputs.flatten() == 0, targets["many"] != -100)


def test_classes_in_blocks_are_balanced_too() -> None:
    replay = Replay([KIND], 9)
    for kind in range(3):
        replay.add(torch.zeros(50, 1), {"kind": torch.full((50,), kind)})
    assert set(replay.counts.values()) == {3}


def test_rows_without_a_label_are_passed_over() -> None:
    replay = Replay([KIND, Regression("size")], 5)
    replay.add(torch.zeros(3, 1), {"kind": torch.tensor([-100, 1, -100]), "size": torch.tensor([float("nan")] * 3)})
    assert replay.counts == {("kind", 1): 1}


def test_mixed_batches_have_new_rows_first_and_missing_labels_between() -> None:
    model = make_model(UPGrad())
    replay = Replay(model.tasks.values(), 50)
    x, targets = old_rows(30)
    replay.fill([(x, targets)])
    batches = [new_rows(8), new_rows(8)]
    mixed = replay.mix(batches, rows=6)
    assert len(mixed) == 2
    for (inputs, found), (new, wanted) in zip(mixed, batches, strict=True):
        assert torch.equal(inputs[:8], new) and torch.equal(found["new"][:8], wanted["new"])
        assert (found["new"][8:] == -100).all() and (found["kind"][:8] == -100).all()
        assert found["size"][:8].isnan().all() and found["marks"][:8].isnan().all()
        for row in range(8, 14):
            place = int((x == inputs[row]).all(1).nonzero())
            assert all(torch.equal(found[name][row], targets[name][place]) for name in OLD)
        criterion = MultiTaskLoss(model)
        outputs, task_weights = model(inputs)
        loss = criterion(outputs, found, task_weights)
        loss.backward()
        assert criterion.last_present.all()
    state = Trainer(model.float(), max_epochs=1).fit(
        Replay(model.tasks.values(), 50).mix([(x.float(), targets | {"new": torch.zeros(30).long()})], rows=4)
    )
    assert state.step == 1  # while the memory is empty, the batches pass as they are


def test_nested_inputs_and_images() -> None:
    replay = Replay([KIND], 4)
    inputs = {"image": torch.zeros(6, 3, 4, 4, dtype=torch.uint8), "numbers": torch.randn(6, 2)}
    replay.add(inputs, {"kind": torch.arange(6) % 3})
    found, _ = replay.draw(9)  # more than there are: with repetition
    assert found["image"].shape == (9, 3, 4, 4) and found["image"].dtype == torch.uint8
    both, _ = next(iter(replay.mix([(inputs, {"kind": torch.zeros(6).long()})], rows=3)))
    assert both["numbers"].shape == (9, 2)


def test_the_draws_are_those_of_the_seed() -> None:
    found = []
    for _ in range(2):
        replay = Replay([KIND], 10, seed=4)
        replay.add(torch.arange(100)[:, None], {"kind": torch.arange(100) % 3})
        found.append(replay.draw(5)[0])
        torch.rand(3)
    assert torch.equal(*found)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="capacity must be"):
        Replay([KIND], 0)
    replay = Replay([KIND], 5)
    with pytest.raises(DataError, match="the memory is empty"):
        replay.draw(1)
    with pytest.raises(ConfigurationError, match=r"knows no task 'kinds'.*know.*Did you mean 'kind'"):
        replay.add(torch.zeros(1, 1), {"kinds": torch.zeros(1).long()})
    replay.add(torch.zeros(2, 3), {"kind": torch.zeros(2).long()})
    with pytest.raises(DataError, match=r"rows \[3\] in torch.float32, but these are \[4\]"):
        replay.add(torch.zeros(2, 4), {"kind": torch.zeros(2).long()})
    with pytest.raises(ConfigurationError, match="no length"):
        len(replay.mix(iter([]), rows=1))


def test_a_memory_goes_on_as_one_that_was_never_saved() -> None:
    streams = [old_rows(40) for _ in range(4)]
    alone, saved = (Replay(make_model(new=False).tasks.values(), 25, seed=3) for _ in range(2))
    for inputs, targets in streams[:2]:
        alone.add(inputs, targets)
        saved.add(inputs, targets)
    state = saved.state_dict()
    taken_up = Replay(make_model(new=False).tasks.values(), 25, seed=9)
    taken_up.load_state_dict(state)
    assert taken_up.counts == alone.counts and taken_up.seen == alone.seen
    for inputs, targets in streams[2:]:
        alone.add(inputs, targets)
        taken_up.add(inputs, targets)
    assert taken_up.counts == alone.counts
    for one, other in zip(alone.draw(25), taken_up.draw(25), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_an_empty_memory_and_one_that_does_not_fit() -> None:
    replay = Replay([KIND], 5)
    replay.load_state_dict(Replay([KIND], 5).state_dict())
    assert len(replay) == 0
    replay.add(torch.zeros(5, 2), {"kind": torch.arange(5) % 3})
    state = replay.state_dict()
    with pytest.raises(ConfigurationError, match=r"holds 5 rows, but this one has room for 3.*at least 5"):
        Replay([KIND], 3).load_state_dict(state)
    with pytest.raises(ConfigurationError, match="knows no task 'kind'"):
        Replay([Regression("other")], 5).load_state_dict(state)
    with pytest.raises(DataError, match="damaged: it names 5 rows"):
        Replay([KIND], 5).load_state_dict({**state, "inputs": state["inputs"][:3]})
