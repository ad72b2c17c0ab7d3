"""AcousticTrunk: padding, neighbours and loudness make no difference; what is read, masks, the compiler, bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from lepton.errors import ConfigurationError, DataError
from lepton.nn import AcousticTrunk
from tests.conftest import gradients

READERS = {"said": "frames", "speaker": "pooled"}
SAMPLES = [900, 2048, 1, 1473, 64, 65]
"""Lengths of the recordings: 15, 32, 1, 24, 1 and 2 mel frames of 64 samples."""


def batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    waveform = 0.1 * torch.randn(len(SAMPLES), max(SAMPLES), generator=generator)
    samples = torch.tensor(SAMPLES)
    return {"waveform": waveform * (torch.arange(max(SAMPLES)) < samples[:, None]), "samples": samples}


def alone(data: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One recording without any padding."""
    return {"waveform": data["waveform"][row : row + 1, : SAMPLES[row]], "samples": data["samples"][row : row + 1]}


def make(**options: object) -> AcousticTrunk:
    torch.manual_seed(0)
    defaults = {"readers": READERS, "mels": 20, "width": 16, "depth": 2, "heads": 2, "dropout": 0.0, "masks": 0}
    return AcousticTrunk(8000, **{**defaults, **options})  # type: ignore[arg-type]


def total(found: dict[str, Tensor]) -> Tensor:
    """A number that depends on every state, and in which no direction is like another."""
    return sum((states * torch.linspace(1, 2, states.shape[-1])).square().sum() for states in found.values())  # type: ignore[return-value]


