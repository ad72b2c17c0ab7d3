"""BLEU and chrF: by hand, equal to sacrebleu called directly, and never without a signature."""

from __future__ import annotations

import math
import re
import sys

import pytest

from lepton.errors import DataError, MissingExtraError, install_line
from lepton.insight import TextScores, text_scores

sacrebleu = pytest.importorskip("sacrebleu", reason="the extra text is not installed")

HYPOTHESES = ["the cat sat on the mat", "there is a dog"]
REFERENCES = ["the cat sat on the mat", "there is a big dog"]


def test_bleu_of_two_texts_by_hand() -> None:
    # n-grams that are found, of those written: 6 + 4 of 6 + 4 words, 5 + 2 of 5 + 3 pairs, 4 + 1 of 4 + 2, 3 + 0 of
    # 3 + 1; ten words where the references have eleven.
    precisions = 10 / 10 * 7 / 8 * 5 / 6 * 3 / 4
    expected = 100 * math.exp(1 - 11 / 10) * precisions**0.25
    assert text_scores(HYPOTHESES, REFERENCES).bleu == pytest.approx(expected)


def test_chrf_of_two_texts_by_hand() -> None:
    # Found of those written: 2 + 2 of 3 + 2 letters, 1 + 1 of 2 + 1 pairs, 0 of 1 triple; nothing is longer. As many
    # are written as wanted, so that precision, recall and F are one.
    assert text_scores(["abc", "de"], ["abd", "de"]).chrf == pytest.approx(100 * (4 / 5 + 2 / 3 + 0) / 3)


def test_scores_and_signatures_are_those_of_sacrebleu() -> None:
    hypotheses = ["Ein Hund läuft, im Schnee.", "Zwei Männer  stehen am Herd", "", "Kinder spielen Fußball!"]
    references = ["Ein Hund rennt im Schnee.", "Zwei Männer stehen am Herd.", "Ein Auto.", "Kinder spielen Fußball."]
    found = text_scores(hypotheses, references)
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    assert found.bleu == pytest.approx(bleu.corpus_score(hypotheses, [references]).score)
    assert found.chrf == pytest.approx(chrf.corpus_score(hypotheses, [references]).score)
    assert found == TextScores(found.bleu, found.chrf, str(bleu.get_signature()), str(chrf.get_signature()))
    assert found.bleu_signature.startswith("nrefs:1|case:mixed|") and sacrebleu.__version__ in found.bleu_signature
    assert "nc:6" in found.chrf_signature and sacrebleu.__version__ in found.chrf_signature


def test_the_order_of_the_pairs_does_not_matter_but_the_pairs_do() -> None:
    found = text_scores(HYPOTHESES, REFERENCES)
    assert text_scores(HYPOTHESES[::-1], REFERENCES[::-1]) == found
    assert text_scores(HYPOTHESES, REFERENCES[::-1]).bleu < found.bleu
    assert text_scores(tuple(HYPOTHESES), REFERENCES) == found


@pytest.mark.parametrize(
    ("hypotheses", "references", "words"),
    [
        ([], [], "there are no texts"),
        (["a", "b"], ["a"], "2 hypotheses and 1 references"),
        ("a b", ["a b"], "hypotheses must be a list of texts, but it is one text, 'a b'"),
        (["a"], "a", "references must be a list of texts"),
        (["a"], [["a"]], r"references\[0\] must be a text, but it is \['a'\]"),
        (["a", None], ["a", "b"], r"hypotheses\[1\] must be a text, but it is None"),
    ],
)
def test_texts_that_cannot_be_scored_are_refused(hypotheses: object, references: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        text_scores(hypotheses, references)  # type: ignore[arg-type]


def test_without_the_extra_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(MissingExtraError, match=re.escape(install_line("text"))):
        text_scores(["a"], ["a"])
