"""The report and the card of real runs: trained in memory, loaded again, with and without their rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lepton
from lepton.errors import CheckpointError
from lepton.run import Run
from lepton.run.report._cost import cost_of, example_batch
from lepton.run.report._describe import read_data
from lepton.run.report._report import gather

EVIL = "<script>alert('x')</script>"
RANDOM = np.random.default_rng(0)


def rows(n: int = 160) -> dict[str, list[Any]]:
    size = [float(s) for s in RANDOM.normal(size=n)]
    kind = RANDOM.choice(["a", EVIL, "c"], n)
    return {
        "size": size,
        EVIL: kind.tolist(),
        "price": [None if i % 5 == 0 else 2 * s for i, s in enumerate(size)],
        "sold": ["yes" if s > 0 else "no" for s in size],
        "tags": [["big"] * (s > 0.3) + ["odd"] * (i % 3 == 0) for i, s in enumerate(size)],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "houses"
    return lepton.fit(
        rows(),
        {"price": {}, "sold": {}, "tags": {}},
        balance="pcgrad",
        training={"max_epochs": 2},
        folder=folder,
        quiet=True,
    )


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    pandas = pytest.importorskip("pandas")
    folder = tmp_path_factory.mktemp("filed")
    table = {name: column for name, column in rows().items() if name != "tags"}
    pandas.DataFrame(table).to_csv(folder / "houses.csv", index=False)
    return lepton.fit(
        folder / "houses.csv", ["price", "sold"], training={"max_epochs": 2}, folder=folder / "run", quiet=True
    )


def headings(page: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", page)


def test_a_run_in_memory_has_every_section(run: Run) -> None:
    page = run.report().read_text(encoding="utf-8")
    assert headings(page) == [
        "Results", "Cost", "Curves", "Task weights", "Conflict between tasks", "Views of the gradients",
        "Gradient norms", "Samples", "price", "sold", "tags", "Data", "How to make it again",
    ]  # fmt: skip
    assert page.count("<script") == 1 and "&lt;script&gt;alert" in page
    assert len(page.encode()) < 6_000_000


def test_a_loaded_run_whose_rows_are_gone_says_so_and_shows_the_rest(run: Run) -> None:
    page = lepton.load(run.folder).report(run.folder / "again.html").read_text(encoding="utf-8")
    assert "Not shown: the rows are not at hand." in page
    assert "Not measured: the training rows are not at hand." in page
    assert {"Results", "Cost", "Curves", "Data"} <= set(headings(page))


def test_a_loaded_run_reads_its_source_again(filed: Run) -> None:
    first = filed.report().read_text(encoding="utf-8")
    again = lepton.load(filed.folder).report().read_text(encoding="utf-8")
    assert first == again
    assert "sold" in headings(again)


def test_views_are_measured_where_a_method_compares_gradients(run: Run, filed: Run) -> None:
    parameters = {name: value.clone() for name, value in run.model.state_dict().items()}
    found = gather(run, rows=True).views
    assert found is not None and found.balancer == "PCGrad" and found.chosen == "fork_layer"
    assert found["parameters"].weights.n == found.batches >= 2
    assert all(torch.equal(value, parameters[name]) for name, value in run.model.state_dict().items())
    assert not run.model.training
    page = run.report().read_text(encoding="utf-8")
    assert "Recommendation: " in page and "Distance of the weights from the exact ones" in page
    without = gather(filed, rows=True)
    assert without.views is None and without.no_views == ""


def test_another_source_is_not_taken_for_the_runs_own(filed: Run, tmp_path: Path) -> None:
    source = Path(str(filed.config.data.source))
    kept = source.read_text()
    try:
        source.write_text(kept + kept.split("\n")[-2] + "\n")
        page = lepton.load(filed.folder).report(tmp_path / "r.html").read_text(encoding="utf-8")
    finally:
        source.write_text(kept)
    assert "is not the table that this run was trained on" in page


def test_predictions_in_the_report_are_those_of_the_run(run: Run) -> None:
    found = gather(run, rows=True)
    assert found.sample is not None and run.rows is not None
    table = run.rows["test"].take(found.sample.rows)
    expected = run.predict(table).to_pydict()
    price, sold = (next(task for task in found.tasks if task.name == name) for name in ("price", "sold"))
    assert price.predictions is not None and sold.predictions is not None
    np.testing.assert_allclose(price.predictions.predicted, expected["price"], rtol=1e-5)
    assert [sold.classes[i] for i in sold.predictions.predicted] == expected["sold"]
    np.testing.assert_allclose(np.isnan(price.predictions.truth), [v is None for v in table["price"].to_pylist()])


def test_the_summary_of_the_data_counts_what_is_there(run: Run) -> None:
    found = read_data(run.folder)
    assert found is not None and run.rows is not None
    assert found.rows == {part: table.num_rows for part, table in run.rows.items()}
    train = run.rows["train"]
    labels = {item.task: item for item in found.labels}
    missing = train["price"].null_count / train.num_rows
    assert labels["price"].present["train"] == pytest.approx(1 - missing)
    words = train["sold"].to_pylist()
    assert labels["sold"].counts["train"] == (words.count("no"), words.count("yes"))
    prices = [value for value in train["price"].to_pylist() if value is not None]
    assert labels["price"].mean["train"] == pytest.approx(np.mean(prices), rel=1e-5)
    assert found.overlap[0][1] == pytest.approx(1 - missing, abs=1e-4)
    roles = {column.name: column.role for column in found.columns}
    assert roles["price"] == "target of price" and roles["size"] == "input"


def test_a_damaged_summary_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"data\.json is damaged"):
        read_data(tmp_path)


def test_costs_are_those_of_the_model(run: Run) -> None:
    cost = cost_of(run.model, run.config, run.encoder, run.folder, 1.0, {})
    assert cost.shared + sum(cost.private.values()) == sum(p.numel() for p in run.model.parameters())
    heads = [run.model.heads[name] for name in run.tasks]
    assert all(isinstance(head, nn.Linear) for head in heads)
    assert cost.head_flops == sum(2 * head.in_features * head.out_features for head in heads)
    assert cost.disk_bytes == (run.folder / "checkpoints/best/model.safetensors").stat().st_size


def test_heads_that_are_stored_together_are_counted_too(tmp_path: Path) -> None:
    names = [f"y{i}" for i in range(64)]
    size = RANDOM.normal(size=60)
    table = {"size": size.tolist(), **{name: (size * i).tolist() for i, name in enumerate(names, 1)}}
    run = lepton.fit(table, names, training={"max_steps": 1}, folder=tmp_path / "run", quiet=True)
    cost = gather(run, rows=False).cost
    assert set(cost.private.values()) == {1 + run.model.heads["y0"].in_features}
    assert cost.shared + sum(cost.private.values()) == sum(p.numel() for p in run.model.parameters())


def test_an_example_batch_needs_no_source_and_fits_the_trunk(run: Run) -> None:
    inputs = example_batch(run.config, run.encoder, rows=3)
    with torch.no_grad():
        outputs, _ = run.model(inputs)
    assert outputs["price"].shape == (3,)


def test_baselines_in_the_folder_are_compared_with(filed: Run, tmp_path: Path) -> None:
    results = filed.results["test"]["price"].metrics
    alone = {"price": {"test": {name: value / 2 for name, value in results.items()}, "parameters": 5, "seconds": 2.0}}
    apart = {"shared/price/rmse": {"value": 1.0, "low": 0.5, "high": 1.5}}
    delta = {"shared/per_task": {"value": -50.0, "low": -60.0, "high": -40.0}}
    gains = {"differences": apart, "delta_m": delta, "at_chance": []}
    (filed.folder / "baselines.json").write_text(json.dumps({"alone": alone, "boosting": {}, "gains": gains}))
    try:
        page = filed.report(tmp_path / "r.html").read_text(encoding="utf-8")
    finally:
        (filed.folder / "baselines.json").unlink()
    assert "Worse than in networks of their own: price (RMSE" in page
    assert "shared is worse, +1 [+0.5, +1.5]" in page
    assert "delta_m is −50.0 [−60.0, −40.0]" in page and "Sharing is worse" in page


def test_training_leaves_a_card_that_yaml_can_read(run: Run) -> None:
    yaml = pytest.importorskip("yaml")
    card = (run.folder / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    names = [result["task"]["name"] for result in front["model-index"][0]["results"]]
    assert names == ["price", "sold", "tags"]
    assert "<script" not in card.split("\n---\n", 1)[1]


def test_the_command_line_writes_the_report(filed: Run, tmp_path: Path) -> None:
    testing = pytest.importorskip("typer.testing")
    from lepton.cli._main import app

    wanted = tmp_path / "page.html"
    found = testing.CliRunner().invoke(app, ["report", str(filed.folder), "--output", str(wanted), "--json"])
    assert found.exit_code == 0 and json.loads(found.stdout) == {"report": str(wanted)}
    assert wanted.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_pictures_and_masks_are_shown(tmp_path: Path) -> None:
    images = pytest.importorskip("PIL.Image")
    paths, masks = [], []
    for i in range(40):
        mask = np.zeros((16, 16), np.uint8)
        mask[:, : 4 + i % 8] = 1
        mask[0] = 255
        images.fromarray(mask).save(tmp_path / f"m{i}.png")
        images.fromarray((mask * 90).astype(np.uint8)).save(tmp_path / f"i{i}.png")
        paths.append(str(tmp_path / f"i{i}.png"))
        masks.append(str(tmp_path / f"m{i}.png"))
    table = {"image": paths, "area": masks, "wide": ["yes" if i % 8 > 3 else "no" for i in range(40)]}
    run = lepton.fit(
        table,
        {"area": {"type": "segmentation", "classes": ["ground", EVIL]}, "wide": {}},
        training={"max_steps": 2, "num_workers": 0},
        folder=tmp_path / "run",
        quiet=True,
    )
    page = run.report().read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") > 10
    assert "Intersection over union" in page and page.count("<script") == 1
