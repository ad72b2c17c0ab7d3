"""What the language recipes may be told."""

from lepton.recipes._settings import RecipeConfig

__all__ = ["RecipeConfig"]
