"""What a tagger reaches on UD English-EWT that gives every word the tag that it has most often in training.

python benchmarks/most_frequent_tag.py --data ../shared/data/ud_ewt
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from lepton.data import read_table


def pairs(table: Any, column: str) -> list[tuple[str, str]]:
    rows = zip(table["words"].to_pylist(), table[column].to_pylist(), strict=True)
    return [pair for words, tags in rows for pair in zip(words, tags, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ud_ewt"))
    folder = parser.parse_args().data
    train, test = (read_table(folder / f"en_ewt-ud-{part}.conllu.gz") for part in ("train", "test"))
    for column in ("upos", "xpos", "feats"):
        seen = pairs(train, column)
        tags: dict[str, Counter[str]] = defaultdict(Counter)
        for word, tag in seen:
            tags[word][tag] += 1
        usual = {word: counts.most_common(1)[0][0] for word, counts in tags.items()}
        fallback = Counter(tag for _, tag in seen).most_common(1)[0][0]
        asked = pairs(test, column)
        right = sum(usual.get(word, fallback) == tag for word, tag in asked)
        print(f"{column}: {100 * right / len(asked):.2f} % of {len(asked)} words")


if __name__ == "__main__":
    main()
