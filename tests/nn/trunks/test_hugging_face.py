"""HuggingFaceTrunk: what a folder holds, padding, readers, layers, freezing, training under a balancer, refusals."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lepton
from lepton.balance import UPGrad
from lepton.errors import CheckpointError, ConfigurationError, DataError
from lepton.nn import HuggingFaceTrunk
from lepton.tasks import Classification, Task

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


@pytest.mark.parametrize("layer", [-1, 1, "mix"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_text_of_no_tokens_gives_zeros_and_no_bad_gradient(name: str, layer: Any, folders: Path) -> None:
    trunk = HuggingFaceTrunk(folders / name, layer=layer)
    tokens = torch.cat([texts(name), torch.full((1, 9), trunk.padding)])
    states = trunk(tokens)
    assert not states[-1].any()
    states.square().sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in learning(trunk).values())
    assert HuggingFaceTrunk(folders / name, readers={"a": "pooled"}, pooling="max")(tokens)[-1].count_nonzero() == 0


def test_a_decoder_may_pad_with_the_id_that_begins_and_ends_its_texts(folders: Path) -> None:
    """GPT-2 has one special token for all: at the left and inside of a text it is a token."""
    trunk = HuggingFaceTrunk(folders / "gpt2", readers={"next": "causal"}, padding=0).eval()
    states = trunk(torch.tensor([[0, 7, 0, 8, 0, 0], [0, 7, 5, 5, 5, 5]]))
    assert states[0].any(1).tolist() == [True, True, True, True, False, False]
    torch.testing.assert_close(states[0, :2], states[1, :2])


# -- what is read -------------------------------------------------------------------------------------------------
def test_each_task_gets_what_it_reads_of_one_pass(folders: Path) -> None:
    tokens = texts("t5")
    readers = {"tags": "full", "topic": "pooled", "words": "full"}
    states = HuggingFaceTrunk(folders / "t5").eval()(tokens)
    found = HuggingFaceTrunk(folders / "t5", readers=readers).eval()(tokens)
    assert list(found) == list(readers)
    assert torch.equal(found["tags"], states) and torch.equal(found["words"], states)
    for row, length in enumerate((7, 4, 2)):
        torch.testing.assert_close(found["topic"][row], states[row, :length].mean(0))
    alone = HuggingFaceTrunk(folders / "t5", readers={"topic": "pooled"}).eval()(tokens)
    assert torch.equal(alone, found["topic"])


def test_the_poolings_are_what_they_are_called(folders: Path) -> None:
    tokens, readers = texts("bert"), {"topic": "pooled"}
    states = HuggingFaceTrunk(folders / "bert").eval()(tokens)
    of_one = {"mean": lambda x: x.mean(0), "max": lambda x: x.amax(0), "first": lambda x: x[0], "last": lambda x: x[-1]}
    for pooling, expected in of_one.items():
        found = HuggingFaceTrunk(folders / "bert", readers=readers, pooling=pooling).eval()(tokens)  # type: ignore[arg-type]
        for row, length in enumerate((7, 4, 2)):
            torch.testing.assert_close(found[row], expected(states[row, :length]))


@pytest.mark.parametrize("name", [*BOTH, "bart", "gpt2"])
def test_a_layer_is_a_hidden_state_and_a_mixture_begins_as_their_mean(name: str, folders: Path) -> None:
    tokens = texts(name, (9,))
    model = model_of(name)
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    expected = reader(input_ids=tokens, output_hidden_states=True).hidden_states
    for layer in (-4, -3, -2, -1, 0, 1, 2, 3):
        torch.testing.assert_close(HuggingFaceTrunk(folders / name, layer=layer).eval()(tokens), expected[layer])
    mixed = HuggingFaceTrunk(folders / name, layer="mix").eval()
    torch.testing.assert_close(mixed(tokens), torch.stack(expected).mean(0), rtol=1e-4, atol=1e-5)
    mixed.mix.data[2] = 50.0
    mixed.gamma.data.fill_(2.0)
    torch.testing.assert_close(mixed(tokens), 2 * expected[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [-1, 1, 0, "mix"])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_no_state_depends_on_does_not_learn(name: str, layer: Any, folders: Path) -> None:
    """A pooler, the layers above the one that is read: data parallelism refuses parameters without a gradient."""
    trunk = HuggingFaceTrunk(folders / name, layer=layer)
    trunk(texts(name)).square().sum().backward()
    assert {key for key, each in trunk.named_parameters() if each.grad is not None} == set(learning(trunk))
    if layer != -1:
        return
    every = {key for key, _ in trunk.named_parameters() if "pooler" not in key}
    assert set(learning(trunk)) == every


# -- freezing -----------------------------------------------------------------------------------------------------
def learning(trunk: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: each for name, each in trunk.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("name", ["modernbert", "bert", "bart", "t5", "gpt2"])
def test_the_lowest_layers_stand_still_also_their_dropout(name: str, folders: Path) -> None:
    trunk = HuggingFaceTrunk(folders / name, freeze_layers=2).train()
    layers = next(m for m in trunk.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
    above = {
        key for key, each in HuggingFaceTrunk(folders / name, freeze_layers=3).named_parameters() if each.requires_grad
    }
    top = {id(each) for each in layers[2].parameters()}
    assert {key for key, each in learning(trunk).items() if id(each) not in top} == above
    assert {id(each) for each in learning(trunk).values()} >= top
    assert all("norm" in key or "ln_f" in key for key in above)
    assert [any(m.training for m in layer.modules()) for layer in layers] == [False, False, True]
    assert not any(module.training for module in trunk.eval().modules())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_frozen_model_has_no_dropout_in_training_and_no_graph(name: str, folders: Path) -> None:
    trunk = HuggingFaceTrunk(folders / name, frozen=True).train()
    tokens = texts(name)
    assert torch.equal(trunk(tokens), trunk(tokens))
    assert not trunk(tokens).requires_grad
    assert torch.equal(trunk(tokens), trunk.eval()(tokens))


# -- training -----------------------------------------------------------------------------------------------------
def tasks() -> list[Task]:
    return [Classification("tags", classes=3), Classification("topic", classes=2)]


def targets_of(tokens: Tensor, padding: int) -> dict[str, Tensor]:
    return {"tags": (tokens % 3).masked_fill(tokens == padding, -100), "topic": tokens[:, 0] % 2}


def trained(trunk: HuggingFaceTrunk, name: str, steps: int = 3) -> tuple[lepton.LeptonModel, list[float]]:
    torch.manual_seed(0)
    model = lepton.LeptonModel(trunk, tasks(), balancer=UPGrad())
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.01)
    tokens = texts(name, (9, 7, 4, 2))
    losses = []
    for _ in range(steps):
        outputs, task_weights = model({"tokens": tokens})
        loss = criterion(outputs, targets_of(tokens, trunk.padding), task_weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


READERS = {"tags": "full", "topic": "pooled"}


@pytest.mark.parametrize("name", BOTH)
def test_two_tasks_of_different_reading_train_under_a_balancer(name: str, folders: Path) -> None:
    trunk = HuggingFaceTrunk(folders / name, readers=READERS)
    before = {key: each.clone() for key, each in trunk.state_dict().items()}
    model, losses = trained(trunk, name, steps=8)
    assert losses[-1] < 0.8 * losses[0]
    assert model.fork.weights is not None and bool((model.fork.weights > 0).all())
    assert all(not torch.equal(trunk.state_dict()[key], before[key]) for key in learning(trunk))


@pytest.mark.parametrize("layer", [-1, "mix"])
@pytest.mark.parametrize("name", BOTH)
def test_a_frozen_model_stays_bit_for_bit_while_the_rest_learns(name: str, layer: Any, folders: Path) -> None:
    trunk = HuggingFaceTrunk(folders / name, readers=READERS, frozen=True, layer=layer)
    before = {key: each.clone() for key, each in trunk.model.state_dict().items()}
    model, losses = trained(trunk, name, steps=8)
    assert all(torch.equal(each, before[key]) for key, each in trunk.model.state_dict().items())
    assert losses[-1] < losses[0]
    start = lepton.LeptonModel(HuggingFaceTrunk(folders / name, readers=READERS, frozen=True), tasks())
    for task in READERS:
        assert not torch.equal(model.heads[task].weight, start.heads[task].weight)
    assert trunk.mix is None or bool(trunk.mix.detach().abs().max() > 0)


@pytest.mark.parametrize("layer", [-1, 1, "mix"])
@pytest.mark.parametrize("name", [*BOTH, "gpt2"])
def test_every_learning_parameter_gets_a_gradient_in_every_view_and_precision(
    name: str, layer: Any, folders: Path
) -> None:
    tokens, readers = texts(name), {"tags": "causal" if name == "gpt2" else "full", "topic": "pooled"}
    for gradients in ("fork_layer", "parameters"):
        for mixed in (False, True):
            trunk = HuggingFaceTrunk(folders / name, readers=readers, layer=layer)
            model = lepton.LeptonModel(trunk, tasks(), balancer=UPGrad(), gradients=gradients)
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                outputs, task_weights = model({"tokens": tokens})
                loss = lepton.MultiTaskLoss(model)(outputs, targets_of(tokens, trunk.padding), task_weights)
            loss.backward()
            assert all(each.grad is not None and each.grad.isfinite().all() for each in learning(trunk).values())


# -- there and back -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layer", [-1, "mix"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_needs_its_weights_and_the_configuration_only(name: str, layer: Any, folders: Path) -> None:
    """The folder may be gone: the configuration goes through JSON, the weights through a state_dict."""
    options: dict[str, Any] = {"layer": layer, "padding": 1 if name in ("roberta", "bart") else 0}
    trunk = HuggingFaceTrunk(folders / name, **options).eval()
    if trunk.mix is not None:
        torch.nn.init.normal_(trunk.mix)
    torch.manual_seed(3)
    again = HuggingFaceTrunk(config=json.loads(json.dumps(trunk.config)), **options).eval()
    tokens = texts(name)
    assert not torch.allclose(again(tokens), trunk(tokens))
    again.load_state_dict(trunk.state_dict())
    assert torch.equal(again(tokens), trunk(tokens))
    assert again.config == trunk.config
    assert set(learning(again)) == set(learning(trunk))


@pytest.mark.parametrize("name", BOTH)
def test_a_copy_is_equal_and_independent(name: str, folders: Path) -> None:
    trunk = HuggingFaceTrunk(folders / name, readers=READERS, layer="mix", freeze_layers=1).eval()
    tokens = texts(name)
    expected, twin = trunk(tokens), copy.deepcopy(trunk)
    torch.testing.assert_close(twin(tokens), expected, rtol=0, atol=0)
    assert set(learning(twin)) == set(learning(trunk))
    with torch.no_grad():
        for each in twin.parameters():
            each.zero_()
    torch.testing.assert_close(trunk(tokens), expected, rtol=0, atol=0)
    assert not twin(tokens)["topic"].any()


def test_random_weights_follow_the_seed_and_are_not_the_folders(folders: Path) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(HuggingFaceTrunk(folders / "bert", initialise=False).eval()(texts("bert")))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], HuggingFaceTrunk(folders / "bert").eval()(texts("bert")))


def test_weights_in_half_precision_are_trained_in_full(tmp_path: Path) -> None:
    model_of("bert").to(torch.bfloat16).save_pretrained(tmp_path)
    for initialise in (True, False):
        trunk = HuggingFaceTrunk(tmp_path, initialise=initialise)
        assert {each.dtype for each in trunk.parameters()} == {torch.float32}


def test_the_weights_of_a_model_with_another_head_are_enough(tmp_path: Path) -> None:
    """A masked language model has no pooler, an encoder alone no decoder: nothing of what is read is missing."""
    torch.manual_seed(0)
    masked = transformers.BertForMaskedLM(transformers.BertConfig(**CONFIGS["bert"])).eval()
    masked.save_pretrained(tmp_path / "bert")
    tokens = texts("bert", (9, 9))
    expected = masked.bert(input_ids=tokens).last_hidden_state
    assert torch.equal(HuggingFaceTrunk(tmp_path / "bert").eval()(tokens), expected)
    encoder = transformers.T5EncoderModel(transformers.T5Config(**CONFIGS["t5"])).eval()
    encoder.save_pretrained(tmp_path / "t5")
    expected = encoder(input_ids=tokens).last_hidden_state
    assert torch.equal(HuggingFaceTrunk(tmp_path / "t5").eval()(tokens), expected)


# -- refusals -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options, message",
    [
        ({"layer": 4}, r"layer must be in -4 to 3, as the model has 3 layers, or 'mix', but it is 4"),
        ({"layer": "mixed"}, r"layer must be in .* but it is 'mixed'"),
        ({"freeze_layers": 4}, "freeze_layers must be a whole number in 0 to 3"),
        ({"pooling": "cls"}, r"pooling must be one of \['mean', 'max', 'first', 'last'\], but it is 'cls'"),
        ({"readers": {"t": "ful"}}, r"'t' is to read 'ful'.*sees the whole text.*Did you mean 'full'"),
        ({"readers": {"t": "causal"}}, r"'t' is to read 'causal'.*gives \['full', 'pooled'\]"),
        ({"readers": {"t": "target"}}, r"'t' is to read 'target'"),
        ({"vocabulary": 41}, "the data has 41 ids, but the model knows only 40"),
        ({"padding": 40}, "padding must be an id of the model, in 0 to 39, but it is 40"),
    ],
)
def test_an_option_that_the_model_cannot_serve_is_refused(options: dict[str, Any], message: str, folders: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        HuggingFaceTrunk(folders / "bert", **options)


def test_a_causal_model_has_no_full_states(folders: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'t' is to read 'full'.*to the left, gives \['causal', 'pooled'\]"):
        HuggingFaceTrunk(folders / "gpt2", readers={"t": "full"})
    with pytest.raises(ConfigurationError, match="pooling is 'first'"):
        HuggingFaceTrunk(folders / "gpt2", readers={"t": "pooled"}, pooling="first")


def test_layers_that_share_their_parameters_are_frozen_together_or_not(folders: Path) -> None:
    with pytest.raises(ConfigurationError, match="share their parameters"):
        HuggingFaceTrunk(folders / "albert", freeze_layers=1)


def test_tokens_that_the_model_cannot_read_are_refused(folders: Path) -> None:
    bert, roberta = HuggingFaceTrunk(folders / "bert"), HuggingFaceTrunk(folders / "roberta")
    with pytest.raises(DataError, match="ids must be in 0 to 39, what the model knows, but they are in 1 to 40"):
        bert(torch.tensor([[1, 40]]))
    with pytest.raises(DataError, match="have 13 tokens, but the model takes 12 at most"):
        bert(torch.ones(1, 13, dtype=torch.int64))
    with pytest.raises(DataError, match="have 11 tokens, but the model takes 10 at most"):
        roberta(torch.full((1, 11), 5))
    assert roberta(torch.full((1, 10), 5)).shape == (1, 10, 16)
    with pytest.raises(DataError, match=r"whole numbers \[B, S\], but they are torch.float32 \[2, 3\]"):
        bert(torch.zeros(2, 3))


def test_a_folder_that_is_not_there_gets_the_nearest_name(folders: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no folder .*modernbrt.*Did you mean 'modernbert'"):
        HuggingFaceTrunk(folders / "modernbrt")
    with pytest.raises(ConfigurationError, match="give a folder that save_pretrained wrote, or a config"):
        HuggingFaceTrunk()


def test_a_name_of_the_hub_is_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    kept, version = tmp_path / "models--owner--small", "a" * 40
    model_of("bert").save_pretrained(kept / "snapshots" / version)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(version)
    tokens = texts("bert")
    expected = HuggingFaceTrunk(kept / "snapshots" / version).eval()(tokens)
    assert torch.equal(HuggingFaceTrunk("owner/small").eval()(tokens), expected)
    with pytest.raises(ConfigurationError, match="no folder 'owner/smal', and no model of that name could be read"):
        HuggingFaceTrunk("owner/smal")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "small").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"no folder 'models/smal'.*Did you mean 'small'.*written owner/name"):
        HuggingFaceTrunk("models/smal")


def folder_with(path: Path, config: Any, **files: bytes) -> Path:
    path.mkdir()
    if config is not None:
        (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)
    return path


@pytest.mark.parametrize(
    "config, message",
    [
        (None, r"there is no config.json in .*, which holds \['model.safetensors'\]"),
        ("{", "is not JSON"),
        ("[]", "model_type is None"),
        ({"model_type": "modernbrt"}, "is 'modernbrt', which transformers does not know. Did you mean 'modernbert'"),
        ({**CONFIGS["bert"], "hidden_size": "many"}, "the configuration of 'bert' has a wrong value"),
        ({**CONFIGS["bert"], "quantization_config": {"quant_method": "gptq"}}, "the weights are quantised"),
        ({"model_type": "vit", "num_attention_heads": 1, "num_hidden_layers": 1}, "reads pixel_values"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_of_no_use_is_refused(config: Any, message: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", config, model__safetensors=b"")
    with pytest.raises(ConfigurationError, match=message):
        HuggingFaceTrunk(folder, initialise=False)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.rmdir, (tmp_path / "there",))

    folder = folder_with(tmp_path / "model", CONFIGS["bert"], pytorch_model__bin=pickle.dumps(Trap()))
    with pytest.raises(ConfigurationError, match=r"has no model.safetensors; it holds .*Pickled weights"):
        HuggingFaceTrunk(folder)
    assert (tmp_path / "there").is_dir()
    HuggingFaceTrunk(folder, initialise=False)
    assert (tmp_path / "there").is_dir()


@pytest.mark.parametrize("kind", ["bert", "no_such_architecture"])
def test_code_beside_the_weights_is_never_run(kind: str, folders: Path, tmp_path: Path) -> None:
    code = b"import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nraise RuntimeError('it ran')\n"
    own = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    weights = (folders / "bert" / "model.safetensors").read_bytes()
    config = {**CONFIGS["bert"], "model_type": kind, "auto_map": own, "_attn_implementation": "somebody/kernel"}
    folder = folder_with(tmp_path / "model", config, own__py=code, model__safetensors=weights)
    if kind == "bert":  # the architecture is known, so the library's own class reads the weights
        tokens = texts("bert")
        trunk = HuggingFaceTrunk(folder).eval()
        assert torch.equal(trunk(tokens), HuggingFaceTrunk(folders / "bert").eval()(tokens))
        assert not any(key == "auto_map" or key.startswith("_") for key in trunk.config)
    else:
        with pytest.raises(ConfigurationError, match="Code that comes with a model is never run"):
            HuggingFaceTrunk(folder)
    assert not (folder / "ran").exists()


def test_weights_that_are_damaged_or_of_another_model_are_refused(folders: Path, tmp_path: Path) -> None:
    whole = (folders / "bert" / "model.safetensors").read_bytes()
    cases = {
        "damaged": (CONFIGS["bert"], whole[:-100], "cannot be loaded"),
        "wider": ({**CONFIGS["bert"], "hidden_size": 32}, whole, "cannot be loaded"),
        "deeper": ({**CONFIGS["bert"], "num_hidden_layers": 5}, whole, r"lack 32 parameters of the model.*layer\.3"),
        "other": (CONFIGS["modernbert"], whole, "lack .* parameters of the model, which would be random"),
    }
    for name, (config, weights, message) in cases.items():
        with pytest.raises(CheckpointError, match=message):
            HuggingFaceTrunk(folder_with(tmp_path / name, config, model__safetensors=weights))


def test_loading_says_nothing_and_leaves_the_librarys_settings(
    folders: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    transformers.BertForMaskedLM(transformers.BertConfig(**CONFIGS["bert"])).save_pretrained(tmp_path)
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    capfd.readouterr()
    HuggingFaceTrunk(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert logging.get_verbosity() == level and logging.is_progress_bar_enabled()
