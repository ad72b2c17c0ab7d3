"""`predict --text` and `recipe`: what is typed, what comes out, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lepton
from lepton.cli._main import app

pytest.importorskip("tokenizers")
pytest.importorskip("sacrebleu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cli_texts")
    (place / "train.en").write_text("a dog runs\nthe man sleeps\n" * 30)
    (place / "train.de").write_text("ein Hund rennt\nder Mann schläft\n" * 30)
    lepton.fit(
        place / "train",
        {"english": {"type": "language_modeling", "column": "en"}, "german": {"type": "translation", "column": "de"}},
        trunk={"type": "transformer", "width": 32, "depth": 1, "heads": 2},
        training={"max_epochs": 2, "batch_size": 16},
        folder=place / "run",
        quiet=True,
    )
    return place


def invoke(*words: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, list(words))
    return found.exit_code, found.stdout, found.stderr


def test_texts_are_predicted(folder: Path) -> None:
    code, out, _ = invoke("predict", str(folder / "run"), "--text", "a dog runs", "--text", "the man", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0 and [row["en"] for row in rows] == ["a dog runs", "the man"]
    assert set(rows[0]) == {"en", "english_perplexity", "german"}


def test_a_file_or_texts(folder: Path) -> None:
    for words in ((), (str(folder / "train"), "--text", "a dog")):
        code, _, err = invoke("predict", str(folder / "run"), *words)
        assert code == 2 and "a file, or --text" in err


def test_a_parallel_file_is_evaluated(folder: Path) -> None:
    code, out, _ = invoke("evaluate", str(folder / "run"), str(folder / "train"), "--json")
    found = json.loads(out)["german"]
    assert code == 0 and {"perplexity", "bleu", "chrf"} <= set(found["metrics"])
    code, out, _ = invoke("evaluate", str(folder / "run"), str(folder / "train"), "--plain")
    assert code == 0
    for metric in ("bleu", "chrf"):
        assert f"german {metric}: sacrebleu {found['signatures'][metric]}\n" in out


def test_training_shows_the_signatures(folder: Path) -> None:
    lines = [
        "data: {source: train}",
        "tasks: {german: {type: translation, column: de}}",
        "trunk: {type: transformer, width: 32, depth: 1, heads: 2}",
        "training: {max_epochs: 1, batch_size: 16}",
    ]
    (folder / "run.yaml").write_text("\n".join(lines))
    code, out, err = invoke("train", str(folder / "run.yaml"), "--folder", str(folder / "shown"), "--plain")
    assert code == 0 and "german bleu: sacrebleu nrefs:1|" in err and "german chrf: sacrebleu nrefs:1|" in err
    code, out, _ = invoke("train", str(folder / "run.yaml"), "--folder", str(folder / "json"), "--json")
    assert json.loads(out)["results"]["test"]["german"]["signatures"]["bleu"].startswith("nrefs:1|")


def test_a_recipe_without_its_data_says_where_it_lives(tmp_path: Path) -> None:
    code, _, err = invoke("recipe", "tagging", "--data", str(tmp_path))
    assert code == 2 and "UD_English-EWT" in err
    code, _, err = invoke("recipe", "translate", "--data", str(tmp_path))
    assert code == 2 and "translation" in err
