"""TransformerTrunk: padding, neighbours and the future make no difference; the fork, the compiler, bad input."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import lepton
from lepton.balance import MGDA, Balancer, Equal, UPGrad
from lepton.errors import ConfigurationError, DataError
from lepton.nn import TransformerTrunk
from lepton.nn.trunks._attention import Rotation
from lepton.nn.trunks._tokens import CharacterConvolution
from lepton.tasks import Classification
from tests.conftest import gradients, loss_of

VOCABULARY, CHARACTERS = 30, 12
READERS = {"next": "causal", "german": "target", "tags": "full", "kind": "pooled"}
PAIRS = [(5, 4), (9, 2), (2, 7), (7, 7)]
"""Lengths of the first and the second text of each row."""


def sequence(first: int, length: int, generator: torch.Generator) -> list[int]:
    return [first, *torch.randint(5, VOCABULARY, (length - 1,), generator=generator).tolist()]


def pad(rows: list[list[int]], width: int | None = None) -> Tensor:
    size = width or max(map(len, rows))
    return torch.tensor([row + [0] * (size - len(row)) for row in rows])


def batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = [[*sequence(2, first - 1, generator), 3] for first, _ in PAIRS]
    target = [sequence(4, second, generator) for _, second in PAIRS]
    spelled = torch.randint(1, CHARACTERS, (len(PAIRS), 9, 6), generator=generator)
    lengths = torch.randint(1, 7, (len(PAIRS), 9, 1), generator=generator)
    word = (pad(tokens) > 4)[..., None]
    return {"tokens": pad(tokens), "target": pad(target), "characters": spelled * (torch.arange(6) < lengths) * word}


def alone(data: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row without any padding."""
    first, second = PAIRS[row]
    spelled = data["characters"][row : row + 1, :first]
    longest = max(1, int((spelled > 0).sum(-1).max()))
    tokens, target = data["tokens"][row : row + 1, :first], data["target"][row : row + 1, :second]
    return {"tokens": tokens, "target": target, "characters": spelled[..., :longest]}


