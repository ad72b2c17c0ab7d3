"""Where a training begins: another run's rules and weights, a file of tensors, and what of the trunk learns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.config import Config, check_config
from lepton.data import read_table
from lepton.errors import CheckpointError, ConfigurationError, DataError
from lepton.nn import AdaptedTrunk, plain_trunk
from lepton.run import Run, add_task, make_trainer, prepare, resume_run, train_run
from lepton.run._build import initial_model
from lepton.train import Callback, TrainState

pa = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("sklearn.datasets")

TRUNK = {"type": "tabular", "width": 32, "depth": 3}


def write(path: Path, seed: int, names: list[str]) -> None:
    """Write half of the wines, drawn anew: other quantiles, and other frequencies of the words."""
    from pyarrow import csv

    wines = datasets.load_wine()
    chosen = np.random.default_rng(seed).permutation(178)[:120]
    columns: dict[str, Any] = {name: wines.data[chosen, place] for place, name in enumerate(wines.feature_names)}
    columns["strong"] = np.where(columns["alcohol"] > 13, "strong", "mild")
    columns["kind"] = np.array(["Barolo", "Grignolino", "Barbera"])[wines.target[chosen]]
    columns["dark"] = np.where(columns["color_intensity"] > 5, "dark", "light")
    csv.write_csv(pa.table({name: columns[name] for name in names}), path)


INPUTS = ["alcohol", "malic_acid", "ash", "magnesium", "flavanoids", "strong"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    write(folder / "old.csv", 0, [*INPUTS, "kind", "hue", "proline"])
    write(folder / "new.csv", 1, [*INPUTS, "kind", "hue", "dark"])
    lepton.fit(
        folder / "old.csv",
        ["kind", "hue", "proline"],
        trunk=TRUNK,
        training={"max_epochs": 5},
        folder=folder / "old",
        quiet=True,
    )
    return folder


def config(place: Path, start: dict[str, Any], tasks: Any = ("kind", "hue", "dark"), **more: Any) -> Config:
    training = {"max_epochs": 2, **more.pop("training", {})}
    tasks = tasks if isinstance(tasks, dict) else list(tasks)
    data = more.pop("data", {"source": str(place / "new.csv")})
    return check_config({"data": data, "tasks": tasks, "start": start, "training": training, **more})


def said(model: lepton.LeptonModel, encoder: Any, source: Path) -> dict[str, Tensor]:
    with torch.no_grad():
        found: dict[str, Tensor] = model.eval()(encoder.encode(read_table(source)))[0]
    return found


# -- from a run ---------------------------------------------------------------------------------------------------
def test_it_begins_as_the_other_run_ended(place: Path) -> None:
    """Its rules, its trunk and the heads of tasks that are alike: the same outputs before the first step."""
    old = lepton.load(place / "old")
    prepared = prepare(config(place, {"run": str(place / "old")}))
    assert prepared.encoder.to_dict() == old.encoder.to_dict()
    assert prepared.config.trunk == old.config.trunk
    model = initial_model(prepared)
    one, other = said(model, prepared.encoder, place / "new.csv"), said(old.model, old.encoder, place / "new.csv")
    torch.testing.assert_close(one["kind"], other["kind"], rtol=0, atol=1e-6)
    torch.testing.assert_close(one["hue"], other["hue"], rtol=0, atol=1e-6)
    assert model.task("hue").mean == old.model.task("hue").mean  # of the old rows: the head was trained on them
    assert prepared.notes[-1].startswith(
        "the trunk, and the heads of ['hue', 'kind'] begin with the weights of the run"
    )


def test_other_rules_would_be_fitted_without_it(place: Path) -> None:
    fresh = prepare(check_config({"data": {"source": str(place / "new.csv")}, "tasks": ["kind", "hue", "dark"]}))
    assert fresh.encoder.to_dict() != lepton.load(place / "old").encoder.to_dict()


def test_classes_follow_the_other_run(place: Path) -> None:
    old = lepton.load(place / "old")
    known = list(old.rules[0].classes)
    wrong = {"kind": {"type": "classification", "classes": known[::-1]}}
    with pytest.raises(ConfigurationError, match="in another order"):
        prepare(config(place, {"run": str(place / "old")}, wrong))
    more = {"kind": {"type": "classification", "classes": [*known, "Dolcetto"]}}  # another head: not taken over
    prepared = prepare(config(place, {"run": str(place / "old")}, more))
    model = initial_model(prepared)
    assert model.heads["kind"].out_features == 4
    assert "heads" not in prepared.notes[-1]
    trunks = plain_trunk(model.trunk).state_dict(), old.model.trunk.state_dict()
    assert all(torch.equal(trunks[0][name], trunks[1][name]) for name in trunks[1])


@pytest.mark.parametrize("adapter", ["lora", "adapter"])
def test_a_run_that_started_from_another_stands_by_itself(place: Path, tmp_path: Path, adapter: str) -> None:
    shutil.copytree(place / "old", tmp_path / "old")
    before = lepton.load(tmp_path / "old")
    start = {"run": str(tmp_path / "old"), "adapter": adapter, "size": 3}
    run = train_run(config(place, start), tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "old")
    loaded = lepton.load(tmp_path / "run")
    assert run.predict(place / "new.csv").equals(loaded.predict(place / "new.csv"))
    assert loaded.evaluate()["dark"].metrics == run.results["test"]["dark"].metrics
    assert isinstance(loaded.model.trunk, AdaptedTrunk)
    learned = {name.replace(".base", ""): tensor for name, tensor in loaded.model.trunk.trunk.state_dict().items()}
    for name, tensor in before.model.trunk.state_dict().items():  # the trunk itself is held still
        assert torch.equal(learned[name], tensor), name
    moved = [name for name in learned if ".adapters." in name]
    assert moved and any(learned[name].abs().sum() > 0 for name in moved if name.endswith((".B", "up.weight")))


class StopAfter(Callback):
    """Ctrl-C after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_begin(self, state: TrainState) -> None:
        if state.epoch == self.epochs:
            raise KeyboardInterrupt


