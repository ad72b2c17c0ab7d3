"""The second text, found token by token: greedily, or by a beam."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lepton.errors import ConfigurationError, is_number, is_whole, require
from lepton.nn._ids import END, PAD, START, TARGET
from lepton.nn._model import LeptonModel
from lepton.nn.trunks import Cache, TransformerTrunk

__all__ = ["beam_search", "greedy_search"]

LONGEST = 512
"""Bound on the tokens of a result where no `max_length` is given."""


def greedy_search(model: LeptonModel, task: str, tokens: Tensor, *, max_length: int | None = None) -> list[list[int]]:
    """Return for each row the tokens that are the most probable ones, each after those before it.

    Args:
        model: a model on a `TransformerTrunk`. It computes in evaluation mode and is left in the mode that it had.
        task: the task whose head gives the second text's next token; it reads `"target"`.
        tokens: int64 [B, S], the first texts `[START a b c END]`, padded on the right with 0.
        max_length: tokens of a result at most; by default 2 S + 10 with the row's own length S, at most 512.

    Returns:
        The ids of each row, without TARGET and END.

    Raises:
        ConfigurationError: a model, a task or a length that cannot be searched.
        DataError: tokens of another shape, or with an id that there is not.

    Example:
        >>> import torch, lepton
        >>> from lepton.nn import TransformerTrunk, greedy_search
        >>> from lepton.tasks import Classification
        >>> _ = torch.manual_seed(0)
        >>> trunk = TransformerTrunk(20, readers={"german": "target"}, width=16, depth=1, heads=2)
        >>> model = lepton.LeptonModel(trunk, [Classification("german", classes=20)])
        >>> found = greedy_search(model, "german", torch.tensor([[2, 7, 8, 3]]), max_length=4)
        >>> len(found), len(found[0]) <= 4
        (1, True)
    """
    with _decoding(model, task) as decoder:
        log_p, cache = decoder.start(tokens)
        limits = _limits("greedy_search", tokens, max_length)
        results: list[list[int]] = [[] for _ in range(len(tokens))]
        rows = torch.arange(len(tokens), device=tokens.device)
        length = 0
        while len(rows):
            ids = log_p.argmax(-1)
            length += 1
            for row, id_ in zip(rows.tolist(), ids.tolist(), strict=True):
                results[row] += [] if id_ == END else [id_]
            going = ((ids != END) & (length < limits[rows])).nonzero()[:, 0]
            rows = rows[going]
            cache.select(going)
            if len(rows):
                log_p = decoder.step(ids[going], cache)
        return results


def beam_search(
    model: LeptonModel,
    task: str,
    tokens: Tensor,
    *,
    beam: int = 5,
    length_penalty: float = 1.0,
    max_length: int | None = None,
) -> list[list[int]]:
    """Return for each row the best result that a beam of unfinished results finds.

    A result y_1 .. y_n, its END included, has the score

        log P(y_1 .. y_n | first text) / n^length_penalty,

    with `length_penalty` 1 the mean log-probability of its tokens, with 0 their sum. In every step each of the `beam`
    unfinished results is continued by every token; what ends among the best `beam` of all is kept beside the finished
    ones, of which the best `beam` stay, and the best `beam` of what goes on are the next beam. A row is done when it
    has `beam` finished results and none of the unfinished ones has, at the length that it has, a better score than
    they. What reaches the longest length is finished as it is. With a beam of 1 that is the greedy search.

    Args:
        model: as in `greedy_search`.
        task: as in `greedy_search`.
        tokens: as in `greedy_search`.
        beam: number of unfinished results of each row.
        length_penalty: exponent of the length; larger favours longer results; >= 0.
        max_length: as in `greedy_search`.

    Returns:
        The ids of each row, without TARGET and END.

    Raises:
        ConfigurationError: as in `greedy_search`, or a beam or an exponent that is not allowed.
        DataError: as in `greedy_search`.

    Example:
        >>> import torch, lepton
        >>> from lepton.nn import TransformerTrunk, beam_search, greedy_search
        >>> from lepton.tasks import Classification
        >>> _ = torch.manual_seed(0)
        >>> trunk = TransformerTrunk(20, readers={"german": "target"}, width=16, depth=1, heads=2)
        >>> model = lepton.LeptonModel(trunk, [Classification("german", classes=20)])
        >>> tokens = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
        >>> beam_search(model, "german", tokens, beam=1) == greedy_search(model, "german", tokens)
        True
    """
    require(is_whole(beam), "beam_search", "beam", beam, "an integer >= 1")
    allowed = is_number(length_penalty) and length_penalty >= 0
    require(allowed, "beam_search", "length_penalty", length_penalty, "a number >= 0")
    with _decoding(model, task) as decoder:
        log_p, cache = decoder.start(tokens)
        limits = _limits("beam_search", tokens, max_length)
        beams = _Beams.first(log_p, limits, beam, length_penalty)
        results: list[list[int]] = [[] for _ in range(len(tokens))]
        while len(beams.rows):
            parents = beams.extend(log_p)
            parents = parents[beams.take_done(results)]
            if len(beams.rows):
                cache.select(parents.flatten())
                log_p = decoder.step(beams.tokens[:, :, -1].flatten(), cache)
        return results


# -- the beam -----------------------------------------------------------------------------------------------------
@dataclass
class _Beams:
    """Unfinished and finished results of the rows that are still searched. R rows, K of each, t tokens so far.

    Attributes:
        beam: K.
        length_penalty: exponent of the length.
        rows: [R] the rows' places in what is returned.
        limits: [R] tokens at most.
        tokens: [R, k, t] unfinished results; k is 1 at the beginning, then K.
        scores: [R, k] their log-probabilities.
        finished: [R, K, t] finished results, best first, END behind their ends.
        finished_scores: [R, K] log-probabilities over length^length_penalty; -inf where there is none yet.
    """

    beam: int
    length_penalty: float
    rows: Tensor
    limits: Tensor
    tokens: Tensor
    scores: Tensor
    finished: Tensor
    finished_scores: Tensor

    @classmethod
    def first(cls, log_p: Tensor, limits: Tensor, beam: int, length_penalty: float) -> _Beams:
        """Return for each row one unfinished result without any token."""
        count = len(log_p)
        nothing = limits.new_zeros(count, beam, 0)
        scores = log_p.new_zeros(count, 1)
        none = log_p.new_full((count, beam), -torch.inf)
        rows = torch.arange(count, device=log_p.device)
        return cls(beam, length_penalty, rows, limits, nothing[:, :1], scores, nothing, none)

    def extend(self, log_p: Tensor) -> Tensor:
        """Continue all results by one token, and return for each of the new ones whose continuation it is, [R, K].

        Args:
            log_p: [R * k, V] log-probabilities of the next token.
        """
        count, alive, length = self.tokens.shape
        vocabulary = log_p.shape[1]
        totals = (self.scores.view(-1, 1) + log_p).view(count, alive * vocabulary)
        values, places = totals.topk(min(2 * self.beam, alive * vocabulary))
        parents, ids = places // vocabulary, places % vocabulary
        grown = torch.cat([_pick(self.tokens, parents), ids[..., None]], -1)
        ends = (ids == END) | (self.limits == length + 1)[:, None]
        scores = (values / (length + 1) ** self.length_penalty).masked_fill(~ends, -torch.inf)
        self._finish(grown[:, : self.beam], scores[:, : self.beam])
        self.scores, chosen = values.masked_fill(ends, -torch.inf).topk(min(self.beam, values.shape[1]))
        self.tokens = _pick(grown, chosen)
        return parents.gather(1, chosen) + alive * torch.arange(count, device=parents.device)[:, None]

    def _finish(self, grown: Tensor, scores: Tensor) -> None:
        """Take what ended among the finished results, and keep the best."""
        ended = F.pad(self.finished, (0, 1), value=END)
        self.finished_scores, best = torch.cat([self.finished_scores, scores], 1).topk(self.beam)
        self.finished = _pick(torch.cat([ended, grown], 1), best)

    def take_done(self, results: list[list[int]]) -> Tensor:
        """Write the best results of the rows that are done, drop these rows, and return which ones go on, [R] bool."""
        best_alive = self.scores[:, 0] / self.tokens.shape[-1] ** self.length_penalty
        going: Tensor = best_alive > self.finished_scores[:, -1]
        done = self.finished[:, 0][~going]
        for row, ids in zip(self.rows[~going].tolist(), done.tolist(), strict=True):
            results[row] = ids[: ids.index(END)] if END in ids else ids
        for name in ("rows", "limits", "tokens", "scores", "finished", "finished_scores"):
            setattr(self, name, getattr(self, name)[going])
        return going


def _pick(results: Tensor, which: Tensor) -> Tensor:
    """Return results [R, k', t] of [R, k, t] by numbers [R, k']."""
    return results.gather(1, which[..., None].expand(-1, -1, results.shape[-1]))


# -- the model ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Decoder:
    """What a search asks of a model: the log-probabilities [rows, V] of the next token."""

    model: LeptonModel
    trunk: TransformerTrunk
    task: str

    def start(self, tokens: Tensor) -> tuple[Tensor, Cache]:
        """Read the first texts and TARGET."""
        cache = self.trunk.start(tokens)
        log_p = self.step(torch.full_like(tokens[:, 0], TARGET), cache)
        if log_p.shape[1] > self.trunk.vocabulary:
            raise ConfigurationError(
                f"the head of {self.task!r} has {log_p.shape[1]} outputs, but its trunk reads only "
                f"{self.trunk.vocabulary} ids: a search gives the trunk what the head gave, so build both for one "
                "vocabulary."
            )
        return log_p, cache

    def step(self, ids: Tensor, cache: Cache) -> Tensor:
        """Append a token to every row."""
        states = self.trunk.step(ids, cache)
        logits = self.model.task(self.task).finish(self.model.heads[self.task](states))
        log_p: Tensor = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        log_p[:, [PAD, START, TARGET]] = -torch.inf  # no label is one of them
        return log_p


@contextmanager
def _decoding(model: LeptonModel, task: str) -> Iterator[_Decoder]:
    """Check model and task, and put the model into evaluation mode for the time of a search, without gradients."""
    trunk = model.trunk
    if not isinstance(trunk, TransformerTrunk):
        raise ConfigurationError(
            f"a search needs a model on a TransformerTrunk, but it is on a {type(trunk).__name__}."
        )
    name = model.task(task).name
    reader = (trunk.readers or {}).get(name)
    if reader != "target":
        raise ConfigurationError(
            f"a search needs a task that reads the states of the second text, but {name!r} reads {reader!r}: build the "
            f"trunk with readers={{{name!r}: 'target'}}."
        )
    if trunk.characters:
        raise ConfigurationError(
            "a search reads and writes tokens only, but the trunk was built for the characters of words as well: build "
            "it with characters=0."
        )
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield _Decoder(model, trunk, name)
    finally:
        for module, training in modes.items():
            module.training = training


def _limits(owner: str, tokens: Tensor, max_length: int | None) -> Tensor:
    """Return how many tokens the result of each row may have, [B]; `tokens` was checked by the trunk."""
    if max_length is None:
        return (2 * (tokens != PAD).sum(1) + 10).clamp(max=LONGEST)
    require(is_whole(max_length), owner, "max_length", max_length, "an integer >= 1, or None")
    return torch.full_like(tokens[:, 0], max_length, dtype=torch.int64)
