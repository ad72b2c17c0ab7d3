"""Speech: recognition, speaker identification and synthesis on one network, from recordings of spoken digits."""

from lepton.recipes.speech.config import RecipeConfig
from lepton.recipes.speech.data import FSDD, WORDS, Recordings
from lepton.recipes.speech.main import RECIPES, run_recipe, say
from lepton.recipes.speech.model import speech

__all__ = ["FSDD", "RECIPES", "WORDS", "RecipeConfig", "Recordings", "run_recipe", "say", "speech"]
