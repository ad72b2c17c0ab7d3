"""What a terminal and a page show of the views: a table, a plot, the sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lepton.insight.page import Block, Plot, Table, TableCell, TableRow, Trace, as_bytes, as_duration
from lepton.insight.views._found import ViewFidelity
from lepton.insight.views._recommend import NEAR

if TYPE_CHECKING:
    from lepton.insight.views._fidelity import Fidelity

__all__ = ["fidelity_blocks", "fidelity_plot", "fidelity_table"]

COLUMNS = ("weights apart", "update, cosine", "cosines apart", "Gramian apart", "time", "memory")


def fidelity_blocks(found: Fidelity) -> Iterator[Block]:
    """Yield the recommendation, the plot and the table, as a page shows them."""
    advised = found.recommendation
    if advised is not None:
        yield f"Recommendation: {advised.words} (confidence {advised.confidence})"
        yield fidelity_plot(found)
    yield fidelity_table(found)


def fidelity_table(found: Fidelity) -> Table:
    """Return how far each view is from the exact one, and what it costs."""
    plain = TableRow(
        TableCell("equal weighting"),
        (
            TableCell(found.equal.text(2)),
            *(TableCell("") for _ in range(3)),
            TableCell("1.00", _step_words(found.step_seconds)),
            TableCell(as_bytes(found.memory)),
        ),
    )
    rows = [TableRow(_name(view, found.chosen), _cells(view)) for view in found.views]
    notes = (
        f"{found.balancer} on {found.batches} batches, means with 95 % intervals. Weights apart: half the sum of the "
        "differences of the weights' shares from the exact ones, 0 the same, 1 all weight on other tasks; from one "
        f"batch to the next the exact ones themselves are {found.spread.mean:.2f} from their mean. Update: cosine "
        "between the trunk's gradients that the weights make. Time and memory: of a forward and backward, over equal "
        "weighting, and at its peak beside weights and rows.",
        *(f"{view.name}: {', '.join(view.shared)}." for view in found.views if view.shared),
        *(f"{view.name} was not measured: {view.refused}" for view in found.views if view.refused),
    )
    return Table("Views of the gradients, against the exact one", COLUMNS, (plain, *rows), notes)


def _step_words(seconds: float) -> str:
    """Return the time of a step, in milliseconds where it is short."""
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else as_duration(seconds)


def _name(view: ViewFidelity, chosen: str) -> TableCell:
    return TableCell(view.name, "in use" if view.name == chosen else "")


def _cells(view: ViewFidelity) -> tuple[TableCell, ...]:
    if view.refused:
        return (TableCell("not measured"), *(TableCell("") for _ in COLUMNS[1:]))
    time = view.time
    interval = "" if math.isnan(time.low) else f"{time.low:.2f} to {time.high:.2f}"
    return (
        TableCell(view.weights.text(2)),
        TableCell(view.direction.text(3)),
        TableCell(view.cosines.text(2)),
        TableCell(view.gramian.text(2)),
        TableCell(f"{time.value:.2f}", interval),
        TableCell("" if view.memory is None else as_bytes(view.memory)),
    )


def fidelity_plot(found: Fidelity) -> Plot:
    """Return the distance of each view's weights against its time: near the lower left corner is good."""
    known = [view for view in found.views if not view.refused and math.isfinite(view.weights.mean)]
    latest = max([1.0, *(view.time.value for view in known)])
    traces = [Trace(view.name, [view.time.value], [view.weights.mean], "points", [_point(view)]) for view in known]
    plain = Trace("equal weighting", [1.0], [found.equal.mean], "points", [f"equal weighting: {found.equal.mean:.2f}"])
    bound = Trace(f"{NEAR:.0%} apart", [1.0, latest], [NEAR, NEAR], "guide")
    return Plot(
        f"Distance of the weights from the exact ones, against the time of a step, under {found.balancer}",
        "time of a forward and backward / that of equal weighting",
        "weights apart",
        (*traces, plain, bound),
        "Further down is nearer to the exact weights, further left is cheaper. Views below the dashed line are taken "
        "for as good as the exact one; equal weights show how far apart weights can be that look at nothing.",
    )


def _point(view: ViewFidelity) -> str:
    return f"{view.name}: {view.weights.mean:.2f} apart at {view.time.value:.2f} times the time"
