"""Texts of a table as hashed words, or as tokens by a Transformer from scratch: which predicts better, and when.

python benchmarks/texts.py [--cases sentences:1000 tox21:4000 ...] [--seeds 3] [--steps 300]

Genres of UD English-EWT from sentences, paragraphs and documents, and labels of molecules (Tox21, SIDER) from their
SMILES: real texts, read with `lepton.fit`, the same rows, batches, epochs and early stopping for both forms. A seed
draws the training rows and the initial weights. Validation rows are EWT's own development documents; of the molecules,
a fifth. Needs LEPTON_DATA, with the folders `ud_ewt` and `molecules`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lepton

BATCH, PATIENCE, HELD_OUT, EPOCHS = 64, 4, 1500, 3
"""Rows of a batch; epochs without a better validation loss; validation rows; epochs at least."""

CASES = ["sider:1000", "tox21:4000", "sentences:1000", "sentences:4000", "sentences:12000", "paragraphs:2400"]


@dataclass(frozen=True)
class Case:
    """Rows with a column `text`, and the task that they are for."""

    train: list[dict[str, Any]]
    val: list[dict[str, Any]]
    target: dict[str, Any]
    metric: str


# -- data ---------------------------------------------------------------------------------------------------------
def sentences(path: Path) -> Iterator[tuple[str, bool, str, str]]:
    """Yield of each sentence the document, whether a paragraph begins, the genre and the text."""
    document, begins = "", True
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("# newdoc id = "):
                document = line.removeprefix("# newdoc id = ").strip()
            begins = begins or line.startswith(("# newdoc", "# newpar"))
            if line.startswith("# text = "):
                yield document, begins, document.split("-")[0], line.removeprefix("# text = ").strip()
                begins = False


def texts_of(path: Path, unit: str) -> list[dict[str, Any]]:
    """Return rows of a text and its genre; a unit is a sentence, a paragraph or a document."""
    rows: list[dict[str, Any]] = []
    last = ""
    for document, begins, genre, text in sentences(path):
        if rows and ((unit == "paragraphs" and not begins) or (unit == "documents" and document == last)):
            rows[-1]["text"] += " " + text
        else:
            rows.append({"text": text, "genre": genre})
        last = document
    return rows


def english(folder: Path, unit: str) -> Case:
    train, val = (texts_of(folder / f"en_ewt-ud-{part}.conllu.gz", unit) for part in ("train", "dev"))
    random.Random(0).shuffle(val)
    return Case(train, val[:HELD_OUT], {"genre": "classification"}, "accuracy")


def molecules(path: Path) -> Case:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        read = list(csv.DictReader(lines))
    labels = [name for name in read[0] if name not in ("smiles", "mol_id")]
    rows = [{"text": row["smiles"]} | {name: float(row[name] or "nan") for name in labels} for row in read]
    random.Random(0).shuffle(rows)
    held_out = min(HELD_OUT, len(rows) // 5)
    return Case(rows[held_out:], rows[:held_out], {"labels": {"type": "multi_label", "columns": labels}}, "auroc")


def load(name: str, data: Path) -> Case:
    if name in ("sider", "tox21"):
        return molecules(data / "molecules" / f"{name}.csv.gz")
    return english(data / "ud_ewt", name)


# -- measurement --------------------------------------------------------------------------------------------------
def write(rows: Iterable[dict[str, Any]], path: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


def score(case: Case, rows: int, kind: str, seed: int, steps: int) -> float:
    """Train on some of the rows, and return the metric on the validation rows."""
    chosen = random.Random(seed).sample(case.train, min(rows, len(case.train)))
    (target,) = case.target
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        run = lepton.fit(
            write(chosen, folder / "train.parquet"),
            case.target,
            val=write(sorted(case.val, key=lambda row: len(row["text"])), folder / "val.parquet"),
            split={"test": 0.0},
            kinds={"text": kind},
            training={
                "batch_size": BATCH,
                "max_epochs": max(EPOCHS, round(steps * BATCH / rows)),
                "patience": PATIENCE,
                "learning_rate": 1e-3 if kind == "tokens" else 2e-3,
            },
            seed=seed,
            folder=folder / "run",
            quiet=True,
        )
        return run.results["val"][target].metrics[case.metric]


def words(case: Case) -> str:
    lengths = sorted(len(row["text"].split()) for row in case.train)
    letters = sorted(len(row["text"]) for row in case.train)
    return f"{lengths[len(lengths) // 2]}, {letters[len(letters) // 2]}"


def described(scores: list[float]) -> str:
    return f"{statistics.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="planned steps, but at least 3 epochs")
    options = parser.parse_args()
    data = Path(os.environ["LEPTON_DATA"])
    print("| texts | rows | words, letters (median) | metric | hashed words | tokens, Transformer | better | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for named in options.cases:
        name, rows = named.split(":")
        case = load(name, data)
        found: dict[str, list[float]] = {"text": [], "tokens": []}
        seconds = []
        for kind, scores in found.items():
            start = time.process_time()
            scores += [score(case, int(rows), kind, seed, options.steps) for seed in range(options.seeds)]
            seconds.append(f"{(time.process_time() - start) / options.seeds:.0f}")
        wins = sum(b > a for a, b in zip(*found.values(), strict=True))
        cells = [name, rows, words(case), case.metric, *map(described, found.values()), f"{wins} of {options.seeds}"]
        print("| " + " | ".join([*cells, " and ".join(seconds)]) + " |", flush=True)


if __name__ == "__main__":
    main()
