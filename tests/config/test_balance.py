"""Every method and composition from YAML: every hyperparameter, every name, and faults with their place."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import lepton
import lepton.balance
from lepton.balance import MGDA, Balancer, CAGrad, Equal, Every, Log, PerGroup, Smooth, UPGrad
from lepton.config import (
    check_config,
    compositions,
    config_yaml,
    json_schema,
    make_balancer,
    method_named,
    methods,
    read_config,
)
from lepton.errors import ConfigurationError

BASE = "data:\n  source: a.csv\ntasks: [seg, depth, tags]\nbalance:\n"

# Every hyperparameter of every method, none at its default.
OPTIONS: dict[str, dict[str, Any]] = {
    "AlignedMTL": {"scale": "rmse"},
    "CAGrad": {"c": 0.25},
    "ConFIG": {},
    "DBMTL": {"beta": 0.5, "beta_sigma": 0.25},
    "DualProj": {"regularization": 0.01},
    "DynamicWeightAverage": {"temperature": 3.0, "window": 7},
    "Equal": {},
    "ExcessMTL": {"learning_rate": 0.5, "warmup": 3},
    "FAMO": {"learning_rate": 0.01, "decay": 0.1},
    "FairGrad": {"alpha": 2.0},
    "Fixed": {"weights": [1.0, 2.0, 0.5]},
    "Frozen": {"weights": [[1.0, 2.0, 0.5], [1.0, 1.0, 1.0]]},
    "GeometricMean": {},
    "GradDrop": {"leak": 0.25, "seed": 3},
    "GradNorm": {"alpha": 0.5, "learning_rate": 0.1},
    "GradVac": {"beta": 0.5, "seed": 3},
    "IMTLG": {},
    "IMTLL": {},
    "LearnedWeights": {"floor": 0.2},
    "LogSum": {},
    "MGDA": {"normalization": "l2", "iterations": 9},
    "MoCo": {"beta": 0.25, "beta_sigma": 0.75, "gamma": 0.2, "gamma_sigma": 0.25, "rho": 0.1},
    "NashMTL": {"max_norm": 2.0},
    "PCGrad": {"seed": 3},
    "RandomWeight": {"seed": 3},
    "SmoothTchebycheff": {"mu": 0.5},
    "UPGrad": {"regularization": 0.01},
    "Uncertainty": {"nonnegative": True},
}
COMPOSED: dict[str, tuple[dict[str, Any], Any]] = {
    "the issue's": (
        {"method": "cagrad", "c": 0.4, "log": True, "every": 4, "gradients": "fork_layer"},
        lambda: Every(Log(CAGrad(c=0.4)), 4),
    ),
    "all": (
        {"method": "mgda", "log": True, "smooth": 0.5, "clip_weights": [0.1, 2], "every": {"n": 3}},
        lambda: Every(lepton.balance.ClipWeights(Smooth(Log(MGDA()), 0.5), 0.1, 2), 3),
    ),
    "off": ({"method": "mgda", "log": False, "smooth": None}, MGDA),
    "groups": (
        {
            "method": "per_group",
            "groups": {
                "vision": {"tasks": ["seg", "depth"], "balance": {"method": "cagrad", "c": 0.25, "log": True}},
                "text": {"tasks": "others", "balance": "ew"},
            },
            "over": {"method": "mgda", "normalization": "l2"},
            "every": 2,
        },
        lambda: Every(
            PerGroup({"vision": (["seg", "depth"], Log(CAGrad(c=0.25))), "text": (..., Equal())}, over=MGDA("l2")),
            2,
        ),
    ),
    "groups, over them as it is": (
        {"method": "PerGroup", "groups": {"all": {"tasks": "others", "balance": "upgrad"}}},
        lambda: PerGroup({"all": (..., UPGrad())}),
    ),
}
PLAIN = {name: kind for name, kind in methods().items() if "groups" not in inspect.signature(kind).parameters}


def made(balance: Any) -> Balancer:
    tasks = ["seg", "depth", "tags"]
    config = check_config({"data": {"source": "a.csv"}, "tasks": tasks, "balance": balance})
    return make_balancer(config.balance)


def assert_same(found: Balancer, wanted: Balancer) -> None:
    assert repr(found) == repr(wanted)
    names = ["seg", "depth", "tags"]
    ours, theirs = found.bind(3, names).state_dict(), wanted.bind(3, names).state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert value is None or torch.equal(ours[key], value), key


@pytest.mark.parametrize("name", PLAIN)
def test_every_hyperparameter_of_every_method(name: str) -> None:
    kind = PLAIN[name]
    options = OPTIONS[kind.__name__]
    assert options.keys() == inspect.signature(kind).parameters.keys()
    for option, value in options.items():
        assert inspect.signature(kind).parameters[option].default != value, f"{option} is at its default"
    wanted = kind(**options)
    assert all(f"{option}=" in repr(wanted) for option in options), "what is chosen must be seen"
    assert_same(made({"method": name, **options}), wanted)


@pytest.mark.parametrize("name", COMPOSED)
def test_compositions_build_what_python_builds(name: str, tmp_path: Path) -> None:
    section, wanted = COMPOSED[name]
    assert_same(made(section), wanted())
    # What a run writes down builds the same again.
    config = check_config({"data": {"source": "a.csv"}, "tasks": ["seg", "depth", "tags"], "balance": section})
    (tmp_path / "c.yaml").write_text(config_yaml(config))
    assert_same(make_balancer(read_config(tmp_path / "c.yaml").balance), wanted())


@pytest.mark.parametrize("name", compositions())
def test_every_option_of_every_composition(name: str) -> None:
    values = {"n": 5, "decay": 0.5, "min": 0.25, "max": 3.0}
    options = {key: values[key] for key in list(inspect.signature(compositions()[name]).parameters)[1:]}
    assert_same(made({"method": "mgda", name: options or True}), compositions()[name](MGDA(), **options))


@pytest.mark.parametrize("name", PLAIN)
def test_every_method_trains_as_its_name_alone(name: str) -> None:
    """The view that a method needs is its default."""
    options = {"weights": OPTIONS["Fixed"]["weights"]} if "weights" in inspect.signature(PLAIN[name]).parameters else {}
    config = check_config({"data": {}, "tasks": ["a", "b", "c"], "balance": {"method": name, **options}})
    tasks = [lepton.tasks.Regression(task) for task in "abc"]
    balancer, view = make_balancer(config.balance), config.balance.gradients
    model = lepton.LeptonModel(torch.nn.Linear(4, 8), tasks, balancer=balancer, gradients=view)
    outputs, weights = model(torch.randn(5, 4))
    lepton.MultiTaskLoss(model)(outputs, {task: torch.randn(5) for task in "abc"}, weights).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.trunk.parameters())


# -- names --------------------------------------------------------------------------------------------------------
NAMES = {
    "moco": "MoCo",
    "MoCo": "MoCo",
    "db_mtl": "DBMTL",
    "DB-MTL": "DBMTL",
    "dbmtl": "DBMTL",
    "uw": "Uncertainty",
    "UW": "Uncertainty",
    "dwa": "DynamicWeightAverage",
    "gls": "GeometricMean",
    "stch": "SmoothTchebycheff",
    "rlw": "RandomWeight",
    "si": "LogSum",
    "ew": "Equal",
    "imtl_g": "IMTLG",
    "IMTL-G": "IMTLG",
    "imtl_l": "IMTLL",
    "config": "ConFIG",
    "aligned_mtl": "AlignedMTL",
    "alignedmtl": "AlignedMTL",
    "nash": "NashMTL",
    "Nash_MTL": "NashMTL",
    "fairgrad": "FairGrad",
    "gradnorm": "GradNorm",
    "graddrop": "GradDrop",
    "gradvac": "GradVac",
    "excess_mtl": "ExcessMTL",
    "up_grad": "UPGrad",
    "pc grad": "PCGrad",
    "LearnedWeights": "LearnedWeights",
}


@pytest.mark.parametrize("typed", NAMES)
def test_names_that_people_type(typed: str) -> None:
    kind = getattr(lepton.balance, NAMES[typed])
    assert methods()[method_named(typed)] is kind
    for balance in (typed, {"method": typed}):
        assert type(made(balance)) is kind


def test_every_class_name_is_a_name_and_no_two_methods_share_one() -> None:
    owners: dict[str, str] = {}
    for name, kind in methods().items():
        for told in {name, kind.__name__, *kind.aliases}:
            assert method_named(told) == name
            spelling = told.replace("_", "").lower()
            assert owners.setdefault(spelling, name) == name, f"{told!r} is {name} and {owners[spelling]}"


def test_editors_know_the_other_names() -> None:
    words, _ = json.loads(json_schema())["properties"]["balance"]["anyOf"]
    assert {"moco", "uw", "imtl_g"} <= set(words["enum"])
    assert {*methods(), *(alias for kind in methods().values() for alias in kind.aliases)} == set(words["enum"])


# -- faults -------------------------------------------------------------------------------------------------------
FAULTS: dict[str, tuple[str, str]] = {
    "method": (
        "  method: cagrd\n",
        r"line 5: balance.method: 'cagrd' is not known. Did you mean 'cagrad'\? Allowed: al",
    ),
    "option": ("  method: cagrad\n  cc: 1\n", "line 6: balance.cc: unknown key 'cc'. Did you mean 'c'.*Allowed here: "),
    "type": ("  method: cagrad\n  c: much\n", "line 6: balance.c: .*'much'"),
    "value": (
        "  method: cagrad\n  c: -1\n",
        r"line 6: balance.c: CAGrad: c must be a number.*but it is -1.0\.$",
    ),
    "choice": ("  method: mgda\n  normalization: l1\n", "line 6: balance.normalization: .*'l1'"),
    "view": (
        "  method: mgda\n  gradients: fork_layr\n",
        "line 6: balance.gradients: .*'features', 'fork_layer' or 'parameters'.*'fork_layr'",
    ),
    "view of another": (
        "  method: moco\n  gradients: features\n",
        r"line 6: balance.gradients: MoCo works in the views \['parameters'\], not in 'features'",
    ),
    "composition": ("  method: mgda\n  smoth: 1\n", "line 6: balance.smoth: unknown key.*Did you mean 'smooth'"),
    "its option": ("  method: mgda\n  every: {m: 4}\n", "line 6: balance.every: unknown option 'm' of every.*Allowed"),
    "its value": ("  method: mgda\n  every: 0\n", "line 6: balance.every.n: Every: n must be a whole number.*it is 0"),
    "too many": ("  method: mgda\n  every: [4, 5]\n", "line 6: balance.every: every takes at most 1 values"),
    "no number": ("  method: mgda\n  smooth: high\n", "line 6: balance.smooth.decay: Smooth: decay must be.*'high'"),
    "log of logs": ("  method: famo\n  log: true\n", "line 6: balance.log: Log: FAMO takes the logarithms"),
    "nothing to smooth": (
        "  method: equal\n  smooth: 0.9\n",
        "line 6: balance.smooth: Smooth: Equal acts on the losses",
    ),
    "group without balance's method": (
        "  method: per_group\n  groups:\n    a: {tasks: others, balance: cagrd}\n",
        "line 7: balance.groups.a.balance.method: 'cagrd' is not known. Did you mean 'cagrad'",
    ),
    "value in a group": (
        "  method: per_group\n  groups:\n    a:\n      balance: {method: cagrad,\n       c: -1}\n      tasks: others\n",
        "line 9: balance.groups.a.balance.c: CAGrad: c must be",
    ),
    "task of a group": (
        "  method: per_group\n  groups:\n    a: {tasks: [seg, dept, tags]}\n",
        "line 7: balance.groups.a.tasks.1: there is no task 'dept'.*Did you mean 'depth'",
    ),
    "no tasks": (
        "  method: per_group\n  groups:\n    a: {balance: mgda}\n",
        "line 7: balance.groups.a.tasks: is missing",
    ),
    "no groups": ("  method: per_group\n", "balance.groups: is missing"),
    "view of a group": (
        "  method: per_group\n  groups:\n    a: {tasks: others, balance: {method: mgda, gradients: features}}\n",
        "line 7: balance.groups.a.balance.gradients: gradients holds for the whole section",
    ),
    "what fits into no group": (
        "  method: per_group\n  groups:\n    a: {tasks: others, balance: graddrop}\n",
        "line 7: balance.groups.a: PerGroup, group 'a': GradDrop needs the gradients themselves",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_have_line_value_what_is_allowed_and_what_is_near(name: str, tmp_path: Path) -> None:
    text, words = FAULTS[name]
    (tmp_path / "c.yaml").write_text(BASE + text)
    with pytest.raises(ConfigurationError, match=words):
        read_config(tmp_path / "c.yaml")