def test_resumed_as_if_it_had_not_been_interrupted(place: Path, tmp_path: Path) -> None:
    """And without the folder that it started from; what was held still stays so."""
    shutil.copytree(place / "old", tmp_path / "old")
    told = config(place, {"run": str(tmp_path / "old"), "freeze": 2, "layer_decay": 0.5}, training={"max_epochs": 3})
    whole = train_run(told, tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        train_run(told, tmp_path / "part", quiet=True, callbacks=[StopAfter(1)])
    shutil.rmtree(tmp_path / "old")
    part = resume_run(tmp_path / "part", quiet=True)
    pairs = zip(whole.model.state_dict().items(), part.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for (_, one), other in pairs)
    assert not part.model.trunk.mlp.blocks[1].linear.weight.requires_grad


def test_from_a_run_that_has_adapters_itself(place: Path, tmp_path: Path) -> None:
    """The trunk underneath is taken, not what one of its tasks changed in it."""
    lora = {"run": str(place / "old"), "adapter": "lora", "size": 2}
    train_run(config(place, lora, training={"max_epochs": 1}), tmp_path / "mid", quiet=True)
    model = initial_model(prepare(config(place, {"run": str(tmp_path / "mid")})))
    old = lepton.load(place / "old").model.trunk.state_dict()
    assert all(torch.equal(tensor, old[name]) for name, tensor in model.trunk.state_dict().items())


# -- what learns, and how fast ------------------------------------------------------------------------------------
@pytest.mark.parametrize("depth", [0, 1, 3, "all"])
def test_frozen_blocks_do_not_move(place: Path, tmp_path: Path, depth: Any) -> None:
    before = lepton.load(place / "old").model.trunk.state_dict()
    start = {"run": str(place / "old"), "freeze": depth}
    after = train_run(config(place, start), tmp_path / "run", quiet=True).model.trunk.state_dict()
    blocks = 3 if depth == "all" else int(depth)
    for block in range(3):
        name = f"mlp.blocks.{block}.linear.weight"
        assert torch.equal(before[name], after[name]) == (block < blocks), name
    assert torch.equal(before["mlp.enter.weight"], after["mlp.enter.weight"]) == (blocks > 0)
    assert torch.equal(before["mlp.norm.weight"], after["mlp.norm.weight"]) == (depth == "all")


def test_lower_blocks_learn_more_slowly(place: Path) -> None:
    start = {"run": str(place / "old"), "layer_decay": 0.5}
    training = {"learning_rate": 0.01, "learning_rates": {"trunk": 0.008, "trunk.mlp.norm": 0.003}, "warmup": 0.0}
    prepared = prepare(config(place, start, training=training))
    model = initial_model(prepared)
    trainer = make_trainer(prepared.config, model, None)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert rates["heads.kind.weight"] == 0.01
    assert rates["trunk.mlp.norm.weight"] == 0.003  # as told
    for block in range(3):  # rate * decay^(N - b), b = 1, ..., N
        assert rates[f"trunk.mlp.blocks.{block}.linear.weight"] == pytest.approx(0.008 * 0.5 ** (2 - block))
    assert rates["trunk.mlp.enter.weight"] == pytest.approx(0.008 * 0.5**3)
    decays = {names[id(p)]: group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert decays["trunk.mlp.blocks.0.linear.bias"] == 0 < decays["trunk.mlp.blocks.0.linear.weight"]


def test_only_adapters_and_heads_learn(place: Path) -> None:
    told = config(place, {"run": str(place / "old"), "adapter": "lora", "size": 2, "targets": ["linear"], "alpha": 4.0})
    model = initial_model(prepare(told))
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(".adapters.start." in name or name.startswith("heads.") for name in learning)
    assert len([name for name in learning if ".adapters." in name]) == 6  # A and B of the three blocks
    assert model.trunk.trunk.mlp.blocks[0].linear.adapters["start"].scale == 2.0
    partly = config(place, {"run": str(place / "old"), "adapter": "lora", "freeze": 1})
    learning = [name for name, p in initial_model(prepare(partly)).named_parameters() if p.requires_grad]
    assert "trunk.trunk.mlp.blocks.1.linear.base.weight" in learning
    assert "trunk.trunk.mlp.blocks.0.linear.base.weight" not in learning
    assert "trunk.trunk.mlp.blocks.0.linear.adapters.start.A" in learning


def test_adapters_of_single_tasks_in_an_ordinary_training(place: Path, tmp_path: Path) -> None:
    tasks = {"kind": {"type": "classification"}, "hue": {"type": "regression", "adapter": {"type": "lora", "size": 2}}}
    content = {
        "data": {"source": str(place / "new.csv")},
        "tasks": tasks,
        "trunk": TRUNK,
        "training": {"max_epochs": 1},
    }
    run = train_run(check_config(content), tmp_path / "run", quiet=True)
    assert run.model.trunk.adapters == {"kind": None, "hue": "hue"}
    assert lepton.load(tmp_path / "run").predict(place / "new.csv").equals(run.predict(place / "new.csv"))


# -- from a file --------------------------------------------------------------------------------------------------
def from_file(place: Path, start: dict[str, Any]) -> Config:
    """The rows that the tensors were learned on: a file brings no rules, and other rows have other quantiles."""
    return config(
        place, start, ["kind", "hue"], trunk=TRUNK, data={"source": str(place / "old.csv"), "ignore": ["proline"]}
    )


def tensors_of(run: Run, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: tensor.clone() for name, tensor in run.model.trunk.state_dict().items()}


@pytest.mark.parametrize("form", ["safetensors", "pt", "inside", "prefix"])
def test_from_a_file_of_tensors(place: Path, tmp_path: Path, form: str) -> None:
    from safetensors.torch import save_file

    state = tensors_of(lepton.load(place / "old"), "module.encoder." if form == "prefix" else "")
    path = tmp_path / ("trunk.safetensors" if form in ("safetensors", "prefix") else "trunk.pt")
    if path.suffix == ".safetensors":
        save_file(state | {"other.head": torch.zeros(2)}, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if form == "inside" else state, path)
    told = from_file(place, {"weights": str(path), "freeze": "all"})
    prepared = prepare(told)
    model = initial_model(prepared)
    known = tensors_of(lepton.load(place / "old"))
    assert all(torch.equal(tensor, known[name]) for name, tensor in model.trunk.state_dict().items())
    (note,) = [note for note in prepared.notes if str(path) in note]
    assert note.startswith(
        f"{len(known)} of {len(known)} tensors of the trunk (100% of its numbers) come from the file"
    )
    assert ("not used: ['other.head']" in note) == (form == "safetensors")


def test_a_file_that_fits_in_part(place: Path, tmp_path: Path) -> None:
    state = tensors_of(lepton.load(place / "old"))
    some = {name: tensor for name, tensor in state.items() if "mlp" not in name or "blocks" in name}
    torch.save(some, tmp_path / "most.pt")
    prepared = prepare(from_file(place, {"weights": str(tmp_path / "most.pt")}))
    initial_model(prepared)
    assert "left as drawn: ['mlp.enter.weight'" in prepared.notes[-1]
    torch.save({"mlp.norm.weight": state["mlp.norm.weight"], "conv.weight": torch.zeros(3, 3)}, tmp_path / "little.pt")
    with pytest.raises(CheckpointError, match=r"of another architecture .* 'conv.weight' \[3, 3\] is there only"):
        initial_model(prepare(from_file(place, {"weights": str(tmp_path / "little.pt")})))


class Payload:
    """What would run code when it is read."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_files_that_are_none(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Payload()}, tmp_path / "evil.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "evil.pt").read_bytes()[:100])
    (tmp_path / "half.safetensors").write_bytes(b"\x10\x00")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, words in {
        "evil.pt": "more than tensors, and reading that would run its code",
        "module.pt": "more than tensors",
        "half.pt": "cannot be read",
        "half.safetensors": "damaged or no safetensors file",
        "list.pt": "holds no tensors by their names, but a list",
        "gone.pt": "there is no file",
    }.items():
        with pytest.raises(CheckpointError, match=words):
            initial_model(prepare(from_file(place, {"weights": str(tmp_path / name)})))
    assert not (tmp_path / "executed").exists()


# -- what is refused ----------------------------------------------------------------------------------------------
def test_another_architecture_is_named(place: Path) -> None:
    told = config(place, {"run": str(place / "old")}, trunk={"type": "tabular", "width": 48, "depth": 3})
    with pytest.raises(CheckpointError) as caught:
        initial_model(prepare(told))
    words = str(caught.value)
    assert "of another architecture" in words and "'mlp.enter.weight' is [48, " in words and "[32, " in words
    assert "more" in words


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"run": "OLD", "freeze": 9}, r"start.freeze: depth is 9, but the trunk has 3 blocks"),
        ({"run": "OLD", "adapter": "lora", "targets": ["attention"]}, "start: add_lora: there is no layer 'attention'"),
        ({"run": "nothing"}, "there is no run"),
        ({"run": "."}, "is no run: it holds no run.json"),
        ({"freeze": 1}, "holds a trunk still that has learned nothing"),
        ({"adapter": "lora"}, "holds a trunk still that has learned nothing"),
        ({"run": "OLD", "checkpoint": "best-nothing"}, "there is no checkpoint"),
    ],
)
def test_starts_that_cannot_be(place: Path, start: dict[str, Any], words: str) -> None:
    start = {key: str(place / "old") if value == "OLD" else value for key, value in start.items()}
    with pytest.raises((ConfigurationError, CheckpointError), match=words):
        initial_model(prepare(config(place, start)))


def test_rows_that_the_old_rules_cannot_read(place: Path, tmp_path: Path) -> None:
    write(tmp_path / "new.csv", 1, [*INPUTS[1:], "kind"])
    with pytest.raises(DataError, match=r"the run '.*old' reads \['alcohol', .* no column 'alcohol'"):
        prepare(config(tmp_path, {"run": str(place / "old")}, ["kind"]))
    told = {"data": {"source": str(place / "new.csv"), "inputs": {"ash": "number"}}, "tasks": ["kind"]}
    with pytest.raises(ConfigurationError, match=r"data.inputs is .*its weights know no other"):
        prepare(check_config(told | {"start": {"run": str(place / "old")}}))
    with pytest.raises(ConfigurationError, match="'strong' is an input and a target"):
        prepare(config(place, {"run": str(place / "old")}, ["strong"]))


# -- with a pre-trained trunk -------------------------------------------------------------------------------------
def test_with_a_hugging_face_folder(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    texts = ["the dog runs", "a cat sleeps on the mat", "the cats ran", "dogs sleep"] * 15
    rules = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unknown>"))
    rules.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = ["<pad>", "<unknown>", "<start>", "<end>"]
    rules.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(special_tokens=special, show_progress=False))
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    told = transformers.ModernBertConfig(vocab_size=rules.get_vocab_size(), **sizes, **ids)
    folder = tmp_path / "model"
    transformers.AutoModel.from_config(told).save_pretrained(folder)
    rules.save(str(folder / "tokenizer.json"))
    roles = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    rows = {"text": texts, "animal": ["dog", "cat", "cat", "dog"] * 15}
    content = {"data": {}, "tasks": ["animal"], "trunk": {"hf": str(folder)}, "training": {"max_epochs": 1}}
    for start in (
        {"adapter": "lora", "size": 2, "targets": ["Wqkv"], "layer_decay": 0.5},
        {"freeze": 1},
        {"freeze": "all"},
    ):
        config = check_config(content | {"start": start})
        run = train_run(config, tmp_path / "run", source=rows, quiet=True)
        learning = [name for name, p in initial_model(prepare(config, rows)).named_parameters() if p.requires_grad]
        trunk = [name for name in learning if name.startswith("trunk.")]
        assert ("adapter" in start) == all(".adapters.start." in name for name in trunk) or start == {"freeze": "all"}
        assert bool(trunk) == (start != {"freeze": "all"})
        assert run.config.training.learning_rates == ({"trunk": 5e-5} if start == {"freeze": 1} else None)
        moved = folder.rename(tmp_path / "away")  # the run needs it no more
        assert lepton.load(run.folder).predict(texts[:3]).equals(run.predict(texts[:3]))
        moved.rename(folder)
    labels = {"text": texts, "long": ["yes" if len(text) > 12 else "no" for text in texts]}
    for method in ("head", "lora", "none"):
        told = {"tasks": ["long"], "method": method, "training": {"max_epochs": 1}}
        added = add_task(run, told, tmp_path / "added", source=labels, quiet=True, compare=method == "head")
        assert set(added.identical.values()) == ({True} if method != "none" else set())
        assert [score.retrained is not None for score in added.scores] == [method == "head"] * 2
        frozen = method != "none"
        assert (added.run.config.training.learning_rates is None) == frozen
    moved = folder.rename(tmp_path / "away")
    found = add_task(run, told, tmp_path / "added", source=labels, quiet=True)
    assert found.run.predict(texts[:3])["long"].notna().all()
    assert any("the pre-trained trunk" in note for note in found.notes)
