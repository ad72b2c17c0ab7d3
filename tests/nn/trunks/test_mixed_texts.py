"""MixedTrunk over texts that are tokens: padding, empty texts, columns, gradients, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import lepton
from lepton.balance import UPGrad
from lepton.errors import ConfigurationError, DataError
from lepton.nn import ConvTrunk, MixedTrunk, TabularTrunk, TransformerTrunk
from lepton.tasks import Classification, Regression
from tests.conftest import loss_of

VOCABULARY, ROWS, LENGTH = 40, 10, 7


def text_trunk(**options: object) -> TransformerTrunk:
    told = {"readers": {"text": "pooled"}, "width": 16, "depth": 1, "heads": 2, "dropout": 0.0}
    return TransformerTrunk(VOCABULARY, **{**told, **options})  # type: ignore[arg-type]


def mixed(texts: int = 2, *, table: bool = True, image: bool = False) -> MixedTrunk:
    torch.manual_seed(0)
    columns = TabularTrunk([[-1.0, 0.0, 1.0]], width=12, depth=1, dropout=0.0) if table else None
    pictures = ConvTrunk(3, 8, 2, 1) if image else None
    trunk = MixedTrunk(columns, pictures, text_trunk(), texts=texts, width=20, depth=1, dropout=0.0)
    torch.nn.init.normal_(trunk.no_text)
    torch.nn.init.normal_(trunk.text_columns)
    return trunk


def texts(lengths: Tensor) -> Tensor:
    """Return [START a b c END] of these lengths [N, H], and nothing but padding for a length of 0."""
    ids = torch.randint(5, VOCABULARY, (*lengths.shape, LENGTH), generator=torch.Generator().manual_seed(1))
    places = torch.arange(LENGTH)
    ids[..., 0] = 2
    ids = torch.where(places == lengths[..., None] - 1, 3, ids)
    return ids * (places < lengths[..., None])


def rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, LENGTH + 1, (ROWS, 2), generator=generator)
    return {"numbers": torch.randn(ROWS, 1, generator=generator), "tokens": texts(lengths)}


def test_padding_does_not_matter() -> None:
    trunk, data = mixed().eval(), rows()
    wider = {**data, "tokens": F.pad(data["tokens"], (0, 5))}
    torch.testing.assert_close(trunk(**wider), trunk(**data))


def test_the_other_rows_do_not_matter() -> None:
    trunk, data = mixed().eval(), rows()
    alone = {name: tensor[3:4] for name, tensor in data.items()}
    torch.testing.assert_close(trunk(**alone), trunk(**data)[3:4])


def test_whole_numbers_of_any_size_are_read() -> None:
    trunk, data = mixed().eval(), rows()
    small = {**data, "tokens": data["tokens"].to(torch.int16)}
    assert torch.equal(trunk(**small), trunk(**data))


def test_an_empty_text_is_a_learned_vector_and_not_what_the_transformer_says_of_padding() -> None:
    trunk, data = mixed().eval(), rows()
    data["tokens"][:, 0] = 0
    before = trunk(**data)
    with torch.no_grad():
        trunk.no_text += 1.0
    assert not torch.allclose(trunk(**data), before)

    only = mixed(1, table=False).eval()
    nothing = torch.zeros(ROWS, 1, LENGTH, dtype=torch.int64)
    before = only(tokens=nothing)
    with torch.no_grad():
        for parameter in only.text.parameters():
            parameter.add_(1.0)
    assert torch.equal(only(tokens=nothing), before)


def test_an_empty_text_is_told_from_one_without_words() -> None:
    trunk = mixed(1, table=False).eval()
    tokens = texts(torch.tensor([[0], [2]]))
    empty, framed = trunk(tokens=tokens)
    assert not torch.allclose(empty, framed)


def test_every_column_has_its_own_place() -> None:
    trunk, data = mixed().eval(), rows()
    swapped = {**data, "tokens": data["tokens"].flip(1)}
    assert not torch.allclose(trunk(**data), trunk(**swapped))


def test_gradients_reach_everything_that_is_read() -> None:
    trunk, data = mixed(), rows()
    data["tokens"][0, 1] = 0
    trunk(**data).square().sum().backward()
    for name, parameter in trunk.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_a_missing_text_gives_the_transformer_no_gradient() -> None:
    trunk = mixed(1, table=False)
    trunk(tokens=torch.zeros(ROWS, 1, LENGTH, dtype=torch.int64)).square().sum().backward()
    assert trunk.no_text.grad is not None and trunk.no_text.grad.any()
    assert not any(p.grad.any() for p in trunk.text.parameters() if p.grad is not None)


@pytest.mark.parametrize(("table", "image"), [(False, False), (True, False), (False, True), (True, True)])
def test_with_and_without_the_other_parts(table: bool, image: bool) -> None:
    trunk, data = mixed(table=table, image=image).eval(), rows()
    inputs = {"tokens": data["tokens"]}
    if table:
        inputs["numbers"] = data["numbers"]
    if image:
        inputs["image"] = torch.zeros(ROWS, 1, 3, 16, 16, dtype=torch.uint8)
    assert trunk(**inputs).shape == (ROWS, 20)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (None, r"tokens must be whole numbers \[B, 2, L\].*not given"),
        (torch.zeros(4, 3, 5, dtype=torch.int64), r"\[4, 3, 5\]"),
        (torch.zeros(4, 5, dtype=torch.int64), r"\[4, 5\]"),
        (torch.zeros(4, 2, 5), "float32"),
        (torch.full((4, 2, 5), VOCABULARY), "another vocabulary"),
    ],
)
def test_wrong_tokens(tokens: Tensor | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        mixed()(numbers=torch.zeros(4, 1), tokens=tokens)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"readers": None}, "text.readers"), ({"readers": {"next": "causal"}}, "text.readers.*pooled")],
)
def test_a_text_trunk_that_gives_no_vector_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        MixedTrunk(None, None, text_trunk(**options))
    with pytest.raises(ConfigurationError, match="texts must be"):
        MixedTrunk(None, None, text_trunk(), texts=0)


def test_the_forward_pass_is_one_graph() -> None:
    torch._dynamo.reset()
    trunk, data = mixed().eval(), rows()
    data["tokens"][::3, 1] = 0
    compiled = torch.compile(trunk, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**data), trunk(**data))


def test_it_trains_under_a_gradient_balancer() -> None:
    """Which of two tokens comes first, which only their order tells, and how long the second text is."""
    trunk, data = mixed(), rows()
    first = torch.arange(ROWS) % 2
    data["tokens"][:, 0, 1:3] = torch.where(first[:, None] == 1, torch.tensor([10, 11]), torch.tensor([11, 10]))
    targets = {"first": first, "length": (data["tokens"][:, 1] != 0).sum(1).float()}
    model = lepton.LeptonModel(trunk, [Classification("first", classes=2), Regression("length")], balancer=UPGrad())
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(model, data, targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
