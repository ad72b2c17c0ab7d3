"""The language recipes, on the first rows of the real data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lepton.errors import ConfigurationError, DataError
from lepton.recipes.nlp import RECIPES, RecipeConfig, recipe_config, run_recipe

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")

SMALL = ("trunk.width=32", "trunk.depth=1", "trunk.heads=2")


@pytest.mark.parametrize(("name", "folder"), [("translation", "multi30k"), ("tagging", "ud_ewt")])
def test_a_variant_of_seconds(name: str, folder: str, data_folder: Path, tmp_path: Path) -> None:
    settings = RecipeConfig(data_folder / folder, tmp_path / name, epochs=2, limit=120, overrides=SMALL)
    (found,) = run_recipe(name, settings, quiet=True)
    losses = [row["val/relative_loss"] for row in found.run.history]
    assert losses[-1] < losses[0] < 1
    spent = [row["train/process_seconds"] for row in found.run.history]
    assert 0 < spent[0] < spent[1] <= found.seconds
    content = json.loads((tmp_path / name / "results.json").read_text())
    assert (
        set(content["seeds"][0]["alone"])
        == set(found.run.tasks)
        == set(content["seeds"][0]["together"]["scores"]["test"])
    )
    if name == "translation":
        assert found.run.predict(["A dog runs ."])["german"].notna().all()
        signatures = content["seeds"][0]["together"]["signatures"]
        assert signatures == {"german": found.run.results["test"]["german"].signatures}
        assert signatures["german"]["bleu"].startswith("nrefs:1|")
        assert found.alone is not None and any("german bleu: sacrebleu nrefs:1|" in note for note in found.alone.notes)


def test_a_missing_file_is_named_with_its_home(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.de.gz.*github.com/multi30k"):
        recipe_config("translation", RecipeConfig(tmp_path, tmp_path / "run"))


def test_an_unknown_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'tagging'"):
        recipe_config("taging", RecipeConfig(tmp_path, tmp_path / "run"))


def test_settings_are_checked(tmp_path: Path) -> None:
    for wrong in ({"seeds": 0}, {"epochs": 0}, {"limit": 3}):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            RecipeConfig(tmp_path, tmp_path / "run", **wrong)  # type: ignore[arg-type]
    assert set(RECIPES) == {"translation", "tagging"}
