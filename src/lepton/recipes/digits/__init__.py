"""Two overlapping handwritten digits: four tasks of three kinds from one picture."""

from lepton.recipes.digits.config import DigitsConfig
from lepton.recipes.digits.data import Scenes, make_scenes
from lepton.recipes.digits.main import run_demo, show_demo
from lepton.recipes.digits.model import make_model, make_tasks

__all__ = ["DigitsConfig", "Scenes", "make_model", "make_scenes", "make_tasks", "run_demo", "show_demo"]
