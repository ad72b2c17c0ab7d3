"""Runs on a pre-trained text model from a local folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lepton
from lepton.errors import ConfigurationError
from lepton.export import ExportedModel
from lepton.run import check, make_config, override_config, train_run

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'lepton-mtl[hf]'")

ROWS = {"text": ["the dog runs", "a cat sleeps on the mat", "the cats ran", "dogs sleep"] * 20}
ROWS["animal"] = ["dog", "cat", "cat", "dog"] * 20
ROWS["length"] = [float(len(text)) for text in ROWS["text"]]  # type: ignore[misc]
TRAINING = {"max_epochs": 2, "batch_size": 16}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small ModernBERT with a tokenizer, as `save_pretrained` writes it."""
    special = ["<pad>", "<unknown>", "<start>", "<end>"]
    rules = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unknown>"))
    rules.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    rules.train_from_iterator(ROWS["text"], tokenizers.trainers.BpeTrainer(special_tokens=special, show_progress=False))
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    config = transformers.ModernBertConfig(vocab_size=rules.get_vocab_size(), **sizes, **ids)
    torch.manual_seed(0)
    place = tmp_path / "model"
    transformers.AutoModel.from_config(config).save_pretrained(place)
    rules.save(str(place / "tokenizer.json"))
    roles = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>"}
    (place / "tokenizer_config.json").write_text(json.dumps(roles))
    return place


def test_a_run_needs_the_folder_no_more(folder: Path, tmp_path: Path) -> None:
    run = lepton.fit(
        ROWS, ["animal", "length"], trunk={"hf": str(folder)}, training=TRAINING, folder=tmp_path / "run", quiet=True
    )
    assert run.config.training.learning_rates == {"trunk": 5e-5}
    assert run.config.trunk.type == "hugging_face" and run.encoder.names == ["text"]
    before = run.predict(["the dogs ran", ""])
    shutil.rmtree(folder)
    assert lepton.load(run.folder).predict(["the dogs ran", ""]).equals(before)
    assert run.report().is_file()


def test_an_exported_run_says_the_same_without_the_folder(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="an export needs pip install 'lepton-mtl[export]'")
    run = lepton.fit(
        ROWS, ["animal", "length"], trunk={"hf": str(folder)}, training=TRAINING, folder=tmp_path / "run", quiet=True
    )
    found = run.export(tmp_path / "export", rows=ROWS)
    assert max(found.manifest.checked["largest_difference"].values()) < 1e-4
    shutil.rmtree(folder)
    texts = ["the dogs ran", "", "a cat"]
    there, here = ExportedModel(tmp_path / "export").predict(texts), run.predict(texts)
    assert list(there["animal"]) == list(here["animal"]) and list(there) == list(here)
    shares = [name for name in here if "probability" in name]
    assert len(shares) > 2 and np.allclose(there[shares], here[shares], atol=1e-4)


def test_a_frozen_trunk_stays_as_it_was(folder: Path, tmp_path: Path) -> None:
    before = transformers.AutoModel.from_pretrained(folder).state_dict()
    run = lepton.fit(
        ROWS,
        ["animal"],
        trunk={"hf": str(folder), "frozen": True},
        training=TRAINING,
        folder=tmp_path / "run",
        quiet=True,
    )
    assert run.config.training.learning_rate == 1e-3 and not run.config.training.learning_rates
    after = run.model.trunk.state_dict()
    for name, tensor in before.items():
        (found,) = (value for key, value in after.items() if key.endswith(name))
        assert torch.equal(found, tensor), name


def test_what_it_cannot_read_is_said(folder: Path, tmp_path: Path) -> None:
    rows = {"words": [["a", "dog"]] * 20, "tags": [["D", "N"]] * 20}
    with pytest.raises(ConfigurationError, match="lists of words"):
        lepton.fit(
            rows, {"tags": "token_classification"}, trunk={"hf": str(folder)}, folder=tmp_path / "run", quiet=True
        )


def test_texts_that_are_too_long_for_the_model_are_refused_before_the_training(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"max_position_embeddings": 5}))
    told = {"trunk": {"hf": str(folder)}, "training": TRAINING}
    words = r"5 tokens at most, but data\.max_length is 6: set data\.max_length=5"
    config = make_config(source=None, targets=["animal"], data={"max_length": 6}, rest=told)
    with pytest.raises(ConfigurationError, match=words):
        train_run(config, tmp_path / "run", source=ROWS, quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigurationError, match=words):
        check(config, ROWS)
    run = train_run(override_config(config, ["data.max_length=5"]), tmp_path / "run", source=ROWS, quiet=True)
    assert any("texts are cut at data.max_length" in note for note in run.notes)
    assert len(lepton.load(run.folder).predict([" ".join(ROWS["text"])])) == 1
