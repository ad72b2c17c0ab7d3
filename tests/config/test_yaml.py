"""YAML from strangers: faults carry file, line and the nearest spelling, and nothing runs or explodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton.config import Config, read_config
from lepton.errors import ConfigurationError

BASE = "data:\n  source: a.csv\ntasks:\n  y: regression\n"


def read(folder: Path, text: str | bytes, *overrides: str) -> Config:
    path = folder / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config(path, overrides)


FAULTS: dict[str, tuple[str | bytes, str]] = {
    "unknown section": (BASE + "trunkk: auto\n", "c.yaml, line 5: trunkk.*Did you mean 'trunk'"),
    "unknown option": (BASE + "training:\n  learning_rat: 1\n", "line 6: training.learning_rat:.*'learning_rate'"),
    "unknown split": ("data:\n  split:\n    vl: 1\ntasks: [y]\n", "line 3: data.split.vl.*Did you mean 'val'"),
    "unknown method": (BASE + "balance: cagrd\n", "line 5: balance.method: 'cagrd'.*Did you mean 'cagrad'"),
    "option of another method": (BASE + "balance:\n  method: mgda\n  c: 1\n", "line 7: balance.c: unknown key"),
    "unknown kind": ("data: {}\ntasks:\n  y: regresson\n", "line 3: tasks.y.type.*Did you mean 'regression'"),
    "unknown task option": ("data: {}\ntasks:\n  y: {type: regression, los: x}\n", "tasks.y.los.*Did you mean 'loss'"),
    "unknown trunk": (BASE + "trunk: tabulr\n", "line 5: trunk.type.*Did you mean 'tabular'"),
    "wrong type": (BASE + "training:\n  learning_rate: fast\n", "line 6: training.learning_rate:.*'fast'"),
    "two faults": (BASE + "seed: x\ntraining:\n  warmup: y\n", "training.warmup(.|\n)*seed|seed(.|\n)*training.warmup"),
    "no data": ("tasks: [y]\n", "data: is missing"),
    "no tasks": ("data: {}\ntasks: []\n", "names no task"),
    "task twice": ("data: {}\ntasks: [y, y]\n", "'y' is there more than once"),
    "yes is no word": ("data: {}\ntasks:\n  yes: regression\n", "True: put it in quotes"),
    "one is no column": ("data:\n  kinds: {1: number}\ntasks: [y]\n", "the name 1 must be a word: put it in quotes"),
    "empty": ("", "data: is missing"),
    "a list": ("- a\n", "must hold keys and values"),
    "a word": ("x", "must hold keys and values"),
    "unfinished": ("data: [\n", "c.yaml, line 2: expected"),
    "tab": ("data:\n\tsource: a\n", "c.yaml, line 2:.*cannot start any token"),
    "two documents": ("a: 1\n---\nb: 2\n", "c.yaml, line 2"),
    "key twice": ("data:\n  val: a\n  val: b\n", "line 3: the key 'val' stands there twice, first in line 2"),
    "key that is a list": ("? [a]\n: b\n", "line 1: a key must be a word"),
    "tag that runs": ("data: !!python/object/apply:os.system ['touch ran']\n", "line 1: could not determine"),
    "alias in itself": ("data:\n  augment: &a {x: *a}\ntasks: [y]\n", "line 2: an alias stands within"),
    "deep": ("data: " + "[" * 30 + "]" * 30, "more than 20 levels"),
    "big": ("#" * 1_000_001, "1000001 bytes"),
    "many aliases": ("a: &a 1\nb: [" + "*a, " * 101 + "]\n", "more than 100 aliases"),
    "latin": ("data: ü".encode("latin-1"), "no UTF-8"),
    "zero byte": (b"data: \x00", "c.yaml"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_say_where_and_what_is_near(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, words = FAULTS[name]
    with pytest.raises(ConfigurationError, match=words):
        read(tmp_path, text)
    assert not (tmp_path / "ran").exists()


def test_aliases_of_aliases_are_counted_as_what_they_unfold_to(tmp_path: Path) -> None:
    levels = "\n".join(
        f"    {b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    bomb = f"data:\n  augment:\n    a: &a [x, x, x, x, x, x, x, x, x]\n{levels}\ntasks: [y]\n"
    with pytest.raises(ConfigurationError, match="unfold to more than 100000 values"):
        read(tmp_path, bomb)


def test_anchors_and_merge_keys_may_be_used(tmp_path: Path) -> None:
    text = "data: {}\ntasks:\n  a: &t {type: regression, loss_weight: 2}\n  b: *t\n  c: {<<: *t, loss_weight: 3}\n"
    tasks = read(tmp_path, text).tasks
    assert {name: task.loss_weight for name, task in tasks.items()} == {"a": 2, "b": 2, "c": 3}


def test_sections_that_are_all_comments_are_as_if_not_there(tmp_path: Path) -> None:
    empty = "training:\n  # max_epochs: 1\nbalance:\ntrunk:\n"
    assert read(tmp_path, BASE + empty) == read(tmp_path, BASE)
    assert read(tmp_path, "data:\n  split:\n  ignore:\n  inputs:\ntasks: [y]\n").data.ignore == []


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read_config(path)


# -- overrides ----------------------------------------------------------------------------------------------------
def test_overrides_set_values_and_the_last_one_wins(tmp_path: Path) -> None:
    config = read(
        tmp_path, BASE, "seed=1", "training.max_epochs=5", "data.ignore=[a, b]", "seed=2", "trunk.type=tabular"
    )
    assert (config.seed, config.training.max_epochs, config.data.ignore) == (2, 5, ["a", "b"])
    assert config.trunk.type == "tabular"


@pytest.mark.parametrize(
    ("section", "override", "method", "c"),
    [
        ("balance: equal\n", "balance.method=cagrad", "cagrad", 0.4),
        ("balance: cagrad\n", "balance.c=0.1", "cagrad", 0.1),
    ],
)
def test_overrides_go_into_sections_written_as_one_word(
    section: str, override: str, method: str, c: float, tmp_path: Path
) -> None:
    balance = read(tmp_path, BASE + section, override).balance
    assert (balance.method, balance.c) == (method, c)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.max_epoch=5", "override 'training.max_epoch=5'.*Did you mean 'max_epochs'"),
        ("max_epochs", "must be written key=value"),
        ("=5", "must be written key=value"),
        ("seed.x=5", "'seed' is 3, which has no keys"),
        ("training.max_epochs=[1", "the value is no YAML"),
        ("data.source=!!python/object/apply:os.system [ls]", "the value is no YAML"),
    ],
)
def test_overrides_that_are_none(override: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read(tmp_path, BASE + "seed: 3\n", override)
