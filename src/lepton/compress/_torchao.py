"""Torch models in eight bits, compiled, and trained for it; and in bfloat16."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lepton.compress._cost import Inputs
from lepton.errors import ConfigurationError, import_extra
from lepton.nn import LeptonModel

__all__ = ["Inference", "quantisation_aware", "quantise_torch", "to_bf16"]

IN_BF16 = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)
"""Modules whose weights are kept in bfloat16: their products bear it. Knots of numbers and norms do not."""


class Inference(nn.Module):
    """A model that predicts only: no gradients, in eval mode.

    Args:
        model: what holds the weights.
        run: what is called in its place; it may be the model compiled.

    Attributes:
        model: the same.
    """

    def __init__(self, model: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self._run = (run,)  # not as a module: the compiled one is the same again

    @torch.inference_mode()
    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return what the model returns."""
        return self._run[0](*inputs, **named)


def quantise_torch(model: nn.Module, inputs: Inputs, *, compiled: bool = True) -> Inference:
    """Return a copy of a model whose linear layers are computed in eight bits by torchao, compiled.

    Weights have a scale for each output, inputs one for each row, found at every call (dynamic quantisation). The copy
    is compiled here, for one row and for any number of them, with `freezing`, which makes constants of the weights; it
    takes some ten seconds. Beside the original, an MLP on UCI Adult, one thread, it was measured to be 2.3 times faster
    at one row, 1.7 at 32 and 2.1 at 256, where the float32 model compiled is 1.7, 1.3 and 1.1 times faster.

    Linear heads of a `LeptonModel` stay in floating point: their weights are joined into one product. So do
    convolutions, embeddings, and layers that torch does not call, as those inside attention of its own.

    Args:
        model: a trained model with linear layers; of a `LeptonModel` the copy gives the outputs alone.
        inputs: a batch of two rows or more, to compile with. A batch of another kind is compiled anew when it comes,
            without freezing.
        compiled: must be True: without the compiler the same layers were measured to be five times *slower* than
            float32 at one row, and slower at 256.

    Raises:
        ConfigurationError: `compiled` is False, or the model has no such layers.
        MissingExtraError: torchao is not installed.

    Example:
        >>> import torch
        >>> from lepton.compress import bytes_of, quantise_torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8))
        >>> small = quantise_torch(model, torch.randn(4, 64))
        >>> bytes_of(model) / bytes_of(small) > 3
        True
    """
    ao = import_extra("torchao.quantization", "compress", "a torch model in eight bits")
    if not compiled:
        raise ConfigurationError(
            "quantise_torch: compiled must be True. Without the compiler, layers in eight bits are slower than float32 "
            "(5 times at one row, measured): take quantise_onnx on an exported model, or leave the model as it is."
        )
    found = copy.deepcopy(model).eval().requires_grad_(False)
    ao.quantize_(found, ao.Int8DynamicActivationInt8WeightConfig(), filter_fn=_chosen(found, "quantise_torch"))
    made = Inference(found, torch.compile(_predictor(found), dynamic=True))
    from torch._inductor import config

    # As an option of the compiler, freezing is ignored where the graph is traced; set at every call it costs 0.04 ms.
    with config.patch(freezing=True):
        made(_rows(inputs, None))
        made(_rows(inputs, 1))
    return made


def _rows(inputs: Inputs, number: int | None) -> Inputs:
    """Return the first rows as tensors of their own: after a view, a compiled graph takes views only."""
    if isinstance(inputs, Tensor):
        return inputs[:number].clone()
    return {name: tensor[:number].clone() for name, tensor in inputs.items()}


class _Outputs(nn.Module):
    """The outputs of a `LeptonModel` without the weights of the tasks, which are a training's."""

    def __init__(self, model: LeptonModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        return self.model.predict_from(self.model.features(inputs), inputs)


def _predictor(model: nn.Module) -> nn.Module:
    return _Outputs(model) if isinstance(model, LeptonModel) else model


@contextmanager
def quantisation_aware(model: nn.Module) -> Iterator[None]:
    """Let a model be trained as if it were in eight bits, so that it learns to bear it: quantisation-aware training.

    Inside, linear layers round their weights (a scale for each output) and inputs (one for each row) to 255 and 256
    steps as `quantise_torch` and `quantise_onnx` will, and gradients pass as if they did not (Jacob et al., 2018,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"). Afterwards the
    layers are plain ones again, in floating point, with weights that were trained for it: export and quantise them.
    A step takes longer; it is worth it only where quantising a trained model costs more than can be borne.

    Args:
        model: a trained model; its parameters stay the same objects, so an optimiser keeps them.

    Raises:
        ConfigurationError: the model has no linear layers beside linear heads.
        MissingExtraError: torchao is not installed.

    Example:
        >>> import torch
        >>> from lepton.compress import quantisation_aware
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> with quantisation_aware(model):  # here a Trainer(model, ...).fit(...)
        ...     model(torch.ones(2, 4)).sum().backward()
        ...     optimiser.step()
        >>> type(model[0]).__name__
        'Linear'
    """
    ao = import_extra("torchao.quantization", "compress", "quantisation-aware training")
    qat = import_extra("torchao.quantization.qat", "compress", "quantisation-aware training")
    chosen = _chosen(model, "quantisation_aware")
    weight = qat.IntxFakeQuantizeConfig(torch.int8, granularity="per_channel", is_symmetric=True)
    activation = qat.IntxFakeQuantizeConfig(torch.int8, granularity="per_token", is_symmetric=False)
    prepare = qat.QATConfig(activation_config=activation, weight_config=weight, step="prepare")
    ao.quantize_(model, prepare, filter_fn=chosen)
    try:
        yield
    finally:
        fake = qat.FakeQuantizedLinear
        ao.quantize_(model, qat.QATConfig(step="convert"), filter_fn=lambda module, name: isinstance(module, fake))


def _chosen(model: nn.Module, who: str) -> Callable[[nn.Module, str], bool]:
    """Return what says of a module and its name whether it is a linear layer that is called as it is."""
    heads = {id(head) for head in getattr(model, "heads", {}).values()}

    def is_chosen(module: nn.Module, name: str) -> bool:
        return type(module) is nn.Linear and id(module) not in heads

    if not any(is_chosen(module, name) for name, module in model.named_modules()):
        raise ConfigurationError(f"{who}: {type(model).__name__} has no linear layers that could be in eight bits.")
    return is_chosen


def to_bf16(model: nn.Module) -> Inference:
    """Return a copy of a model for predictions whose products are computed in bfloat16, under autocast.

    Weights of linear layers, convolutions and embeddings are kept in bfloat16, half the bytes; everything else stays
    in float32, such as the knots of numbers, which three digits do not tell apart. Outputs of a last linear layer are
    bfloat16 too. On a CPU it is a matter of the batch: an MLP on UCI Adult, one thread, was 0.6 times as fast as
    float32 at one row, and 1.3 times at 256.

    Args:
        model: a trained model; of a `LeptonModel` the copy gives the outputs alone.

    Example:
        >>> import torch
        >>> from lepton.compress import bytes_of, to_bf16
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False), torch.nn.LayerNorm(64))
        >>> bytes_of(model), bytes_of(to_bf16(model))
        (16896, 8704)
    """
    found = copy.deepcopy(model).eval().requires_grad_(False)
    for module in found.modules():
        if isinstance(module, IN_BF16):
            module.bfloat16()
    predictor = _predictor(found)
    device = next((parameter.device.type for parameter in found.parameters()), "cpu")

    def run(*inputs: Any, **named: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return predictor(*inputs, **named)

    return Inference(found, run)
