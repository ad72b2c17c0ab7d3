"""Scores of generated texts against references, with the signature that says how they were computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lepton.errors import DataError, import_extra

__all__ = ["TextScores", "chrf_of_texts", "signature_notes", "text_scores"]


@dataclass(frozen=True)
class TextScores:
    """BLEU and chrF of a corpus, each with the signature of sacrebleu, without which the number cannot be compared.

    Attributes:
        bleu: 0 to 100.
        chrf: 0 to 100.
        bleu_signature: number of references, case, tokenisation, smoothing and version.
        chrf_signature: number of references, case, orders of the n-grams, and version.
    """

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str


def text_scores(hypotheses: Sequence[str], references: Sequence[str]) -> TextScores:
    """Return corpus BLEU and chrF of texts, one reference each, by sacrebleu with its default settings.

        BLEU = min(1, exp(1 - r / c)) prod_n p_n^(1/4),  n = 1 to 4;      chrF = (1 + 4) P R / (4 P + R)

    with c and r the numbers of words of all hypotheses and references, p_n the share of the hypotheses' n-grams of
    words that their references hold, and P and R the mean precision and recall of the n-grams of 1 to 6 characters.
    Source: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002; Popovic, "chrF:
    character n-gram F-score for automatic MT evaluation", 2015; Post, "A Call for Clarity in Reporting BLEU Scores",
    2018.

    Args:
        hypotheses: the texts, detokenised.
        references: what they should be, detokenised, in the same order.

    Raises:
        DataError: no texts, not as many references as texts, or one string instead of a list.
        MissingExtraError: sacrebleu is not installed.

    Example:
        >>> found = text_scores(["a dog runs in the snow"], ["a dog runs in the snow"])
        >>> round(found.bleu, 2), round(found.chrf, 2)
        (100.0, 100.0)
    """
    _check_texts(hypotheses, references)
    metrics = import_extra("sacrebleu.metrics", "text", "text_scores (BLEU and chrF)")
    bleu, chrf = metrics.BLEU(), metrics.CHRF()
    found = [metric.corpus_score(list(hypotheses), [list(references)]).score for metric in (bleu, chrf)]
    return TextScores(found[0], found[1], str(bleu.get_signature()), str(chrf.get_signature()))


def chrf_of_texts(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the chrF of each text against its reference, 0 to 100; see `text_scores`.

    Args:
        hypotheses: the texts.
        references: what they should be, in the same order.

    Raises:
        DataError: as in `text_scores`.
        MissingExtraError: sacrebleu is not installed.

    Example:
        >>> [round(score) for score in chrf_of_texts(["a dog", "a cat"], ["a dog", "the sea"])]
        [100, 9]
    """
    _check_texts(hypotheses, references)
    chrf = import_extra("sacrebleu.metrics", "text", "chrf_of_texts").CHRF()
    return [float(chrf.sentence_score(said, [true]).score) for said, true in zip(hypotheses, references, strict=True)]


def signature_notes(signatures: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line for each score that has a signature, to be shown where the score is.

    Args:
        signatures: task -> metric -> signature.

    Example:
        >>> signature_notes({"english": {}, "german": {"bleu": "nrefs:1|case:mixed"}})
        ['german bleu: sacrebleu nrefs:1|case:mixed']
    """
    return [
        f"{task} {metric}: sacrebleu {signature}"
        for task, found in signatures.items()
        for metric, signature in found.items()
    ]


def _check_texts(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    for name, texts in (("hypotheses", hypotheses), ("references", references)):
        if isinstance(texts, str):
            raise DataError(f"text_scores: {name} must be a list of texts, but it is one text, {texts[:40]!r}.")
        for place, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"text_scores: {name}[{place}] must be a text, but it is {text!r}.")
    if len(hypotheses) != len(references):
        raise DataError(
            f"text_scores: there are {len(hypotheses)} hypotheses and {len(references)} references: each text needs "
            "one reference."
        )
    if not hypotheses:
        raise DataError("text_scores: there are no texts to score.")