def make(**options: object) -> TransformerTrunk:
    torch.manual_seed(0)
    defaults = {"readers": READERS, "characters": CHARACTERS, "width": 16, "depth": 2, "heads": 2, "dropout": 0.0}
    return TransformerTrunk(VOCABULARY, **{**defaults, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("task", list(READERS))
def test_the_padding_and_the_other_rows_make_no_difference(task: str) -> None:
    trunk, data = make(), batch()
    together = trunk(**data)
    for row in range(len(PAIRS)):
        expected = trunk(**alone(data, row))[task][0]
        found = together[task][row]
        torch.testing.assert_close(found if task == "kind" else found[: len(expected)], expected, rtol=0, atol=1e-5)
        assert task == "kind" or not found[len(expected) :].any()


# -- what a state sees --------------------------------------------------------------------------------------------
def test_no_causal_state_sees_what_comes_after_it() -> None:
    trunk, data = make(), batch()
    before = trunk(**data)
    for place in range(1, 9):
        later = data | {"tokens": data["tokens"].clone()}
        later["tokens"][1, place] = 5 + (later["tokens"][1, place] + 1) % 20
        after = trunk(**later)
        torch.testing.assert_close(after["next"][1, :place], before["next"][1, :place], rtol=0, atol=1e-6)
        assert not torch.allclose(after["next"][1, place], before["next"][1, place], atol=1e-4)
        assert not torch.allclose(after["tags"][1, 0], before["tags"][1, 0], atol=1e-4)  # this one looks ahead
        assert not torch.allclose(after["german"][1, 0], before["german"][1, 0], atol=1e-4)


def test_the_first_text_does_not_see_the_second_and_the_second_not_its_own_future() -> None:
    trunk, data = make(), batch()
    before = trunk(**data)
    other = data | {"target": data["target"].clone()}
    other["target"][3, 4] = 5 + (other["target"][3, 4] + 1) % 20
    after = trunk(**other)
    for task in ("next", "tags", "kind"):
        torch.testing.assert_close(after[task], before[task], rtol=0, atol=1e-6)
    torch.testing.assert_close(after["german"][3, :4], before["german"][3, :4], rtol=0, atol=1e-6)
    assert not torch.allclose(after["german"][3, 4:], before["german"][3, 4:], atol=1e-4)


def test_the_second_text_stands_right_behind_the_first() -> None:
    """One row written by hand as one text gives the states of both."""
    data = batch()
    trunk = make(characters=0)
    found = trunk(data["tokens"], data["target"])
    single = make(characters=0, readers={"next": "causal"})
    for row, (first, second) in enumerate(PAIRS):
        joint = torch.cat([data["tokens"][row, :first], data["target"][row, :second]])
        states = single(joint[None])[0]
        torch.testing.assert_close(found["next"][row, :first], states[:first], rtol=0, atol=1e-5)
        torch.testing.assert_close(found["german"][row, :second], states[first:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("reader", ["causal", "target", "full", "pooled"])
def test_tasks_that_read_the_same_share_one_tensor_and_only_their_pass_is_run(reader: str) -> None:
    data, mixed = batch(), make()
    trunk = make(readers={"a": reader, "b": reader})
    passes = []
    trunk.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    found = trunk(**data)
    assert len(passes) == 1
    task = next(task for task, other in READERS.items() if other == reader)
    torch.testing.assert_close(found, mixed(**data)[task])


def test_without_readers_the_states_see_the_whole_text() -> None:
    data = batch()
    del data["target"]
    torch.testing.assert_close(make(readers=None)(**data), make()(**batch())["tags"])


def test_products_of_turned_features_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8)
    at = [(Rotation(torch.tensor([p]), 8)(q) * Rotation(torch.tensor([p + 3]), 8)(k)).sum() for p in (0, 5, 90)]
    torch.testing.assert_close(at[0], at[1])
    torch.testing.assert_close(at[0], at[2], rtol=1e-4, atol=1e-5)


# -- words --------------------------------------------------------------------------------------------------------
def test_word_dropout_hides_the_words_in_training_and_leaves_the_special_ids() -> None:
    data = batch()
    trunk = make(characters=0, word_dropout=1 - 1e-9, readers={"next": "causal"}).train()
    special = data["tokens"] <= 4
    hidden = torch.where(special, data["tokens"], 1)
    found = trunk(data["tokens"])
    torch.testing.assert_close(found, trunk(hidden))
    trunk.eval()
    torch.testing.assert_close(found, trunk(hidden))
    assert not torch.allclose(found, trunk(data["tokens"]))


def test_characters_tell_words_whose_ids_are_dropped() -> None:
    data = batch()
    trunk = make(word_dropout=1 - 1e-9, readers={"tags": "full"}).train()
    other = data["characters"].clone()
    other[1, 4, 0] = 1 + other[1, 4, 0] % (CHARACTERS - 1)
    before, after = (trunk(data["tokens"], characters=characters) for characters in (data["characters"], other))
    assert not torch.allclose(before[1, 4], after[1, 4])


def test_the_convolution_equals_one_word_at_a_time() -> None:
    layer = CharacterConvolution(CHARACTERS, 16)
    ids = torch.tensor([[[3, 4, 5, 0, 0], [7, 0, 0, 0, 0], [0, 0, 0, 0, 0]]])
    found = layer(ids)[0]
    for place, spelled in enumerate(([3, 4, 5], [7])):
        letters = F.pad(layer.table(torch.tensor(spelled)), (0, 0, 1, 1))
        windows = [F.relu(layer.filters(letters[i : i + 3].flatten())) for i in range(len(spelled))]
        torch.testing.assert_close(found[place], layer.output(torch.stack(windows).amax(0)))
    assert not found[2].any()


# -- the fork -----------------------------------------------------------------------------------------------------
def labels(data: dict[str, Tensor], seed: int = 1) -> dict[str, Tensor]:
    """-100 at the padding, and where nothing is asked: the last token, the special ones of the tags."""
    generator = torch.Generator().manual_seed(seed)

    def draw(ids: Tensor, count: int, asked: Tensor) -> Tensor:
        return torch.where(asked, torch.randint(0, count, ids.shape, generator=generator), -100)

    tokens, target = data["tokens"], data["target"]
    return {
        "next": draw(tokens, VOCABULARY, (tokens != 0) & (tokens != 3)),
        "german": draw(target, VOCABULARY, target != 0),
        "tags": draw(tokens, 5, tokens > 4),
        "kind": torch.randint(0, 3, tokens.shape[:1], generator=generator),
    }


def make_model(balancer: Balancer, **options: object) -> lepton.LeptonModel:
    trunk = make(**options)
    sizes = {"next": VOCABULARY, "german": VOCABULARY, "tags": 5, "kind": 3}
    tasks = [Classification(name, size) for name, size in sizes.items()]
    return lepton.LeptonModel(trunk, tasks, balancer=balancer, gradient_accumulation_steps=1)


def wider(data: dict[str, Tensor], targets: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same batch with more padding everywhere."""
    inputs = {
        "tokens": F.pad(data["tokens"], (0, 3)),
        "target": F.pad(data["target"], (0, 5)),
        "characters": F.pad(data["characters"], (0, 2, 0, 3)),
    }
    more = {"next": 3, "german": 5, "tags": 3}
    return inputs, targets | {name: F.pad(targets[name], (0, size), value=-100) for name, size in more.items()}


@pytest.mark.parametrize("make_balancer", [Equal, MGDA, UPGrad])
def test_padding_reaches_no_loss_no_gramian_and_no_norm(make_balancer: type[Balancer]) -> None:
    data = batch()
    found = []
    for inputs, targets in [(data, labels(data)), wider(data, labels(data))]:
        model = make_model(make_balancer())
        criterion = lepton.MultiTaskLoss(model)
        outputs, task_weights = model(inputs)
        criterion(outputs, targets, task_weights).backward()
        found.append((criterion.last_losses, model.fork.gramian, gradients(model).norm(), gradients(model)))
    for narrow, wide in zip(*found, strict=True):
        torch.testing.assert_close(narrow, wide, rtol=1e-4, atol=1e-6)


def test_rows_one_by_one_without_padding_give_what_the_padded_batch_gives() -> None:
    data, targets = batch(), labels(batch())
    together, single = make_model(Equal()), make_model(Equal())
    for model in (together, single):
        model.fork.max_task_grad_norm = 1e6  # so that the fork looks, and changes nothing
    loss_of(together, data, targets).backward()
    single.fork.gradient_accumulation_steps = len(PAIRS)
    criterion = lepton.MultiTaskLoss(single)
    losses = torch.zeros(())
    for row, (first, second) in enumerate(PAIRS):
        lengths = {"next": first, "german": second, "tags": first}
        mine = {
            name: t[row : row + 1] if name == "kind" else t[row : row + 1, : lengths[name]]
            for name, t in targets.items()
        }
        outputs, task_weights = single(alone(data, row))
        loss = criterion(outputs, mine, task_weights, label_counts=criterion.count(targets))
        loss.backward()
        losses = losses + loss.detach()
    torch.testing.assert_close(losses, loss_of(together, data, targets).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.fork.gramian, together.fork.gramian, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients(single), gradients(together), rtol=1e-4, atol=1e-6)


def test_a_text_without_any_token_is_zero_and_harmless() -> None:
    data = batch()
    data["tokens"][2], data["characters"][2] = 0, 0
    trunk = make()
    found = trunk(**data)
    assert not any(found[task][2].any() for task in ("next", "tags", "kind"))
    sum(states.square().sum() for states in found.values()).backward()
    assert torch.isfinite(gradients(trunk)).all()


# -- the module ---------------------------------------------------------------------------------------------------
def test_deep_copies_and_stored_states_give_the_same() -> None:
    trunk, data = make().eval(), batch()
    loaded = make(width=16)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.normal_()
    loaded.load_state_dict(trunk.state_dict())
    for other in (copy.deepcopy(trunk), loaded):
        for task, states in other(**data).items():
            assert torch.equal(states, trunk(**data)[task])


def test_the_scale_of_the_states_does_not_grow_with_the_depth() -> None:
    """Before the last norm: each branch adds a variance of about 1 / (2 depth)."""
    scales = []
    for depth in (2, 12):
        trunk = make(depth=depth, width=64, characters=0, readers={"next": "causal"})
        seen: list[Tensor] = []
        trunk.norm.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].detach()))
        trunk(batch()["tokens"])
        scales.append(float(seen[0].std()))
    assert scales[1] < 1.5 * scales[0]


def test_mixed_precision_follows_float32() -> None:
    trunk, data = make(), batch()
    expected = trunk(**data)
    with torch.autocast("cpu", torch.bfloat16):
        found = trunk(**data)
    for task, states in found.items():
        torch.testing.assert_close(states.float(), expected[task], rtol=0, atol=0.1)
    sum(states.float().sum() for states in found.values()).backward()
    assert torch.isfinite(gradients(trunk)).all()


def compare(compiled: nn.Module, trunk: nn.Module, eager: nn.Module, inputs: dict[str, Tensor]) -> None:
    found, expected = compiled(**inputs), eager(**inputs)
    for task, states in expected.items():
        torch.testing.assert_close(found[task], states, rtol=1e-5, atol=1e-5)
    sum(states.square().sum() for states in found.values()).backward()
    sum(states.square().sum() for states in expected.values()).backward()
    torch.testing.assert_close(gradients(trunk), gradients(eager), rtol=1e-4, atol=1e-4)


def test_the_compiled_trunk_gives_the_same_in_one_graph() -> None:
    torch._dynamo.reset()
    trunk, eager = make(depth=1), make(depth=1)
    compare(torch.compile(trunk, fullgraph=True, dynamic=False, backend="aot_eager"), trunk, eager, batch())


def test_batches_of_other_lengths_need_no_other_graph() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    options = {"depth": 1, "characters": 0, "readers": {"next": "causal", "german": "target"}}
    trunk, eager = make(**options), make(**options)
    compiled = torch.compile(trunk, fullgraph=True, dynamic=True, backend=counter)
    data = {"tokens": batch()["tokens"], "target": batch()["target"]}
    compare(compiled, trunk, eager, data)
    graphs = counter.frame_count
    compare(compiled, trunk, eager, {name: F.pad(tensor, (0, 4)) for name, tensor in data.items()})
    assert counter.frame_count == graphs


def test_nothing_is_read_from_the_device() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    trunk, data = make(dropout=0.1, word_dropout=0.1).train(), batch()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = trunk(**{name: mode.from_tensor(tensor) for name, tensor in data.items()})
    assert list(found["german"].shape) == [4, 7, 16]


# -- one token at a time ------------------------------------------------------------------------------------------
def test_states_found_with_the_cache_equal_those_of_the_whole_row() -> None:
    trunk, data = make(characters=0).eval(), batch()
    expected = trunk(data["tokens"], data["target"])["german"]
    cache = trunk.start(data["tokens"])
    for place in range(data["target"].shape[1]):
        found = trunk.step(data["target"][:, place], cache)
        there = data["target"][:, place] != 0
        torch.testing.assert_close(found[there], expected[there, place], rtol=0, atol=1e-5)
    assert cache.lengths.tolist() == [first + 7 for first, _ in PAIRS]


def test_rows_of_the_cache_can_be_repeated_reordered_and_dropped() -> None:
    trunk, data = make(characters=0).eval(), batch()
    rows = torch.tensor([2, 0, 0, 3, 2])
    cache = trunk.start(data["tokens"])
    trunk.step(data["target"][:, 0], cache)
    cache.select(rows)
    assert len(cache) == 5
    ids = torch.tensor([5, 6, 7, 8, 9])
    cache.select(torch.tensor([1, 4, 3]))
    found = trunk.step(ids[[1, 4, 3]], cache)
    for place, (row, id_) in enumerate([(0, 6), (2, 9), (3, 8)]):
        target = torch.tensor([[int(data["target"][row, 0]), id_]])
        expected = trunk(data["tokens"][row : row + 1, : PAIRS[row][0]], target)["german"][0, -1]
        torch.testing.assert_close(found[place], expected, rtol=0, atol=1e-5)


# -- bad input ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 4}, "vocabulary must be an integer >= 5"),
        ({"characters": 1}, "characters must be 0, or an integer >= 2"),
        ({"width": 0}, "width must be an integer >= 1"),
        ({"depth": 0}, "depth must be an integer >= 1"),
        ({"heads": 3}, "heads must be a number that divides width = 16 into heads of even size"),
        ({"heads": 16}, "heads must be a number that divides width = 16 into heads of even size"),
        ({"feedforward": 0}, "feedforward must be an integer >= 1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"word_dropout": -0.1}, r"word_dropout must be in \[0, 1\)"),
        ({"dropout": "much"}, r"dropout must be in \[0, 1\)"),
        ({"readers": {"a": "casual"}}, "task 'a' reads must be one of .* but it is 'casual'. Did you mean 'causal'"),
        ({"readers": {}}, "readers must be"),
        ({"readers": ["a"]}, "readers must be"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TransformerTrunk(**{"vocabulary": 30, "width": 16, "heads": 2, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.full((4, 9), 30)}, "tokens holds the id 30, but the trunk was built for the ids 0 to 29"),
        ({"target": torch.full((4, 3), -1)}, "target holds the id -1"),
        ({"characters": torch.full((4, 9, 2), 12)}, "characters holds the id 12"),
        (
            {"tokens": torch.ones(4, 9)},
            r"in torch.int64, but it is \[4, 9\] in torch.float",
        ),
        ({"tokens": torch.ones(9, dtype=torch.int64)}, r"tokens must be ids \[B, S\]"),
        ({"tokens": [[2, 3]]}, "but it is a list"),
        ({"target": None}, r"target is not given, but \['german'\] read"),
        (
            {"target": torch.ones(3, 2, dtype=torch.int64)},
            r"target is \[3, 2\], where .* begin with \[4\]",
        ),
        ({"characters": None}, "characters is not given"),
        ({"characters": torch.ones(4, 8, 3, dtype=torch.int64)}, r"characters is \[4, 8, 3\]"),
    ],
)
def test_inputs_that_do_not_fit(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()(**(batch() | change))


def test_heads_and_hidden_sizes_need_not_follow_the_width() -> None:
    trunk = TransformerTrunk(VOCABULARY, width=10, depth=2, heads=3, head_size=4, feedforward=[5, 7])
    assert trunk(torch.tensor([[2, 7, 3]])).shape == (1, 3, 10)
    assert trunk.sizes() == {"width": 10, "heads": 3, "head_size": 4, "feedforward": [5, 7]}
    with pytest.raises(ConfigurationError, match="head_size must be an even number"):
        TransformerTrunk(VOCABULARY, width=10, heads=3, head_size=3)
    with pytest.raises(ConfigurationError, match="feedforward must be an integer >= 1, or 2 of them"):
        TransformerTrunk(VOCABULARY, width=8, depth=2, heads=2, feedforward=[5])
