"""Pruned trunks: what goes, what stays, how the rest is described."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.balance import CAGrad
from lepton.compress import Pruned, prune
from lepton.errors import ConfigurationError
from lepton.nn import (
    AcousticTrunk,
    ConvTrunk,
    LeptonModel,
    MixedTrunk,
    Prunable,
    TabularTrunk,
    TransformerTrunk,
    UNet,
    Width,
    add_lora,
)
from lepton.tasks import Classification, Regression, Segmentation, Task, TokenClassification

pytest.importorskip("torch_pruning")


def two() -> list[Task]:
    return [Classification("kind", classes=3), Regression("size")]


def table_inputs() -> dict[str, Tensor]:
    return {
        "numbers": torch.randn(4, 2),
        "missing": torch.zeros(4, 2),
        "categories": torch.randint(0, 4, (4, 2)),
        "text": torch.randint(1, 30, (4, 1, 5)),
    }


def texts() -> dict[str, Tensor]:
    tokens = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    target = torch.tensor([[4, 20], [4, 21]])
    return {"tokens": tokens, "target": target, "characters": torch.randint(1, 20, (2, 4, 3))}


def recordings() -> dict[str, Tensor]:
    return {"waveform": 0.1 * torch.randn(2, 4000), "samples": torch.tensor([4000, 2500])}


def mixed(columns: int) -> Callable[..., nn.Module]:
    def make(width: int = 48, **parts: Mapping[str, Any]) -> nn.Module:
        told: dict[str, Any] = {name: {**options} for name, options in parts.items()}
        table = TabularTrunk(
            [[-1.0, 0, 1], [0, 1]], [4, 5], texts=1, text_buckets=30, **({"width": 32} | told.get("table", {}))
        )
        text = TransformerTrunk(40, readers={"t": "pooled"}, depth=1, **({"width": 16} | told.get("text", {})))
        image = ConvTrunk(width=16, stages=2, blocks=1, **told.get("image", {}))
        return MixedTrunk(table, image, text, images=columns, texts=columns, width=width)

    return make


def rows_of_all(columns: int) -> dict[str, Tensor]:
    image = torch.rand(4, columns, 3, 8, 8)
    gone = torch.zeros(4, columns)
    gone[0] = 1
    return {
        **table_inputs(),
        "image": image,
        "image_missing": gone,
        "tokens": torch.randint(1, 40, (4, columns, 6)),
    }


READERS = {"next": "causal", "tags": "full", "german": "target", "mood": "pooled"}


def text_tasks() -> list[Task]:
    many = [TokenClassification(name, classes=40) for name in ("next", "tags", "german")]
    return [*many, Classification("mood", classes=3)]


def sound_tasks() -> list[Task]:
    return [TokenClassification("letters", classes=5), Regression("speaker")]


CASES: dict[str, tuple[Callable[..., nn.Module], Callable[[], list[Task]], Callable[[], Any]]] = {
    "tabular": (
        lambda **o: TabularTrunk([[-1.0, 0, 1], [0, 1]], [4, 5], texts=1, text_buckets=30, **({"width": 64} | o)),
        two,
        table_inputs,
    ),
    "many heads": (
        lambda **o: TabularTrunk([[-1.0, 0, 1], [0, 1]], **({"width": 64} | o)),
        lambda: [Regression(f"r{n}") for n in range(70)],
        lambda: {"numbers": torch.randn(4, 2)},
    ),
    "conv": (lambda **o: ConvTrunk(width=16, stages=2, **o), two, lambda: torch.rand(2, 3, 12, 10)),
    "conv, groups": (
        lambda **o: ConvTrunk(width=32, stages=2, norm="group", **o),
        two,
        lambda: torch.rand(2, 3, 12, 10),
    ),
    "unet": (
        lambda **o: UNet(width=8, depth=2, **o),
        lambda: [Segmentation("map", classes=3), Regression("size")],
        lambda: torch.rand(2, 3, 10, 13),
    ),
    "unet, groups": (lambda **o: UNet(width=32, depth=1, norm="group", **o), two, lambda: torch.rand(2, 3, 10, 13)),
    "transformer": (
        lambda **o: TransformerTrunk(40, characters=20, readers=READERS, depth=2, **({"width": 32} | o)),
        text_tasks,
        texts,
    ),
    "acoustic": (
        lambda **o: AcousticTrunk(
            8000, readers={"letters": "frames", "speaker": "pooled"}, depth=2, **({"width": 32} | o)
        ),
        sound_tasks,
        recordings,
    ),
    "mixed": (mixed(1), two, lambda: rows_of_all(1)),
    "mixed, columns": (mixed(2), two, lambda: rows_of_all(2)),
}


def outputs_of(model: LeptonModel, inputs: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(model.eval()(inputs)[0])


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("spread", ["uniform", "global"])
@pytest.mark.parametrize("case", CASES)
def test_a_pruned_model_is_built_by_its_options(case: str, spread: str) -> None:
    make, tasks, draw = CASES[case]
    inputs = draw()
    model = LeptonModel(make(), tasks())
    state, before = copy.deepcopy(model.state_dict()), outputs_of(model, inputs)

    pruned = prune(model, inputs, 0.4, spread=spread)

    rebuilt = LeptonModel(make(**pruned.options), tasks())
    rebuilt.load_state_dict(pruned.model.state_dict(), strict=True)
    found, again = outputs_of(pruned.model, inputs), outputs_of(rebuilt, inputs)
    assert all(torch.equal(found[name], again[name]) for name in before)
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in before.items()}
    assert pruned.parameters_before == count(model) and pruned.parameters == count(pruned.model)
    assert pruned.ratio == 1 - pruned.parameters / pruned.parameters_before >= 0.4
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(now <= was for was, now in pruned.widths.values()) and any(n < w for w, n in pruned.widths.values())


@pytest.mark.parametrize("case", ["conv", "transformer", "many heads"])
def test_a_pruned_model_trains_and_holds_no_mask(case: str) -> None:
    make, tasks, draw = CASES[case]
    inputs = draw()
    model = LeptonModel(make(), tasks(), balancer=CAGrad()).train()
    frozen = next(iter(model.trunk.parameters())).requires_grad_(False)
    name = next(name for name, parameter in model.named_parameters() if parameter is frozen)

    pruned = prune(model, inputs, 0.4).model

    assert pruned.training and pruned.state_dict().keys() == model.state_dict().keys()
    assert not any(value.any() for key, value in pruned.state_dict().items() if key.endswith("batches_tracked"))
    learns = {key: parameter.requires_grad for key, parameter in pruned.named_parameters()}
    assert learns == {key: key != name for key in learns}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in pruned.trunk.modules())
    outputs, weights = pruned(inputs)
    targets = {
        name: value.detach().movedim(-1, 1).argmax(1) if value.ndim > 1 else torch.zeros_like(value)
        for name, value in outputs.items()
    }
    lepton.MultiTaskLoss(pruned)(outputs, targets, weights).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in pruned.trunk.parameters() if p.requires_grad)


def halved(trunk: ConvTrunk) -> dict[str, list[int]]:
    return {name: [size // 2 for size in sizes] for name, sizes in trunk.sizes().items()}


def test_dead_channels_go_and_the_outputs_stay() -> None:
    """The dependencies, written down by hand: who writes a channel, who normalises it, who reads it."""
    trunk = ConvTrunk(width=8, stages=2, blocks=2)
    model = LeptonModel(trunk, two()).eval()
    for norm in trunk.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = torch.randn(norm.num_features)
            norm.running_var = torch.rand(norm.num_features) + 0.5
    a, b, c, d = trunk.stages
    heads: list[Any] = list(model.heads.values())
    streams: list[tuple[list[Any], list[Any], list[Any]]] = [
        ([trunk.stem[0]], [trunk.stem[1]], [a.layers[0], a.beside[1]]),
        (
            [a.layers[3], a.beside[1], b.layers[3]],
            [a.layers[4], a.beside[2], b.layers[4]],
            [b.layers[0], c.layers[0], c.beside[1]],
        ),
        ([c.layers[3], c.beside[1], d.layers[3]], [c.layers[4], c.beside[2], d.layers[4]], [d.layers[0], *heads]),
        *(([block.layers[0]], [block.layers[1]], [block.layers[3]]) for block in (a, b, c, d)),
    ]
    kept = []
    for writers, norms, readers in streams:
        order = torch.randperm(writers[0].out_channels)
        dead = order[: len(order) // 2]
        kept.append(order[len(order) // 2 :].sort().values)
        for layer in writers:
            layer.weight.data[dead] = 0
        for norm in norms:
            norm.weight.data[dead] = norm.bias.data[dead] = 0
        for layer in readers:
            layer.weight.data[:, dead] = 0
    image = torch.rand(3, 3, 16, 16)
    small = LeptonModel(ConvTrunk(width=8, stages=2, blocks=2, **halved(trunk)), two())

    pruned = prune(model, image, 1 - count(small) / count(model), spread="uniform")

    assert pruned.options == halved(trunk)
    found, expected = outputs_of(pruned.model, image), outputs_of(model, image)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    stem: Any = pruned.model.trunk.stem
    assert torch.equal(stem[1].running_mean, trunk.stem[1].running_mean[kept[0]])  # type: ignore[index]
    assert stem[1].num_features == 4 and stem[1].running_var.shape == (4,)


class InnerOnly(TransformerTrunk):
    def prunable(self) -> list[Width]:
        return [width for width in super().prunable() if width.name != "width"]


def test_dead_attention_heads_and_hidden_units_go_and_the_outputs_stay() -> None:
    def make(**options: Any) -> InnerOnly:
        return InnerOnly(40, readers=READERS, **({"width": 16, "depth": 2, "heads": 4} | options))

    trunk = make()
    for block, heads in zip(trunk.blocks, ([0, 2], [3, 1]), strict=True):
        rows = torch.cat([torch.arange(4) + 4 * head for head in heads])
        attention, feedforward = block.attention, block.feedforward
        for layer in (attention.q, attention.k, attention.v):
            layer.weight.data[rows] = 0
        attention.output.weight.data[:, rows] = 0
        hidden = torch.randperm(64)[:32]
        feedforward.enter.weight.data[hidden] = 0
        feedforward.output.weight.data[:, hidden] = 0
    model = LeptonModel(trunk, text_tasks()).eval()
    small = LeptonModel(make(heads=2, head_size=4, feedforward=32), text_tasks())
    inputs = {name: value for name, value in texts().items() if name != "characters"}

    pruned = prune(model, inputs, 1 - count(small) / count(model), spread="uniform")

    assert pruned.options == {"width": 16, "heads": 2, "head_size": 4, "feedforward": 32}
    found, expected = outputs_of(pruned.model, inputs), outputs_of(model, inputs)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_pruned_transformer_still_appends_one_token_at_a_time() -> None:
    trunk = TransformerTrunk(40, readers={"next": "causal"}, width=32, depth=2, heads=4)
    model = LeptonModel(trunk, [TokenClassification("next", classes=40)])
    tokens = torch.tensor([[2, 7, 8, 9, 11]])
    pruned: Any = prune(model, {"tokens": tokens}, 0.5).model.trunk.eval()
    with torch.no_grad():
        cache = pruned.start(tokens[:, :4])
        torch.testing.assert_close(pruned.step(tokens[:, 4], cache), pruned(tokens)[:, 4])


# -- importance -------------------------------------------------------------------------------------------------------
class Perceptron(nn.Module):
    """Two layers, of which the inner width may shrink."""

    def __init__(self, inner: int = 12) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, inner), nn.Linear(inner, 6)
        self.out_features = 6

    def forward(self, input: Tensor) -> Tensor:
        return self.leave(torch.tanh(self.enter(input)))  # type: ignore[no-any-return]

    def prunable(self) -> list[Width]:
        return [Width("inner", (self.enter,))]

    def sizes(self) -> dict[str, Any]:
        return {"inner": self.enter.out_features}


def kept_rows(pruned: Pruned, model: LeptonModel) -> list[int]:
    mine: Any = model.trunk
    theirs: Any = pruned.model.trunk
    return [
        next(n for n, old in enumerate(mine.enter.weight) if torch.equal(new, old))
        for new in theirs.enter.weight.detach()
    ]


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_the_least_important_go(importance: str) -> None:
    trunk = Perceptron()
    model = LeptonModel(trunk, two()).eval()
    rows = [torch.randn(5, 4) for _ in range(3)]
    batches = [(x, {"kind": torch.tensor([0, 1, 2, 0, 1]), "size": torch.randn(5)}) for x in rows]
    if importance == "magnitude":
        scores = trunk.enter.weight.square().sum(1) + trunk.leave.weight.square().sum(0)
    else:
        criterion = lepton.MultiTaskLoss(model)
        loss = torch.stack([criterion(model(x)[0], targets, model(x)[1]) for x, targets in batches]).sum()
        enter, leave = torch.autograd.grad(loss, [trunk.enter.weight, trunk.leave.weight])
        scores = (trunk.enter.weight * enter).abs().sum(1) + (trunk.leave.weight * leave).abs().sum(0)

    pruned = prune(model, rows[0], 0.3, importance=importance, batches=batches)

    expected = scores.argsort(descending=True)[: pruned.options["inner"]].sort().values
    assert kept_rows(pruned, model) == expected.tolist()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_importance_of_a_residual_width_is_the_mean_over_all_layers_on_it() -> None:
    trunk = TabularTrunk([[-1.0, 0, 1], [0, 1]], width=24, depth=2)
    with torch.no_grad():
        for norm in trunk.modules():
            if isinstance(norm, nn.LayerNorm):
                norm.weight.uniform_(0.5, 1.5)
    model = LeptonModel(trunk, two()).eval()
    mlp = trunk.mlp
    heads: list[Any] = list(model.heads.values())
    written = [mlp.enter.weight, *(block.linear.weight for block in mlp.blocks)]
    read = [*(block.linear.weight for block in mlp.blocks), *(head.weight for head in heads)]
    norms = [*(block.norm.weight for block in mlp.blocks), mlp.norm.weight]
    scores = (
        sum(weight.square().sum(1) for weight in written)
        + sum(weight.square().sum(0) for weight in read)
        + sum(weight.square() for weight in norms)
    )
    pruned = prune(model, {"numbers": torch.randn(3, 2)}, 0.5)
    kept = scores.argsort(descending=True)[: pruned.options["width"]].sort().values
    found: Any = pruned.model.trunk
    assert torch.equal(found.mlp.enter.weight, mlp.enter.weight[kept])
    assert torch.equal(found.mlp.blocks[1].linear.weight, mlp.blocks[1].linear.weight[kept][:, kept])
    assert torch.equal(found.mlp.norm.weight, mlp.norm.weight[kept])
    assert torch.equal(found.numbers.weight, trunk.numbers.weight)  # type: ignore[union-attr]


def test_a_global_threshold_takes_more_where_less_is_lost() -> None:
    trunk = ConvTrunk(width=16, stages=1, blocks=2)
    weak: Any = trunk.stages[1]
    weak.layers[0].weight.data[4:] *= 1e-3  # most of one block's inner channels do next to nothing
    weak.layers[1].weight.data[4:] *= 1e-3
    weak.layers[3].weight.data[:, 4:] *= 1e-3
    model = LeptonModel(trunk, two())
    small = LeptonModel(ConvTrunk(width=16, stages=1, blocks=2, inner=[16, 4]), two())
    pruned = prune(model, torch.rand(2, 3, 8, 8), 1 - count(small) / count(model), spread="global")
    assert pruned.options["inner"] == [16, 4] and pruned.options["widths"] == [16, 16]


# -- what is refused --------------------------------------------------------------------------------------------------
def test_what_cannot_be_pruned_is_refused_with_a_way_out() -> None:
    image = torch.rand(2, 3, 8, 8)
    model = LeptonModel(ConvTrunk(width=8, stages=1, blocks=1), two())
    for ratio in (0, 1, 1.5, "half", float("nan")):
        with pytest.raises(ConfigurationError, match=r"ratio must be in \(0, 1\)"):
            prune(model, image, ratio)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"at most 9.* % of this model's"):
        prune(model, image, 0.999)
    with pytest.raises(ConfigurationError, match=r"importance must be one of .*'magnitude'"):
        prune(model, image, 0.5, importance="magnitud")
    with pytest.raises(ConfigurationError, match="spread must be one of"):
        prune(model, image, 0.5, spread="everywhere")
    with pytest.raises(ConfigurationError, match="give batches="):
        prune(model, image, 0.5, importance="taylor")


def test_a_trunk_that_says_no_widths_is_refused() -> None:
    trunk = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    assert not isinstance(trunk, Prunable)
    with pytest.raises(ConfigurationError, match=r"Sequential does not say which of its widths.*lepton.nn.Prunable"):
        prune(LeptonModel(trunk, two()), torch.rand(2, 4), 0.5)
    shared = ConvTrunk(width=4, stages=1, blocks=1, norm="group")
    with pytest.raises(ConfigurationError, match="share the statistics of one normalisation"):
        prune(LeptonModel(shared, two()), torch.rand(2, 3, 8, 8), 0.5)


def test_adapters_are_refused() -> None:
    model = LeptonModel(TabularTrunk([[0, 1]], width=16), two())
    add_lora(model.trunk, "more", rank=2)
    with pytest.raises(ConfigurationError, match=r"has adapters.*merge_lora"):
        prune(model, {"numbers": torch.rand(2, 1)}, 0.5)


def test_inputs_that_leave_a_part_out_are_refused() -> None:
    trunk = TransformerTrunk(40, characters=20, readers={"tags": "full"}, width=16, depth=1)
    model = LeptonModel(trunk, [TokenClassification("tags", classes=3)])
    pruned = prune(model, {name: value for name, value in texts().items() if name != "target"}, 0.3)
    assert pruned.options["width"] < 16

    class Half(Perceptron):
        def forward(self, input: Tensor, more: Tensor | None = None) -> Tensor:
            return self.leave.bias.expand(len(input), -1) if more is None else super().forward(input)

    with pytest.raises(ConfigurationError, match="no output depends on the layer Linear"):
        prune(LeptonModel(Half(), two()), {"input": torch.rand(2, 4)}, 0.3)


def test_a_trunk_that_says_too_much_is_refused() -> None:
    class Wrong(Perceptron):
        """Its inner width is fixed from outside."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.rand(12))

        def forward(self, input: Tensor) -> Tensor:
            return self.leave(self.enter(input) * self.scale)  # type: ignore[no-any-return]

    with pytest.raises(ConfigurationError, match="cannot follow what depends on what in this Wrong"):
        prune(LeptonModel(Wrong(), two()), torch.rand(2, 4), 0.3)
