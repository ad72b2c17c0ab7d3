"""Tokens per second of a language model and a translation on one Transformer, against a loop by hand; beam search.

python benchmarks/transformer.py [--dropout 0.1] [--sentences 1000]

The other side is what people write with torch alone: `nn.TransformerEncoder` with a causal mask over texts that were
joined beforehand, the same two output layers, `F.cross_entropy`. Both see the same batches, of rows of like length.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timing import describe, measure
from torch import Tensor, nn

import lepton
from lepton.nn import TransformerTrunk, beam_search
from lepton.tasks import Classification

VOCABULARY, WIDTH, DEPTH, HEADS, HIDDEN, ROWS = 6000, 192, 4, 4, 768, 128


@dataclass(frozen=True)
class Batch:
    """Two texts [B, S] and [B, T] and their labels; `joint` is the first right before the second, as by hand."""

    tokens: Tensor
    target: Tensor
    next_labels: Tensor
    target_labels: Tensor
    joint: Tensor
    target_places: Tensor

    @property
    def size(self) -> int:
        """Number of tokens that are no padding."""
        return int((self.joint > 0).sum())


def lengths(rows: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Lengths in tokens like those of Multi30k: 14 in the mean, from 5 to 40, and alike in both languages."""
    english = torch.exp(2.56 + 0.31 * torch.randn(rows, generator=generator))
    german = english * torch.exp(-0.02 + 0.15 * torch.randn(rows, generator=generator))
    both = torch.stack([english, german], 1).round().long().clamp(5, 40)
    return sorted(map(tuple, both.tolist()))


def pad(rows: list[list[int]], value: int = 0) -> Tensor:
    return torch.tensor([row + [value] * (max(map(len, rows)) - len(row)) for row in rows])


def make_batch(sizes: list[tuple[int, int]], generator: torch.Generator) -> Batch:
    def words(count: int) -> list[int]:
        return torch.randint(5, VOCABULARY, (count,), generator=generator).tolist()

    first = [[2, *words(source - 2), 3] for source, _ in sizes]
    second = [[4, *words(target - 1)] for _, target in sizes]
    places = [[len(a) + place for place in range(len(b))] for a, b in zip(first, second, strict=True)]
    return Batch(
        pad(first),
        pad(second),
        pad([row[1:] + [-100] for row in first], -100),
        pad([row[1:] + [3] for row in second], -100),
        pad([a + b for a, b in zip(first, second, strict=True)]),
        pad(places),
    )


def make_batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    sizes = lengths(100 * ROWS, generator)
    starts = torch.linspace(0, 99 * ROWS, count).long().tolist()
    return [make_batch(sizes[start : start + ROWS], generator) for start in starts]


class ByHand(nn.Module):
    """What torch offers, with learned positions."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(128, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, DEPTH, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, VOCABULARY) for _ in range(2))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        length = batch.joint.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.words(batch.joint) + self.positions.weight[:length]
        states = self.encoder(x, mask=mask, is_causal=True)
        second = states.gather(1, batch.target_places[..., None].expand(-1, -1, WIDTH))
        return self.heads[0](states[:, : batch.tokens.shape[1]]), self.heads[1](second)


def by_hand(dropout: float, batches: itertools.cycle[Batch]) -> object:
    model = ByHand(dropout)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

    def step() -> None:
        batch = next(batches)
        outputs = model(batch)
        labels = batch.next_labels, batch.target_labels
        loss = sum(F.cross_entropy(o.flatten(0, 1), y.flatten()) for o, y in zip(outputs, labels, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def make_model(dropout: float) -> lepton.LeptonModel:
    readers = {"english": "causal", "german": "target"}
    trunk = TransformerTrunk(
        VOCABULARY, readers=readers, width=WIDTH, depth=DEPTH, heads=HEADS, feedforward=HIDDEN, dropout=dropout
    )
    return lepton.LeptonModel(trunk, [Classification(name, VOCABULARY) for name in readers])


def with_lepton(dropout: float, batches: itertools.cycle[Batch]) -> object:
    model = make_model(dropout)
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)

    def step() -> None:
        batch = next(batches)
        outputs, task_weights = model({"tokens": batch.tokens, "target": batch.target})
        loss = criterion(outputs, {"english": batch.next_labels, "german": batch.target_labels}, task_weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def training(dropout: float, rounds: int) -> None:
    batches = make_batches(rounds + 2)
    tokens = sum(batch.size for batch in batches) / len(batches)
    found = measure(
        {
            "by hand": by_hand(dropout, itertools.cycle(batches)),
            "lepton": with_lepton(dropout, itertools.cycle(batches)),
        },
        "by hand",
        rounds,
        slow=60,
    )
    print(f"\ntraining, dropout {dropout}\n\n| loop | ms per step | tokens per second | time over by hand |")
    print("|---|---|---|---|")
    for name, ratio in found.items():
        print(f"| {name} | {ratio.milliseconds:.0f} | {1e3 * tokens / ratio.milliseconds:.0f} | {ratio} |")
    print(f"\ntokens per second over those by hand: {1 / found['lepton'].value:.2f}")


def search(sentences: int, rows: int, beam: int, max_length: int) -> None:
    torch.manual_seed(0)
    model = make_model(0.1)
    generator = torch.Generator().manual_seed(0)
    sizes = lengths(sentences, generator)
    start = time.perf_counter()
    for place in range(0, sentences, rows):
        batch = make_batch(sizes[place : place + rows], generator)
        beam_search(model, "german", batch.tokens, beam=beam, max_length=max_length)
    wall = time.perf_counter() - start
    print(f"\nbeam search of {beam}, {sentences} sentences in batches of {rows}, {max_length} tokens: {wall:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dropout", type=float, nargs="*", default=[0.0, 0.1])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--max-length", type=int, default=25)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    for dropout in arguments.dropout:
        training(dropout, arguments.rounds)
    if arguments.sentences:
        search(arguments.sentences, arguments.rows, arguments.beam, arguments.max_length)


if __name__ == "__main__":
    main()
