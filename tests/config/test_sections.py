"""Sections follow from the classes that own the options: everything is reachable, and what is written reads back."""

from __future__ import annotations

import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from lepton.balance import Balancer, Equal
from lepton.config import (
    Config,
    argument_texts,
    check_config,
    compositions,
    config_yaml,
    json_schema,
    load_class,
    make_balancer,
    make_task,
    methods,
    read_config,
    snake_case,
    task_kinds,
    trunks,
)
from lepton.data import SEQUENCE_KINDS
from lepton.errors import ConfigurationError

REQUIRED: dict[str, dict[str, Any]] = {
    "weights": {"weights": [1.0, 3.0]},
    "groups": {"groups": {"all": {"tasks": "others", "balance": "equal"}}},
}


def options(kind: type) -> dict[str, Any]:
    """Values for the arguments that have no default."""
    names = [p.name for p in inspect.signature(kind).parameters.values() if p.default is inspect.Parameter.empty]
    return {key: value for name in names for key, value in REQUIRED.get(name, {}).items()}


def check(**sections: Any) -> Config:
    return check_config({"data": {"source": "a.csv"}, "tasks": ["a", "b"], **sections})


@pytest.mark.parametrize("name", methods())
def test_every_method_is_reachable_with_all_its_options(name: str) -> None:
    kind = methods()[name]
    section = check(balance={"method": name, **options(kind)}).balance
    made = make_balancer(section)
    assert type(made) is kind
    assert set(inspect.signature(kind).parameters) <= set(type(section).model_fields)
    made.bind(2)


def test_a_method_may_be_one_word() -> None:
    assert check(balance="mgda") == check(balance={"method": "mgda"})
    assert check().balance.method == "equal"


@pytest.mark.parametrize("name", compositions())
@pytest.mark.parametrize("written", [True, [], {}])
def test_every_composition_wraps_with_its_defaults(name: str, written: Any) -> None:
    made = make_balancer(check(balance={"method": "mgda", name: written}).balance)
    assert type(made) is compositions()[name]
    assert type(made.balancer) is methods()["mgda"]
    assert isinstance(made, Balancer)


def test_options_of_compositions_in_every_spelling() -> None:
    for written in (7, [7], {"n": 7}):
        made = make_balancer(check(balance={"method": "mgda", "every": written}).balance)
        assert made.n == 7
    for wrong, words in (({"m": 7}, "unknown option 'm'"), ([7, 8], "at most 1"), ("x", "n must be")):
        with pytest.raises(ConfigurationError, match=words):
            make_balancer(check(balance={"method": "mgda", "every": wrong}).balance)


def test_compositions_nest_by_their_rank_not_by_the_order_of_the_keys() -> None:
    names = sorted(compositions(), key=lambda name: compositions()[name].nesting)
    for order in (names, names[::-1]):
        made = make_balancer(check(balance={"method": "mgda", **dict.fromkeys(order, True)}).balance)
        found = []
        while type(made) in compositions().values():
            found.append(snake_case(type(made).__name__))
            made = made.balancer  # type: ignore[assignment]
        assert found == names[::-1]


@pytest.mark.parametrize("name", task_kinds())
def test_every_kind_of_task_is_reachable(name: str) -> None:
    config = check(tasks={"t": {"type": name, "loss_weight": 2.0, "priority": 3.0, "auxiliary": True}})
    task = make_task("t", config.tasks["t"], ["x", "y"], vocabulary=5, mels=8)
    assert type(task) is task_kinds()[name]
    assert (task.name, task.loss_weight, task.priority, task.auxiliary) == ("t", 2.0, 3.0, True)


@pytest.mark.parametrize("name", trunks())
def test_every_trunk_is_reachable(name: str) -> None:
    assert check(trunk=name).trunk.type == name
    with pytest.raises(ConfigurationError, match="unknown key 'no_such_option'"):
        check(trunk={"type": name, "no_such_option": 1})


def test_a_pretrained_trunk_has_a_short_form() -> None:
    long = {"type": "hugging_face", "folder": "models/small", "frozen": True, "layer": "mix"}
    assert check(trunk={"hf": "models/small", "frozen": True, "layer": "mix"}) == check(trunk=long)
    for double in ({"type": "tabular"}, {"folder": "models/other"}):
        with pytest.raises(ConfigurationError, match="unknown key 'hf'"):
            check(trunk={"hf": "models/small", **double})
    with pytest.raises(ConfigurationError, match=r"unknown key 'frozn'.*Did you mean 'frozen'"):
        check(trunk={"hf": "models/small", "frozn": True})


