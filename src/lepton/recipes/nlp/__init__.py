"""Language: a language model and translation on one network; tags for every word beside a language model."""

from lepton.recipes.nlp.config import RecipeConfig
from lepton.recipes.nlp.data import MULTI30K, UD_EWT, DataSet
from lepton.recipes.nlp.main import RECIPES, RecipeRun, recipe_config, run_recipe
from lepton.recipes.nlp.model import tagging, translation

__all__ = [
    "MULTI30K",
    "RECIPES",
    "UD_EWT",
    "DataSet",
    "RecipeConfig",
    "RecipeRun",
    "recipe_config",
    "run_recipe",
    "tagging",
    "translation",
]
