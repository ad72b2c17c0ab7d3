"""The networks of the language recipes, as configurations."""

from __future__ import annotations

from typing import Any

from lepton.config import Config, check_config
from lepton.recipes.nlp.config import RecipeConfig
from lepton.recipes.nlp.data import MULTI30K, UD_EWT
from lepton.run import override_config

__all__ = ["tagging", "translation"]


def translation(settings: RecipeConfig) -> Config:
    """Return the configuration of a language model of English and a translation into German on one network.

    One causal Transformer reads `[START a dog runs END TARGET ein hund läuft]` once. The language model's output layer
    reads the states of the English part, the translation's those of the German part.
    """
    return _with_settings(
        settings,
        {
            "data": {**MULTI30K.sources(settings.data), "inputs": {"en": "text"}, "vocabulary": 2500},
            "tasks": {
                "english": {"type": "language_modeling", "column": "en", "label_smoothing": 0.1},
                "german": {"type": "translation", "column": "de", "label_smoothing": 0.1},
            },
            "trunk": {"type": "transformer", "width": 128, "depth": 4, "heads": 4, "feedforward": 512},
            "training": {
                "batch_size": 64,
                "max_epochs": 12,
                "learning_rate": 3e-3,
                "betas": [0.9, 0.98],
                "monitor": "val/german/perplexity",
            },
        },
    )


def tagging(settings: RecipeConfig) -> Config:
    """Return the configuration of three taggers and a language model of English on one network.

    Words are read as numbers and as characters. The taggers see the whole sentence, the language model, in a second
    pass of the same weights, only what is to its left.
    """
    return _with_settings(
        settings,
        {
            "data": {**UD_EWT.sources(settings.data), "inputs": {"words": "words"}, "vocabulary": 8000},
            "tasks": {
                "upos": {"type": "token_classification"},
                "xpos": {"type": "token_classification"},
                "feats": {"type": "token_classification"},
                "english": {"type": "language_modeling", "column": "words", "loss_weight": 0.2},
            },
            "trunk": {"type": "transformer", "width": 128, "depth": 3, "heads": 4, "word_dropout": 0.1},
            "training": {"batch_size": 32, "max_epochs": 14, "learning_rate": 2e-3},
        },
    )


def _with_settings(settings: RecipeConfig, content: dict[str, Any]) -> Config:
    content["data"] |= {"split": {"method": "random", "val": 0, "test": 0}, "limit": settings.limit}
    content["training"] |= {"patience": 100, "num_workers": 0}  # the schedule ends the training
    if settings.epochs is not None:
        content["training"]["max_epochs"] = settings.epochs
    return override_config(check_config(content), settings.overrides)
