"""TransformerTrunk: padding, neighbours and the future make no difference; the fork, the compiler, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lepton.nn import TransformerTrunk

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
