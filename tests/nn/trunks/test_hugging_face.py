"""HuggingFaceTrunk: what a folder holds, padding, readers, layers, freezing, training under a balancer, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lepton.nn import HuggingFaceTrunk

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'lepton-mtl[hf]'")

IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "num_heads": 2, "num_layers": 3, "num_decoder_layers": 1, "d_ff": 24}
CONFIGS: dict[str, dict[str, Any]] = {
    "modernbert": {"model_type": "modernbert", **SMALL, **IDS, "local_attention": 4, "embedding_dropout": 0.2},
    "bert": {"model_type": "bert", **SMALL, **IDS, "max_position_embeddings": 12},
    "roberta": {"model_type": "roberta", **SMALL, **IDS, "pad_token_id": 1, "max_position_embeddings": 12},
    "albert": {"model_type": "albert", **SMALL, **IDS, "embedding_size": 8},
    "t5": {"model_type": "t5", **T5, "pad_token_id": 0},
    "bart": {
        "model_type": "bart",
        **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in
           {"layers": 3, "attention_heads": 2, "ffn_dim": 24}.items()},
        "d_model": 16, "vocab_size": 40, **IDS,
    },
    "gpt2": {"model_type": "gpt2", "vocab_size": 40, "n_embd": 16, "n_layer": 3, "n_head": 2, "pad_token_id": 0,
             "bos_token_id": 2, "eos_token_id": 3},
}  # fmt: skip
ENCODERS = [name for name in CONFIGS if name != "gpt2"]
BOTH = ["modernbert", "t5"]


def model_of(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.CONFIG_MAPPING[CONFIGS[name]["model_type"]].from_dict(CONFIGS[name])
    return transformers.AutoModel.from_config(config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in CONFIGS:
        model_of(name).save_pretrained(root / name)
    return root


def texts(name: str, lengths: tuple[int, ...] = (7, 4, 2), width: int = 9) -> Tensor:
    """Ids without special meaning, padded right."""
    padding = CONFIGS[name].get("pad_token_id", 1 if name == "bart" else 0)
    tokens = torch.randint(4, 40, (len(lengths), width), generator=torch.Generator().manual_seed(1))
    return tokens.masked_fill(torch.arange(width) >= torch.tensor(lengths)[:, None], padding)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_folders_weights_give_the_models_own_states(name: str, folders: Path) -> None:
    tokens = texts(name, (9, 9))
    model = transformers.AutoModel.from_pretrained(folders / name).eval()
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    trunk = HuggingFaceTrunk(folders / name).eval()
    torch.testing.assert_close(trunk(tokens), reader(input_ids=tokens).last_hidden_state, rtol=0, atol=0)
    assert trunk.out_features == 16
    assert trunk.causal == (name == "gpt2")


@pytest.mark.parametrize("pooling", ["mean", "max", "first", "last"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_text_has_the_same_features_however_far_it_is_padded(name: str, pooling: Any, folders: Path) -> None:
    states = HuggingFaceTrunk(folders / name).eval()
    readers = {"task": "pooled"}
    pooled = HuggingFaceTrunk(folders / name, readers=readers, pooling=pooling if name != "gpt2" else "last").eval()
    tokens = texts(name)
    for row, length in enumerate((7, 4, 2)):
        alone = tokens[row : row + 1, :length]
        torch.testing.assert_close(states(tokens)[row, :length], states(alone)[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pooled(tokens)[row], pooled(alone)[0], rtol=1e-4, atol=1e-5)
        assert not states(tokens)[row, length:].any()
