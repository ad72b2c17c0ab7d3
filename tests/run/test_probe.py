"""`probe` measures the model that would be trained, and moves nothing."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from rich.console import Console

from lepton.config import Config
from lepton.errors import ConfigurationError
from lepton.insight import count_memory, measure_gradients, time_in_turns
from lepton.run import build_model, make_config, prepare, probe
from tests.run.test_check import table

SMALL = {"trunk": {"type": "tabular", "width": 16, "depth": 1, "dropout": 0.0, "unknown_rate": 0.0, "embedding": 4}}


def config_of(balance: Any = "equal", **training: Any) -> Config:
    rest = {**SMALL, "balance": balance, "training": {"batch_size": 64, "max_epochs": 2, **training}, "seed": 3}
    return make_config(source=None, targets=["churn", "price"], data={}, rest=rest)


def test_the_probe_measures_the_model_that_would_be_trained_and_leaves_random_numbers_alone() -> None:
    prepared = prepare(config_of("mgda"), table(300))
    state = torch.get_rng_state()
    found = probe(prepared, batches=3)
    assert torch.equal(torch.get_rng_state(), state)
    model = build_model(prepared.config, prepared.encoder, prepared.rules)
    model.task("price").fit_statistics(prepared.data["train"].targets["price"])  # type: ignore[attr-defined]
    order = torch.randperm(len(prepared.data["train"]), generator=torch.Generator().manual_seed(3 * 1_000_003))
    batches = [prepared.data["train"].rows(order[64 * place : 64 * place + 64]) for place in range(3)]
    expected = measure_gradients(model, [(batch.inputs, batch.targets) for batch in batches])
    torch.testing.assert_close(found.gradients.gramians, expected.gramians)
    torch.testing.assert_close(found.gradients.losses, expected.losses)


def test_the_probe_says_twice_the_same_of_all_but_time() -> None:
    prepared = prepare(config_of("cagrad"), table(300))
    once, again = probe(prepared, batches=2), probe(prepared, batches=2)
    assert torch.equal(once.gradients.gramians, again.gradients.gramians)
    assert once.learning_rate == again.learning_rate
    assert torch.equal(once.later.gramians, again.later.gramians)
    assert once.views == again.views
    assert set(once.views) == {"features", "fork_layer"}


def test_views_are_compared_only_where_there_is_something_to_compare() -> None:
    rows = table(300)
    rows["churn"] = [None if row % 4 else value for row, value in enumerate(rows["churn"])]
    assert probe(config_of("equal"), rows, batches=2).views == {}
    found = probe(config_of("mgda"), rows, batches=2)
    assert set(found.views) == {"fork_layer"}
    assert found.labels.share["churn"] == pytest.approx(found.labels.both["churn", "price"])
    assert found.labels.share["price"] == 1


def test_json_and_terminal_can_show_it() -> None:
    found = probe(config_of("mgda", gradient_accumulation_steps=2), table(300), batches=2)
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["later"]["cosines"][0]["tasks"] == ["churn", "price"]
    assert again["cost"]["memory"]["gradients"] > 0
    with open(os.devnull, "w") as nowhere:
        console = Console(width=120, record=True, file=nowhere)
        console.print(found)
    text = console.export_text()
    assert all(item.words.split()[0] in text for item in found.advice)
    assert "learning rate" in text


def test_the_time_of_the_whole_training_is_that_of_its_epochs() -> None:
    cost = probe(config_of(), table(300), batches=2).cost
    assert cost.training_seconds == pytest.approx(2 * cost.epoch_seconds)
    assert cost.epoch_seconds > 3 * cost.step.mean


def test_memory_grows_with_the_batch_but_only_in_the_activations() -> None:
    prepared = prepare(config_of(), table(300))
    model = build_model(prepared.config, prepared.encoder, prepared.rules)
    train = prepared.data["train"]
    few, many = (
        count_memory(model, (rows.inputs, rows.targets))
        for rows in (train.rows(torch.arange(32)), train.rows(torch.arange(128)))
    )
    assert few.weights == many.weights and few.gradients == many.gradients
    assert many.activations > 3 * few.activations


def test_a_slower_action_takes_more_time() -> None:
    found = time_in_turns({"fast": lambda: sum(range(10)), "slow": lambda: sum(range(100_000))}, repeats=5)
    assert found["fast"].mean < found["slow"].mean


def test_one_batch_has_no_interval_and_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="batches must be"):
        probe(config_of(), table(300), batches=1)
