"""LoRA against its formula in float64, and against peft where that is installed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError
from lepton.nn import ConvTrunk, LoRA, TransformerTrunk, add_lora, merge_lora

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "linear on positions": (lambda: nn.Linear(6, 5, bias=False), (3, 4, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 5, 3, stride=2, padding=1), (3, 6, 9)),
    "conv1d in groups": (lambda: nn.Conv1d(6, 4, 3, groups=2, dilation=2), (3, 6, 9)),
    "conv2d": (lambda: nn.Conv2d(6, 5, (3, 2), stride=(2, 1), padding=(1, 0), bias=False), (3, 6, 7, 8)),
    "conv2d in groups": (lambda: nn.Conv2d(6, 9, 3, groups=3, stride=2), (2, 6, 7, 7)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), (2, 4, 5, 5)),
    "reflected": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (2, 4, 5, 5)),
}


def trained(base: nn.Module, **options: Any) -> LoRA:
    """A layer in float64 whose adapter `a` is no longer zero, and active."""
    layer = LoRA(base.double())
    layer.add("a", **{"rank": 2, "alpha": 3.0, **options})
    nn.init.normal_(layer.adapters["a"].B)
    layer.active = "a"
    return layer


def by_hand(layer: LoRA, x: Tensor) -> Tensor:
    """The formula with loops: for each group the matrix B A, unfolded to a weight, and one call with it."""
    base, pair = layer.base, layer.adapters["a"]
    groups = getattr(base, "groups", 1)
    rank, outputs = len(pair.A) // groups, base.weight.shape[0]
    weight = base.weight.clone()
    for out in range(outputs):
        group = out // (outputs // groups)
        for r in range(rank):
            weight[out] += 3.0 / rank * pair.B[out, r].squeeze() * pair.A[group * rank + r]
    with torch.no_grad():
        whole = copy.deepcopy(base)
        whole.weight.copy_(weight)
        return whole(x)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_output_follows_the_formula(kind: str) -> None:
    make, shape = LAYERS[kind]
    layer, x = trained(make()), torch.randn(shape, dtype=torch.float64)
    expected = by_hand(layer, x)
    assert not torch.allclose(layer(x), layer.base(x), atol=1e-3)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    merged = layer.merge("a")
    assert merged is layer.base
    torch.testing.assert_close(merged(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_without_an_active_adapter_it_is_the_layer_bit_for_bit(kind: str) -> None:
    make, shape = LAYERS[kind]
    base, x = make(), torch.randn(shape)
    expected = base(x)
    layer = LoRA(base)
    layer.add("a", rank=2)
    layer.add("b", rank=1)
    nn.init.normal_(layer.adapters["a"].B)
    assert torch.equal(layer(x), expected)
    layer.active = "b"  # zero at first
    assert torch.equal(layer(x), expected)
    layer.active = "a"
    assert not torch.equal(layer(x), expected)
    layer.active = None
    assert torch.equal(layer(x), expected)


def test_only_the_active_adapter_gets_a_gradient() -> None:
    layer = trained(nn.Linear(6, 5).requires_grad_(False))
    layer.add("b", rank=2)
    layer(torch.randn(3, 6, dtype=torch.float64)).square().sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == {"adapters.a.A", "adapters.a.B"}
    assert {name for name, p in layer.named_parameters() if not p.requires_grad} == {"base.weight", "base.bias"}


def test_the_scale_is_one_by_default() -> None:
    x = torch.randn(3, 6, dtype=torch.float64)
    layer = trained(nn.Linear(6, 5), alpha=None, rank=4)
    pair = layer.adapters["a"]
    torch.testing.assert_close(layer(x) - layer.base(x), x @ pair.A.T @ pair.B.T)


def test_autocast_and_reduced_precision() -> None:
    layer = trained(nn.Conv2d(3, 4, 3)).float()
    x = torch.randn(2, 3, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x), rtol=0.05, atol=0.05)
    whole = LoRA(nn.Linear(4, 3).bfloat16())
    whole.add("a")
    assert whole.adapters["a"].A.dtype == torch.bfloat16


def test_state_and_copies() -> None:
    layer = trained(nn.Linear(6, 5))
    other = LoRA(nn.Linear(6, 5).double())
    other.add("a", rank=2, alpha=3.0)
    other.load_state_dict(layer.state_dict())
    other.active = "a"
    x = torch.randn(3, 6, dtype=torch.float64)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_modules_that_read_the_weight_see_the_adapter() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    before = attention(x, x, x)[0]
    assert add_lora(attention, "a", targets=["out_proj"]) == ["out_proj"]
    assert torch.equal(attention(x, x, x)[0], before)
    pair = attention.out_proj.adapters["a"]
    nn.init.normal_(pair.B)
    attention.out_proj.active = "a"
    inner = torch.linalg.lstsq(attention.out_proj.base.weight, (before - attention.out_proj.bias).reshape(-1, 8).T)
    expected = before + (inner.solution.T @ pair.A.T @ pair.B.T).view_as(before)
    torch.testing.assert_close(attention(x, x, x)[0], expected, rtol=1e-3, atol=1e-3)
    assert attention.out_proj.in_features == 8


def test_layers_are_chosen_by_the_end_of_their_names() -> None:
    trunk = TransformerTrunk(20, width=8, depth=2, heads=2)
    before = trunk.state_dict()
    names = add_lora(trunk, "a", targets=["q", "feedforward.output"])
    assert len(names) == 4 and all(name.endswith((".q", ".feedforward.output")) for name in names)
    again = add_lora(trunk, "b")
    assert set(names) < set(again)
    assert sum("adapters" in name for name in trunk.state_dict()) == 2 * (len(names) + len(again))
    assert set(before) == {name.replace(".base", "") for name in trunk.state_dict() if "adapters" not in name}


def test_a_layer_that_stands_in_two_places_is_one_layer() -> None:
    shared = nn.Linear(4, 4)
    module = nn.Sequential(shared, nn.Tanh(), shared)
    assert add_lora(module, "a") == ["0"]
    assert module[0] is module[2] and isinstance(module[0], LoRA)


def test_a_whole_trunk_merges_to_the_same_function() -> None:
    trunk = ConvTrunk(1, width=4, stages=2, blocks=1).eval().double()
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    before = trunk(x)
    names = add_lora(trunk, "a", rank=2)
    assert torch.equal(trunk(x), before)
    for module in trunk.modules():
        if isinstance(module, LoRA):
            nn.init.normal_(module.adapters["a"].B, std=0.1)
            module.active = "a"
    adapted = trunk(x)
    assert (adapted - before).abs().max() > 1e-3
    assert merge_lora(trunk, "a") == names
    assert not any(isinstance(module, LoRA) for module in trunk.modules())
    torch.testing.assert_close(trunk(x), adapted)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["feedforwrd"], r"no layer 'feedforwrd'.*Did you mean 'feedforward'"),
        (["norm"], r"'norm' is a LayerNorm, which cannot be adapted; what can be is \['feedforward'\]"),
        ("feedforward", "targets must be a list of names"),
        ([], "no layer that could be adapted"),
    ],
)
def test_layers_that_are_not_there(targets: Any, message: str) -> None:
    module = nn.Module()
    module.feedforward, module.norm = nn.Linear(2, 2), nn.LayerNorm(2)
    with pytest.raises(ConfigurationError, match=message):
        add_lora(module, "a", targets=targets)
    assert type(module.feedforward) is nn.Linear


def test_what_is_refused() -> None:
    trunk = nn.Sequential(nn.Linear(2, 2))
    for options, message in (({"rank": 0}, "rank must be"), ({"alpha": -1.0}, "alpha must be")):
        with pytest.raises(ConfigurationError, match=message):
            add_lora(trunk, "a", **options)
    assert type(trunk[0]) is nn.Linear
    with pytest.raises(ConfigurationError, match=r"without '\.'"):
        add_lora(trunk, "a.b")
    add_lora(trunk, "a")
    with pytest.raises(ConfigurationError, match=r"\['0'\] already have an adapter 'a'"):
        add_lora(trunk, "a")
    with pytest.raises(ConfigurationError, match=r"no adapter 'c'"):
        trunk[0].change("c")
    with pytest.raises(ConfigurationError, match=r"no layer has an adapter 'aa'; the adapters are \['a'\]"):
        merge_lora(trunk, "aa")
    add_lora(trunk, "keys")  # a name that modules use themselves
    weight = trunk[0].base.weight.clone()
    with pytest.raises(ConfigurationError, match=r"'a' cannot be merged: \['keys'\]"):
        merge_lora(trunk, "a")
    assert torch.equal(trunk[0].base.weight, weight)
    with pytest.raises(ConfigurationError, match=r"nn.Linear or nn.Conv1d or nn.Conv2d, but got Embedding"):
        LoRA(nn.Embedding(2, 2))
    with pytest.raises(ConfigurationError, match="does not know its inputs yet"):
        LoRA(nn.LazyLinear(2))
    with pytest.raises(ConfigurationError, match="no layer that could be adapted"):
        add_lora(nn.Linear(2, 2), "a")


def test_against_peft() -> None:
    peft = pytest.importorskip("peft")
    ours = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0", "2"], init_lora_weights=False)
    theirs = peft.get_peft_model(copy.deepcopy(ours), config)
    add_lora(ours, "default", rank=2, alpha=3)
    for place in (0, 2):
        layer = theirs.base_model.model[place]
        ours[place].active = "default"
        with torch.no_grad():
            ours[place].adapters["default"].A.copy_(layer.lora_A["default"].weight)
            ours[place].adapters["default"].B.copy_(layer.lora_B["default"].weight)
    x = torch.randn(3, 6)
    torch.testing.assert_close(ours(x), theirs(x))
