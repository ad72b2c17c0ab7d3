"""The steps between two texts are as few as an independent implementation says, and lead from one to the other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lepton.insight import edits

TEXTS = st.text("abc ", max_size=14)
WORDS = st.lists(st.sampled_from(["one", "two", "three"]), max_size=9)


@given(TEXTS | WORDS, TEXTS | WORDS)
@example("", "")
@example("naïve ß", "naive ss")
def test_no_way_is_shorter(said: Sequence[str], truth: Sequence[str]) -> None:
    distance = pytest.importorskip("rapidfuzz.distance")
    steps = edits(said, truth)
    assert sum(name != "equal" for name, _, _ in steps) == distance.Levenshtein.distance(list(truth), list(said))


@given(TEXTS | WORDS, TEXTS | WORDS)
def test_the_steps_lead_from_the_truth_to_what_was_said(said: Sequence[str], truth: Sequence[str]) -> None:
    steps = edits(said, truth)
    assert [old for _, old, _ in steps if old] == list(truth)
    assert [new for _, _, new in steps if new] == list(said)
    for name, old, new in steps:
        assert (name == "equal") == (old == new)
        assert (name == "insert", name == "delete") == (old == "", new == "")


def test_errors_are_named_as_a_person_names_them() -> None:
    assert edits("tree", "three")[1] == ("delete", "h", "")
    assert edits("nein", "nine") != edits("nine", "nein")
    assert [step for step in edits("fife", "five") if step[0] != "equal"] == [("replace", "v", "f")]
