"""The language recipes: one network for all tasks, then each task alone for as long, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from lepton.config import Config
from lepton.errors import ConfigurationError, nearest
from lepton.recipes._runs import ProcessTime, RecipeRun, write_results
from lepton.recipes.nlp.config import RecipeConfig
from lepton.recipes.nlp.model import tagging, translation
from lepton.run import load, new_folder, override_config, run_baselines, train_run

__all__ = ["RECIPES", "RecipeRun", "recipe_config", "run_recipe"]

RECIPES: dict[str, Callable[[RecipeConfig], Config]] = {"translation": translation, "tagging": tagging}


def recipe_config(name: str, settings: RecipeConfig) -> Config:
    """Return the configuration of a recipe.

    Raises:
        ConfigurationError: there is no recipe of that name, or an override that is not allowed.
        DataError: a file of the data set is missing.
    """
    if name not in RECIPES:
        raise ConfigurationError(f"there is no recipe {name!r}; there are {sorted(RECIPES)}.{nearest(name, RECIPES)}")
    return RECIPES[name](settings)


def run_recipe(name: str, settings: RecipeConfig, *, quiet: bool = False) -> Iterator[RecipeRun]:
    """Train a recipe, yielding each seed when it is done; `results.json` in the folder grows with them.

    Args:
        name: `translation` or `tagging`.
        settings: data, folder, length.
        quiet: print nothing.

    Raises:
        ConfigurationError: as in `recipe_config`.
        DataError: as in `recipe_config`, or rows that cannot be read.
    """
    config = recipe_config(name, settings)
    folder = new_folder(settings.folder)
    done: list[RecipeRun] = []
    for seed in range(config.seed, config.seed + settings.seeds):
        start = time.process_time()
        run = train_run(
            override_config(config, [f"seed={seed}"]), folder / f"seed-{seed}", quiet=quiet, callbacks=[ProcessTime()]
        )
        found = RecipeRun(seed, run, time.process_time() - start)
        if settings.alone:
            found.alone = run_baselines(load(run.folder), budget="time", boosting=False, quiet=quiet)
        done.append(found)
        write_results(folder / "results.json", name, done)
        yield found