# -- padding ------------------------------------------------------------------------------------------------------
def test_the_padding_and_the_other_recordings_make_no_difference() -> None:
    trunk, data = make(), batch()
    together = trunk(**data)
    for row, samples in enumerate(SAMPLES):
        expected = trunk(**alone(data, row))
        length = math.ceil(math.ceil(samples / 64) / 2)
        assert list(expected["said"].shape) == [1, length, 16]
        torch.testing.assert_close(together["said"][row, :length], expected["said"][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together["speaker"][row], expected["speaker"][0], rtol=0, atol=1e-5)
        assert not together["said"][row, length:].any()
        assert (together["said"][row, :length] != 0).any(-1).all()


def test_the_gradients_of_a_padded_batch_are_those_of_its_recordings() -> None:
    data = batch()
    together, single = make(), make()
    wider = data | {"waveform": F.pad(data["waveform"], (0, 700))}
    total(together(**wider)).backward()
    for row in range(len(SAMPLES)):
        total(single(**alone(data, row))).backward()
    torch.testing.assert_close(gradients(together), gradients(single), rtol=1e-4, atol=1e-4)


def test_what_stands_beyond_a_recording_is_not_read() -> None:
    trunk, data = make(), batch()
    dirty = data["waveform"].clone()
    dirty[0, SAMPLES[0] :] = 1.0
    for task, states in trunk(dirty, data["samples"]).items():
        assert torch.equal(states, trunk(**data)[task])


def test_frames_says_how_many_states_a_recording_has() -> None:
    trunk, data = make(), batch()
    assert trunk.frames(data["samples"]).tolist() == [8, 16, 1, 12, 1, 1]
    assert (trunk(**data)["said"] != 0).any(-1).sum(1).tolist() == [8, 16, 1, 12, 1, 1]


# -- loudness -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("gain", [0.25, 2.0, 7.3])
def test_a_louder_recording_gives_the_same_states(gain: float) -> None:
    trunk, data = make(), batch()
    rows = torch.tensor([0, 1, 3])
    waveform, samples = data["waveform"][rows], data["samples"][rows]
    for task, states in trunk(gain * waveform, samples).items():
        torch.testing.assert_close(states, trunk(waveform, samples)[task], rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [1, 63, 1000])
def test_silence_is_finite(samples: int) -> None:
    trunk = make(masks=2, dropout=0.1).train()
    found = trunk(torch.zeros(2, samples), torch.tensor([samples, 1]))
    total(found).backward()
    assert torch.isfinite(gradients(trunk)).all()
    assert all(torch.isfinite(states).all() for states in found.values())
    assert (found["said"][0] != 0).any(-1).all(), "silence is no padding"


# -- what is read -------------------------------------------------------------------------------------------------
def test_pooled_states_are_a_layer_of_mean_and_standard_deviation() -> None:
    trunk, data = make(), batch()
    found = trunk(**data)
    for row, length in enumerate(trunk.frames(data["samples"]).tolist()):
        states = found["said"][row, :length]
        deviation = (states.var(0, correction=0) + 1e-5).sqrt()
        expected = trunk.pool.output(torch.cat([states.mean(0), deviation]))
        torch.testing.assert_close(found["speaker"][row], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reader", ["frames", "pooled"])
def test_tasks_that_read_the_same_share_one_tensor(reader: str) -> None:
    task = next(task for task, other in READERS.items() if other == reader)
    found = make(readers={"a": reader, "b": reader})(**batch())
    assert isinstance(found, Tensor) and list(found.shape) == ([6, 16, 16] if reader == "frames" else [6, 16])
    if reader == "frames":
        torch.testing.assert_close(found, make()(**batch())[task])
        torch.testing.assert_close(make(readers=None)(**batch()), found)


def test_a_trunk_that_nothing_reads_pooled_has_no_layer_for_it() -> None:
    assert not any(name.startswith("pool") for name, _ in make(readers={"said": "frames"}).named_parameters())


# -- training -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("option", [{"masks": 2}, {"dropout": 0.5}])
def test_masks_and_dropout_act_in_training_only(option: dict[str, float]) -> None:
    trunk, data = make(**option), batch()
    torch.testing.assert_close(trunk.eval()(**data), make().eval()(**data))
    first, second = trunk.train()(**data), trunk(**data)
    assert not torch.allclose(first["said"][1], second["said"][1], atol=1e-3)
    assert ((first["said"] != 0).any(-1) == (second["said"] != 0).any(-1)).all()


# -- the module ---------------------------------------------------------------------------------------------------
def test_deep_copies_and_stored_states_give_the_same() -> None:
    trunk, data = make().eval(), batch()
    torch.manual_seed(1)
    loaded = AcousticTrunk(8000, readers=READERS, mels=20, width=16, depth=2, heads=2).eval()
    assert not torch.allclose(loaded(**data)["said"], trunk(**data)["said"], atol=1e-3)
    loaded.load_state_dict(trunk.state_dict())
    for other in (copy.deepcopy(trunk), loaded):
        for task, states in other(**data).items():
            assert torch.equal(states, trunk(**data)[task])


@pytest.mark.parametrize("samples", [torch.tensor([900, 2048], dtype=torch.int32), torch.tensor([2048, 2048])])
def test_lengths_may_be_of_either_integer_type(samples: Tensor) -> None:
    waveform = batch()["waveform"][:2]
    found, expected = make()(waveform, samples), make()(waveform, samples.long())
    torch.testing.assert_close(found, expected)


def test_half_and_mixed_precision_follow_float32() -> None:
    trunk, data = make(), batch()
    rows = torch.tensor([0, 1, 3])
    data = {name: tensor[rows] for name, tensor in data.items()}
    expected = trunk(**data)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = trunk(**data)
    half = copy.deepcopy(trunk).bfloat16()(**data)
    for task, states in expected.items():
        torch.testing.assert_close(mixed[task].float(), states, rtol=0, atol=0.15)
        torch.testing.assert_close(half[task].float(), states, rtol=0, atol=0.15)
    total({task: states.float() for task, states in mixed.items()}).backward()
    assert torch.isfinite(gradients(trunk)).all()


def test_the_compiled_trunk_gives_the_same_in_one_graph_whatever_the_length() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    trunk, eager, data = make(depth=1), make(depth=1), batch()
    compiled = torch.compile(trunk, fullgraph=True, dynamic=True, backend=counter)
    graphs = []
    for more in (0, 300, 1001):
        wider = data | {"waveform": F.pad(data["waveform"], (0, more))}
        found, expected = compiled(**wider), eager(**wider)
        for task, states in expected.items():
            torch.testing.assert_close(found[task], states, rtol=1e-5, atol=1e-5)
        total(found).backward()
        total(expected).backward()
        graphs.append(counter.frame_count)
    torch.testing.assert_close(gradients(trunk), gradients(eager), rtol=1e-4, atol=1e-4)
    assert graphs == graphs[:1] * 3


def test_nothing_is_read_from_the_device() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    trunk, data = make(dropout=0.1, masks=2).train(), batch()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = trunk(**{name: mode.from_tensor(tensor) for name, tensor in data.items()})
    assert list(found["said"].shape) == [6, 16, 16]


# -- bad input ----------------------------------------------------------------------------------------------------
GOOD = torch.zeros(2, 100)
LENGTHS = torch.tensor([100, 50])


@pytest.mark.parametrize(
    ("waveform", "samples", "said"),
    [
        (GOOD.to(torch.int16), LENGTHS, r"waveform must be floating point \[B, N\].*int16.*waveform.float\(\) / 32768"),
        (GOOD[0], LENGTHS, r"but it is \[100\] in torch.float32.*waveform\[None\]"),
        (GOOD[:, None].expand(2, 2, 100), LENGTHS, r"but it is \[2, 2, 100\].*waveform.mean\(1\)"),
        (GOOD.tolist(), LENGTHS, "but it is a list"),
        (GOOD.to(torch.complex64), LENGTHS, "torch.complex64"),
        (GOOD, LENGTHS.float(), r"samples must be lengths \[B\] in torch.int64, but it is \[2\] in torch.float32"),
        (GOOD, LENGTHS[:, None], r"samples must be lengths \[B\].*\[2, 1\]"),
        (GOOD, 100, "samples must be lengths.*a int"),
        (GOOD, LENGTHS[:1], r"waveform is \[2, 100\] and samples \[1\]"),
        (GOOD[:, :0], LENGTHS, r"waveform is \[2, 0\].*N >= 1"),
        (GOOD, LENGTHS + 1, r"samples holds 101, but a recording of a waveform \[2, 100\] has 1 to 100 samples"),
        (GOOD, LENGTHS - 50, "samples holds 0"),
    ],
)
def test_recordings_of_another_shape_or_dtype_are_refused(waveform: Tensor, samples: Tensor, said: str) -> None:
    with pytest.raises(DataError, match=said):
        make()(waveform, samples)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 0}, "width must be an integer >= 1, but it is 0"),
        ({"depth": 1.5}, "depth must be an integer >= 1, but it is 1.5"),
        ({"heads": 3}, "heads must be a number that divides width = 16"),
        ({"heads": 16}, "heads of even size"),
        ({"feedforward": 0}, "feedforward must be an integer >= 1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), but it is 1.0"),
        ({"masks": -1}, "masks must be an integer >= 0, but it is -1"),
        ({"readers": {}}, "readers must be task -> reader"),
        ({"readers": ["frames"]}, "readers must be task -> reader"),
        ({"readers": {"said": "frame"}}, "what task 'said' reads.*'frame'.*Did you mean 'frames'"),
        ({"mels": 0}, "mels"),
    ],
)
def test_options_that_are_not_allowed_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make(**options)
