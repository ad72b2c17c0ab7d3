"""TabularTrunk: encodings against naive ones, padding, unknown and missing values, compile, training."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.balance import UPGrad
from lepton.errors import ConfigurationError, DataError
from lepton.nn import TabularTrunk
from lepton.nn.trunks._columns import CategoryColumns, NumberColumns, TextColumns
from lepton.tasks import Classification, Regression
from tests.conftest import loss_of

KNOTS = [[-2.0, -0.5, 0.1, 3.0], [0.0, 1.0], [-1.0, 0.0, 1.0]]
CATEGORIES = [3, 10, 41, 200]


def rows(n: int = 32, length: int = 7, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    missing = torch.rand(n, len(KNOTS), generator=generator) < 0.2
    numbers = torch.randn(n, len(KNOTS), generator=generator) * 2
    columns = [torch.randint(0, count, (n,), generator=generator) for count in CATEGORIES]
    return {
        "numbers": numbers.masked_fill(missing, 0),
        "missing": missing,
        "categories": torch.stack(columns, 1),
        "text": torch.randint(0, 50, (n, 2, length), generator=generator),
    }


def make(**options: object) -> TabularTrunk:
    torch.manual_seed(0)
    defaults = {"texts": 2, "text_buckets": 50, "width": 24, "depth": 2, "embedding": 8}
    return TabularTrunk(KNOTS, CATEGORIES, **{**defaults, **options})  # type: ignore[arg-type]


# -- numbers ------------------------------------------------------------------------------------------------------
def naive_pieces(x: float, knots: list[float]) -> list[float]:
    return [min(max((x - a) / (b - a), 0.0), 1.0) for a, b in pairwise(knots)]


def test_all_number_columns_at_once_equal_one_at_a_time() -> None:
    torch.manual_seed(0)
    columns = NumberColumns(KNOTS, 5)
    data = rows()
    found = columns(data["numbers"], data["missing"]).unflatten(1, (len(KNOTS), 5))
    for f, knots in enumerate(KNOTS):
        for b in range(4):
            x = float(data["numbers"][b, f])
            pieces = naive_pieces(x, knots) if len(knots) > 2 else []
            padded = pieces + [0.0] * (3 - len(pieces))
            vector = torch.tensor([*padded, x, float(data["missing"][b, f])])
            torch.testing.assert_close(found[b, f], vector @ columns.weight[f])


def test_a_column_with_two_knots_is_linear_and_any_column_is_linear_outside_its_knots() -> None:
    columns = NumberColumns(KNOTS, 5)
    at = torch.tensor([[-9.0], [0.3], [0.9], [5.0]]).expand(4, len(KNOTS))
    found = columns(at, None).unflatten(1, (len(KNOTS), 5))
    slopes = found.diff(dim=0) / at.diff(dim=0)[..., None]
    torch.testing.assert_close(slopes[0, 1], slopes[1, 1])
    torch.testing.assert_close(slopes[0, 1], slopes[2, 1])
    outside = columns(torch.tensor([[4.0], [5.0], [7.0]]).expand(3, len(KNOTS)), None).unflatten(1, (len(KNOTS), 5))
    torch.testing.assert_close(outside[2] - outside[1], 2 * (outside[1] - outside[0]))


def test_a_missing_value_is_told_from_the_mean() -> None:
    trunk = make().eval()
    data = rows(2)
    data["numbers"][:] = 0
    data["missing"][0], data["missing"][1] = True, False
    for name in ("categories", "text"):
        data[name][1] = data[name][0]
    found = trunk(**data)
    assert not torch.allclose(found[0], found[1])
    torch.testing.assert_close(found, trunk(**{**data, "missing": data["missing"].float()}))


def test_knots_that_float32_cannot_tell_apart_give_finite_features() -> None:
    columns = NumberColumns([[0.0, 1.0, 1.0 + 1e-12, 2.0]], 4)
    assert torch.isfinite(columns(torch.tensor([[0.5], [1.0], [1.5]]), None)).all()


# -- categories ---------------------------------------------------------------------------------------------------
def test_one_table_equals_one_embedding_per_column() -> None:
    torch.manual_seed(0)
    columns = CategoryColumns(CATEGORIES, 16, unknown_rate=0.5).eval()
    own = [nn.Embedding.from_pretrained(part) for part in columns.table.split(CATEGORIES)]
    indices = rows()["categories"]
    expected = torch.cat([embedding(indices[:, g]) for g, embedding in enumerate(own)], 1)
    torch.testing.assert_close(columns(indices), expected, rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [-1, 3, 10**9])
def test_a_category_that_the_column_does_not_have_is_unknown(wrong: int) -> None:
    trunk = make().eval()
    data = rows()
    unknown = {**data, "categories": data["categories"].clone()}
    unknown["categories"][:, 0] = 0
    outside = {**data, "categories": data["categories"].clone()}
    outside["categories"][:, 0] = wrong
    assert torch.equal(trunk(**outside), trunk(**unknown))


def test_training_meets_the_unknown_category_at_the_given_rate() -> None:
    columns = CategoryColumns([2], 4, unknown_rate=0.25)
    with torch.no_grad():
        columns.table[0], columns.table[1] = 0.0, 1.0
    torch.manual_seed(0)
    seen = columns(torch.ones(20_000, 1, dtype=torch.int64)).detach().mean()
    assert abs(float(seen) - 0.75) < 0.02
    assert float(columns.eval()(torch.ones(100, 1, dtype=torch.int64)).detach().min()) == 1.0


# -- texts --------------------------------------------------------------------------------------------------------
def test_text_is_the_mean_over_ids_that_are_no_padding() -> None:
    torch.manual_seed(0)
    columns = TextColumns(2, 50, 6)
    text = rows()["text"]
    found = columns(text).unflatten(1, (2, 6))
    for h in range(2):
        own = columns.table[h * 50 : (h + 1) * 50]
        for b in range(6):
            ids = text[b, h][text[b, h] > 0]
            torch.testing.assert_close(found[b, h], own[ids].mean(0))


@pytest.mark.parametrize("length", [0, 3])
def test_a_text_of_padding_alone_is_zero(length: int) -> None:
    assert not TextColumns(2, 50, 6)(torch.zeros(4, 2, length, dtype=torch.int64)).any()


def test_padding_changes_neither_features_nor_gradients() -> None:
    found = []
    for wide in (False, True):
        trunk = make().eval()
        data = rows()
        if wide:
            data["text"] = torch.nn.functional.pad(data["text"], (2, 9))
        features = trunk(**data)
        features.square().sum().backward()
        assert trunk.text is not None
        found.append((features.detach(), trunk.text.table.grad))
    torch.testing.assert_close(found[0], found[1])


# -- the whole ----------------------------------------------------------------------------------------------------
def test_only_the_columns_that_it_was_built_for_are_read() -> None:
    data = rows()
    trunk = TabularTrunk(KNOTS, width=8)
    assert trunk(numbers=data["numbers"]).shape == (32, 8)
    assert TabularTrunk(categories=CATEGORIES, width=8)(categories=data["categories"]).shape == (32, 8)
    assert TabularTrunk(texts=2, text_buckets=50, width=8)(text=data["text"]).shape == (32, 8)
    with pytest.raises(DataError, match=r"numbers must be \[B, 3\].* not given"):
        trunk(categories=data["categories"])
    with pytest.raises(DataError, match=r"missing must be \[B, 3\].*\[32, 2\]"):
        trunk(numbers=data["numbers"], missing=data["missing"][:, :2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"knots": [[0.0, 1.0], [1.0, 1.0]]}, "number column 1 must be"),
        ({"knots": [[0.0]]}, "number column 0"),
        ({"knots": [[0.0, float("inf")]]}, "finite"),
        ({"categories": [3, 0]}, "category column 1"),
        ({}, "no columns"),
        ({"texts": 1, "text_buckets": 1}, "text_buckets"),
        ({"texts": 1, "dropout": 1.0}, "dropout"),
        ({"texts": 1, "width": 0}, "width"),
        ({"texts": 1, "unknown_rate": 1.0}, "unknown_rate"),
    ],
)
def test_what_it_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TabularTrunk(**options)  # type: ignore[arg-type]


def test_the_features_are_normalised() -> None:
    found = make().eval()(**rows())
    torch.testing.assert_close(found.mean(1), torch.zeros(32), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(1, unbiased=False), torch.ones(32), atol=1e-2, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_forward_is_one_graph(training: bool) -> None:
    torch._dynamo.reset()
    trunk = make(dropout=0.0, unknown_rate=0.0 if training else 0.5).train(training)
    compiled = torch.compile(trunk, fullgraph=True, backend="aot_eager")
    data = rows()
    torch.testing.assert_close(compiled(**data), trunk(**data))


def test_it_trains_under_a_gradient_balancer() -> None:
    data = rows(128)
    kind = data["categories"][:, 1] % 3
    targets = {"kind": kind, "size": data["numbers"][:, 0].abs() + (kind == 0).float()}
    torch.manual_seed(0)
    trunk = make(dropout=0.0)
    model = lepton.LeptonModel(trunk, [Classification("kind", classes=3), Regression("size")], balancer=UPGrad())
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = loss_of(model, data, targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for parameter in trunk.parameters())
