"""Connectionist temporal classification: what is the probability of a text, given frames that are not aligned with it.

Letters: B rows, L frames, V = 1 + C symbols of which number 0 is the blank, U characters of the longest text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lepton.errors import is_whole, require
from lepton.tasks.base import at_least_float32

__all__ = ["ctc_alignment", "ctc_beam", "ctc_greedy", "ctc_losses", "frames_needed"]

Array: TypeAlias = npt.NDArray[np.float64]


def frames_needed(texts: Tensor, lengths: Tensor) -> Tensor:
    """Return how many frames the shortest alignment of each text has, int64 [B].

    One for each character, and one for the blank between two equal characters.

    Args:
        texts: characters, [B, U].
        lengths: how many of them are the text's, [B].
    """
    within = torch.arange(1, max(texts.shape[1], 1), device=texts.device) < lengths[:, None]
    return lengths + ((texts[:, 1:] == texts[:, :-1]) & within[:, : max(texts.shape[1] - 1, 0)]).sum(1)


# -- loss ---------------------------------------------------------------------------------------------------------
def ctc_losses(logits: Tensor, texts: Tensor, lengths: Tensor) -> Tensor:
    """Return -ln p(text) of each row over all L frames, [B]; infinite where a text does not fit into them.

    Args:
        logits: [B, L, V], at least float32.
        texts: characters 1 to C, [B, U].
        lengths: how many of them are the text's, [B].
    """
    wanted = logits.requires_grad and torch.is_grad_enabled()
    losses: Tensor = _ctc(logits, texts, lengths, wanted)[0]
    return losses


@torch.library.custom_op("lepton::ctc", mutates_args=())
def _ctc(logits: Tensor, texts: Tensor, lengths: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    """The losses [B], and their derivatives by the row's logits [B, L, V] if wanted.

    An operator of our own around torch's, because torch's cannot be traced: it reads the lengths of the texts. An
    operator has no graph inside, so the derivative is asked for by name.
    """
    rows, frames, _ = logits.shape
    if logits.numel() == 0:
        return logits.new_zeros(rows).masked_fill(lengths > 0, math.inf), logits.new_zeros(
            logits.shape if wanted else 0
        )
    log_p = logits.log_softmax(-1).transpose(0, 1)
    told = log_p, texts, torch.full_like(lengths, frames), lengths
    losses, prefixes = torch.ops.aten._ctc_loss(*told)
    if not wanted:
        return losses, logits.new_empty(0)
    # Torch's derivative by log_p already has the softmax in it: it is the one by the logits.
    gradient = torch.ops.aten._ctc_loss_backward(torch.ones_like(losses), *told, losses, prefixes, 0)
    return losses, gradient.transpose(0, 1).contiguous()


@_ctc.register_fake
def _(logits: Tensor, texts: Tensor, lengths: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape[0]), torch.empty_like(logits) if wanted else logits.new_empty(0)


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)


def _pass_gradient(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    (gradient,) = ctx.saved_tensors
    return None if grad is None else gradient * grad[:, None, None], None, None, None


_ctc.register_autograd(_pass_gradient, setup_context=_keep_gradient)


# -- search -------------------------------------------------------------------------------------------------------
def ctc_greedy(logits: Tensor) -> list[list[int]]:
    """Return the text of the best alignment of each row: the best symbol of each frame, repeats and blanks left out.

    Source: "best path decoding" of Graves et al., "Connectionist Temporal Classification", 2006.

    Args:
        logits: [B, L, V]; symbol 0 is the blank.

    Returns:
        The characters of each row, 1 to V - 1.

    Example:
        >>> import torch
        >>> frames = torch.tensor([[0, 1, 1, 0, 1, 2]])
        >>> ctc_greedy(torch.nn.functional.one_hot(frames, 3))
        [[1, 1, 2]]
    """
    best = logits.argmax(-1)
    kept = best != 0
    kept[:, 1:] &= best[:, 1:] != best[:, :-1]
    return [row[where].tolist() for row, where in zip(best.cpu(), kept.cpu(), strict=True)]


@torch.no_grad()
def ctc_beam(logits: Tensor, beam: int) -> list[list[int]]:
    """Return the most probable text of each row that a search over prefixes finds.

    At each frame every prefix that is kept stays or is longer by one character, and the `beam` most probable ones are
    kept. The probability of a prefix is the sum over its paths. With a beam that keeps all prefixes the result is
    exact. Runs in float64 on the CPU, row by row.
    Source: Graves et al., "Connectionist Temporal Classification", 2006; the search with a beam from Hannun et al.,
    "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs", 2014, without its
    language model.

    Args:
        logits: [B, L, V]; symbol 0 is the blank.
        beam: number of prefixes that are kept, at least 1.

    Returns:
        The characters of each row, 1 to V - 1.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]]).log()
        >>> ctc_greedy(logits), ctc_beam(logits, 4)  # p("") = 0.36, p("a") = 0.64
        ([[]], [[1]])
    """
    require(is_whole(beam), "ctc_beam", "beam", beam, "a whole number of at least 1")
    return [_search(row.numpy(), beam) for row in logits.cpu().double().log_softmax(-1)]


def _search(log_p: Array, beam: int) -> list[int]:
    prefixes: list[tuple[int, ...]] = [()]
    # ln p of each prefix's paths that end in the blank, and of those that end in its last character.
    blank, character = np.zeros(1), np.full(1, -np.inf)
    for frame in log_p:
        longer = _one_longer(prefixes, blank, character, frame)
        blank, character = _as_long(prefixes, blank, character, frame, longer)
        scores = np.concatenate([np.logaddexp(blank, character), longer.ravel()])
        best = np.argsort(-scores, kind="stable")[:beam]
        best = best[scores[best] > -np.inf]
        steps = [divmod(index - len(prefixes), len(frame)) for index in best]
        prefixes = [
            prefixes[index] if index < len(prefixes) else (*prefixes[row], symbol)
            for index, (row, symbol) in zip(best, steps, strict=True)
        ]
        blank = np.concatenate([blank, np.full(longer.size, -np.inf)])[best]
        character = np.concatenate([character, longer.ravel()])[best]
    return [int(symbol) for symbol in prefixes[int(np.logaddexp(blank, character).argmax())]]


def _one_longer(prefixes: Sequence[tuple[int, ...]], blank: Array, character: Array, frame: Array) -> Array:
    """Return ln p of each prefix K with each symbol V after it, [K, V]: -inf for the blank."""
    longer = np.logaddexp(blank, character)[:, None] + frame
    longer[:, 0] = -np.inf
    for row, prefix in enumerate(prefixes):
        if prefix:  # the same character again is a new one only after a blank
            longer[row, prefix[-1]] = blank[row] + frame[prefix[-1]]
    return longer


def _as_long(
    prefixes: Sequence[tuple[int, ...]], blank: Array, character: Array, frame: Array, longer: Array
) -> tuple[Array, Array]:
    """Return the two ln p of each prefix after a frame that does not lengthen it.

    What reaches a prefix from one that is shorter is taken out of `longer`, so that no prefix is there twice.
    """
    last = [prefix[-1] if prefix else 0 for prefix in prefixes]
    stays = character + frame[last]
    place = {prefix: row for row, prefix in enumerate(prefixes)}
    for row, prefix in enumerate(prefixes):
        parent = place.get(prefix[:-1]) if prefix else None
        if parent is not None:
            stays[row] = np.logaddexp(stays[row], longer[parent, last[row]])
            longer[parent, last[row]] = -np.inf
    return np.logaddexp(blank, character) + frame[0], stays


# -- alignment ----------------------------------------------------------------------------------------------------
def ctc_alignment(logits: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
    """Return how many frames belong to each character, by the most probable alignment of a text that is known.

    The most probable path (Viterbi) says at which frames each character is emitted. A border between two characters
    stands in the middle of the blanks between them; the blanks before the first and after the last character belong
    to these. A row whose text has no path, because it is too long for its frames or the logits are not numbers, is
    shared out equally.
    Source: the paths of Graves et al., "Connectionist Temporal Classification", 2006; Viterbi, 1967.

    Args:
        logits: [B, L, V]; symbol 0 is the blank.
        frames: how many of the L frames are the row's, integers [B].
        labels: characters 1 to V - 1, integers [B, U]; a text ends before its first entry below 1.

    Returns:
        Numbers of frames, int64 [B, U]: at least 1 for each character where there are as many frames, 0 beyond the
        text. A row sums to its `frames`, or to 0 if it has no characters.

    Example:
        >>> import torch
        >>> frames = torch.tensor([[0, 1, 1, 0, 0, 2, 0]])
        >>> logits = 9.0 * torch.nn.functional.one_hot(frames, 3)
        >>> ctc_alignment(logits, torch.tensor([7]), torch.tensor([[1, 2, 0]])).tolist()
        [[4, 3, 0]]
    """
    # A compiler would write the loop over frames out, for each number of them again.
    align = _align_op if torch.compiler.is_compiling() else _align
    durations: Tensor = align(logits.detach(), frames, labels)
    return durations


def _align(logits: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
    frames = frames.long()
    present = (labels > 0).long().cumprod(1).bool()
    labels, lengths = labels.long().where(present, 0), present.sum(1)
    if labels.shape[1] == 0:
        return labels
    first, last, found = _emissions(at_least_float32(logits).log_softmax(-1), frames, labels, lengths)
    borders = (last[:, :-1] + first[:, 1:] + 1) // 2
    place = torch.arange(1, labels.shape[1] + 1, device=labels.device)
    equal = frames[:, None] * place // lengths.clamp(min=1)[:, None]
    ends = equal.clone()
    ends[:, :-1] = torch.where(found[:, None], borders, equal[:, :-1])
    ends = torch.where(place < lengths[:, None], ends, frames[:, None])
    return ends.diff(dim=1, prepend=torch.zeros_like(frames)[:, None]).where(present, 0)


_align_op = torch.library.custom_op("lepton::ctc_alignment", _align, mutates_args=())


@_align_op.register_fake
def _(logits: Tensor, frames: Tensor, labels: Tensor) -> Tensor:
    return torch.empty_like(labels, dtype=torch.int64)


def _emissions(log_p: Tensor, frames: Tensor, labels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first and last frame that emits each character [B, U], and for which rows there is a path [B]."""
    states, score = _best_path(log_p, frames, labels, lengths)
    time = torch.arange(log_p.shape[1], device=log_p.device)
    character = 2 * torch.arange(labels.shape[1], device=log_p.device) + 1
    emits = (states[:, :, None] == character) & (time < frames[:, None])[:, :, None]
    first = time[:, None].where(emits, log_p.shape[1]).amin(1) if len(time) else labels
    last = time[:, None].where(emits, -1).amax(1) if len(time) else labels
    return first, last, torch.isfinite(score) & (lengths > 0)


