"""`lepton recipe`: complete applications on public data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton.cli._output import Json, Output, Overrides, Plain, Quiet
from lepton.errors import ConfigurationError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["recipe"]


def recipe(
    name: Annotated[str, typer.Argument(help="translation, tagging, speech or speech_unseen.")],
    overrides: Overrides = None,
    data: Annotated[Path, typer.Option(help="The folder that holds the data set.")] = Path("data"),
    folder: Annotated[Path | None, typer.Option(help="Where the runs go; by default runs/ and the name.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training rows.")] = None,
    limit: Annotated[int | None, typer.Option(min=20, help="Rows of each part, to try the recipe out.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of everything.")] = 1,
    alone: Annotated[bool, typer.Option(help="Train each task alone as well.")] = True,
    speaker: Annotated[str | None, typer.Option(help="Whose voice speaks, after: speech say TEXT.")] = None,
    sound: Annotated[Path, typer.Option("--output", "-o", help="The .wav that say writes.")] = Path("said.wav"),
    json_: Json = False,
    quiet: Quiet = False,
    plain: Plain = False,
) -> None:
    """Train a complete application: all tasks on one network, then each alone.

    Example: lepton recipe translation --data data/multi30k --limit 500 --epochs 2

    A trained speech recipe speaks: lepton recipe speech say "seven" --speaker nicolas
    """
    from lepton.recipes.nlp import RecipeConfig

    output = Output(json_, quiet, plain)
    run_recipe = _recipe_named(name)
    place = folder or Path("runs") / name
    if overrides and overrides[0] == "say":
        return _say(name, overrides[1:], speaker, place, sound, output)
    settings = RecipeConfig(
        data=data,
        folder=place,
        epochs=epochs,
        limit=limit,
        alone=alone,
        seeds=seeds,
        overrides=tuple(overrides or ()),
    )
    found = []
    for result in run_recipe(name, settings, quiet=output.silent):
        found.append(result.to_dict())
        if result.alone is not None:
            output.show(result.alone)
        output.show(*_sentences(result.further))
        output.show(f"Wrote {result.run.folder}. Next:  lepton report {result.run.folder}")
    output.result({"recipe": name, "seeds": found})


def _recipe_named(name: str) -> Callable[..., Iterator[Any]]:
    """Return what runs a recipe."""
    from lepton.recipes.nlp import RECIPES as LANGUAGE
    from lepton.recipes.nlp import run_recipe as run_language
    from lepton.recipes.speech import RECIPES as SPEECH
    from lepton.recipes.speech import run_recipe as run_speech

    if name in LANGUAGE:
        return run_language
    if name in SPEECH:
        return run_speech
    known = sorted([*LANGUAGE, *SPEECH])
    raise ConfigurationError(f"there is no recipe {name!r}; there are {known}.{nearest(name, known)}")


def _say(name: str, words: Sequence[str], speaker: str | None, folder: Path, sound: Path, output: Output) -> None:
    from lepton.cli._spoken import spoken
    from lepton.recipes.speech import say

    if name != "speech" or len(words) != 1 or speaker is None:
        raise ConfigurationError('to speak, write: lepton recipe speech say "seven" --speaker NAME')
    spoken(say(words[0], speaker, folder), sound, output)


def _sentences(further: dict[str, Any]) -> list[str]:
    """Say what a recipe measured beside the metrics."""
    spoken = further.get("spoken")
    if spoken is None:
        return [f"Tested on {further['left_out']}, whom the training did not hear."] if "left_out" in further else []
    return [
        f"Of {spoken['sounds']} spoken words, judges that learned from recordings only heard the word in "
        f"{spoken['words']:.1%} and the speaker in {spoken['speakers']:.1%}."
    ]