def test_the_folder_of_a_trunk_may_lie_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    for form in ("hf: small", "type: hugging_face, folder: small", "hf: elsewhere"):
        path = tmp_path / "c.yaml"
        path.write_text(f"data: {{source: a.csv}}\ntasks: [y]\ntrunk: {{{form}}}\n", encoding="utf-8")
        assert read_config(path).trunk.folder == (str(tmp_path / "small") if "small" in form else "elsewhere")


# -- there and back -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", methods())
def test_what_is_written_reads_back_as_equal(name: str, tmp_path: Path) -> None:
    chosen = options(methods()[name])
    plain = {"groups": {"all": (..., Equal())}} if "groups" in chosen else chosen
    config = check_config(
        {
            "data": {
                "source": "ü: #.csv",
                "inputs": {"a: b": "number", "yes": {"kind": "text"}, "1": "category", "#": "date", " ": "number"},
                "ignore": ["null", "~"],
                "split": "random",
                "image_size": [4, 5],
            },
            "tasks": {"no": "regression", "2020-01-01": {"type": "classification", "classes": ["1", "on"]}},
            "balance": {"method": name, **chosen, **({"every": 3} if methods()[name](**plain).uses_gramian else {})},
            "training": {"max_grad_norm": None, "max_epochs": 3},
            "trunk": {"class": "a.b:C", "arguments": {"x": [1, None]}},
            "output": "runs/x",
        }
    )
    path = tmp_path / "c.yaml"
    path.write_text(config_yaml(config), encoding="utf-8")
    again = read_config(path)
    assert again == config
    assert again.training.max_grad_norm is None
    assert config_yaml(again) == config_yaml(config)
    assert pickle.loads(pickle.dumps(config)) == config


# -- schema -------------------------------------------------------------------------------------------------------
def test_the_schema_knows_every_option_of_every_class() -> None:
    schema = json.loads(json_schema())
    definitions = schema["$defs"]
    for kind in [*methods().values(), *task_kinds().values(), *trunks().values()]:
        known = definitions[kind.__name__]["properties"]
        documented = set(argument_texts(kind)) & set(inspect.signature(kind).parameters)
        missing = documented - set(known)
        texts = argument_texts(kind)
        from_data = {"name", "knots", "categories", "texts", "text_buckets", "table", "image", "images", "channels"}
        from_data |= {"readers", "vocabulary", "characters", "mels", "padding", "config", "sample_rate"}
        marks = {"missing"} if snake_case(kind.__name__) in SEQUENCE_KINDS else set()
        assert missing <= from_data | marks | {"head"}, (kind, missing)
        for name in documented - missing - {"classes", "labels", "head"}:
            assert known[name].get("description") == texts[name] or "$ref" in known[name], (kind, name)


def test_the_schema_accepts_what_is_right_and_refuses_what_is_wrong() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    right = {"data": {"source": "a.csv"}, "tasks": {"y": {"type": "regression"}}, "balance": {"method": "mgda"}}
    short = {**right, "trunk": {"hf": "models/small", "layer": "mix", "frozen": True}}
    assert validator.is_valid(right) and validator.is_valid(short)
    for wrong in (
        {**right, "trunkk": 1},
        {**right, "balance": {"method": "nope"}},
        {"tasks": {}},
        {**right, "trunk": {"hf": 1}},
    ):
        assert not validator.is_valid(wrong)


# -- classes of one's own -----------------------------------------------------------------------------------------
def own(path: str, **arguments: Any) -> Any:
    return check(trunk={"class": path, "arguments": arguments}).trunk


def test_classes_are_imported_with_trust_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text(
        "open('ran', 'w').close()\nfrom torch import nn\nclass Net(nn.Linear): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    section = own("stranger:Net", in_features=2, out_features=3)
    with pytest.raises(ConfigurationError, match="trust"):
        load_class(section, trust=False)
    assert not (tmp_path / "ran").exists()
    assert load_class(section, trust=True)(torch.ones(1, 2)).shape == (1, 3)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no.such.module:Net", "cannot be imported"),
        ("torch.nn:NoSuchThing", "cannot be imported"),
        ("torch.nn.Linear", "package.module:Class"),
        ("collections:OrderedDict", "not a torch module"),
    ],
)
def test_classes_that_cannot_be_used(path: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_class(own(path), trust=True)


def test_arguments_that_a_class_does_not_take() -> None:
    with pytest.raises(ConfigurationError, match=r"does not take these arguments:.*no_such"):
        load_class(own("torch.nn:Linear", in_features=1, out_features=1, no_such=1), trust=True)