def _best_path(log_p: Tensor, frames: Tensor, labels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states [B, L] of the best path and its log probability [B].

    State 2u + 1 emits character u, the even ones the blanks around them. Beyond a row's frames its state stays.
    """
    rows, time, _ = log_p.shape
    symbols = F.pad(F.pad(labels[:, :, None], (1, 0)).flatten(1), (0, 1))  # blank, character, blank, ..., blank
    emission = log_p.transpose(0, 1).gather(2, symbols.expand(time, *symbols.shape))
    skip = F.pad((symbols[:, 2:] != symbols[:, :-2]) & (symbols[:, 2:] != 0), (2, 0))
    cost = torch.zeros_like(skip, dtype=log_p.dtype).masked_fill_(~skip, -math.inf)
    # Two states that nothing reaches stand before the first, so that every state has three before it.
    scores = log_p.new_full((time + 1, rows, symbols.shape[1] + 2), -math.inf)
    scores[0, :, 2] = 0
    for before, after, emitted in zip(scores[:-1], scores[1:, :, 2:], emission, strict=True):
        torch.maximum(before[:, 2:], before[:, 1:-1], out=after)
        torch.maximum(after, before[:, :-2] + cost, out=after)
        after += emitted
    ends = torch.stack([2 * lengths, (2 * lengths - 1).clamp(min=0)], 1)
    final = scores[frames, torch.arange(rows, device=frames.device), 2:].gather(1, ends)
    score, which = final.max(1)
    return _trace_back(scores[:-1], cost, frames, ends.gather(1, which[:, None])), score


def _trace_back(scores: Tensor, cost: Tensor, frames: Tensor, state: Tensor) -> Tensor:
    """Return the states [B, L] that lead to the last one, `state` [B, 1]."""
    stay, step, jump = scores[..., 2:], scores[..., 1:-1], scores[..., :-2] + cost
    # By comparisons, because `argmax` over three takes twenty times longer; nothing is greater than what is no number.
    steps = (step > stay).byte().masked_fill_(jump > stay.maximum(step), 2)
    steps.masked_fill_(torch.arange(len(scores), device=frames.device)[:, None, None] >= frames[:, None], 0)
    states = []
    for back in reversed(steps.unbind()):
        states.append(state)
        state = state - back.gather(1, state)
    return torch.cat([state[:, :0], *states[::-1]], 1)
