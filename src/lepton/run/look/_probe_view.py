"""What a terminal shows of a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton.insight import Estimate, as_bytes, as_duration

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from lepton.run.look._probe import Probe

__all__ = ["probe_view"]

MOST_ROWS = 20
STYLES = {"high": "bold", "medium": "", "low": "dim"}


def probe_view(probe: Probe) -> RenderableType:
    """Return tables of what was measured, and the recommendations."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_tasks(probe)]
    if len(probe.gradients.tasks) > 1:
        parts.append(_pairs(probe))
    parts.append(_plan(probe))
    if probe.views is not None:
        parts.append(probe.views.table)
    parts.append(Text("what this speaks for", style="bold"))
    for item in probe.advice:
        parts.append(Text.assemble(f"- {item.words} ", (f"[confidence {item.confidence}]", STYLES[item.confidence])))
    parts.append(
        Text("All of it from one initialisation; only runs with several seeds can tell what is better.", "dim")
    )
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left")
    return table


def _number(found: Estimate) -> str:
    if found.mean != found.mean:
        return "not measured"
    return str(found)


def _tasks(probe: Probe) -> Table:
    record = probe.gradients
    table = _table(
        f"tasks at initialisation, {len(record.losses)} batches, 95 % intervals",
        "task",
        "labels",
        "loss",
        "gradient",
        "weight later",
    )
    later, losses, norms = probe.later.weight_share, record.loss, record.norm
    for name in record.tasks[:MOST_ROWS]:
        share = f"{probe.labels.share[name]:.0%}"
        table.add_row(name, share, _number(losses[name]), _number(norms[name]), _number(later[name]))
    if len(record.tasks) > MOST_ROWS:
        table.caption = f"and {len(record.tasks) - MOST_ROWS} tasks more"
    return table


def _pairs(probe: Probe) -> Table:
    after = f"after {probe.later_steps} steps"
    table = _table(f"cosines, view {probe.gradients.view}", "tasks", "rows with both", "random heads", after)
    before = probe.gradients.cosine
    known = sorted(probe.later.cosine.items(), key=lambda item: (item[1].mean != item[1].mean, item[1].mean))
    for (a, b), cosine in known[:MOST_ROWS]:
        both = f"{probe.labels.both[a, b]:.0%}"
        table.add_row(f"{a}, {b}", both, _number(before[a, b]), _number(cosine))
    if len(known) > MOST_ROWS:
        table.caption = f"the lowest of {len(known)}"
    return table


def _plan(probe: Probe) -> Table:
    from rich.table import Table

    cost, sweep, memory = probe.cost, probe.learning_rate, probe.cost.memory
    table = Table(title="cost on this machine", title_justify="left", show_header=False)
    step = f"{1000 * cost.step.mean:.1f} ms a step, {cost.ratio:.2f} times that of equal weights"
    epoch, training = as_duration(cost.epoch_seconds), as_duration(cost.training_seconds)
    table.add_row("time", f"{step}; {epoch} an epoch, at most {training}")
    model = memory.weights + memory.gradients + memory.optimizer
    table.add_row(
        "memory",
        f"about {as_bytes(memory.total + cost.rows)}: model and optimiser {as_bytes(model)}, "
        f"activations {as_bytes(memory.activations)}, view {as_bytes(memory.view)}, rows {as_bytes(cost.rows)}",
    )
    low, high = sweep.low, sweep.high
    span = "none" if low is None or high is None else f"{low:.1g} to {high:.1g}"
    table.add_row("learning rate", f"{span} by a sweep of {len(sweep.rates)} steps")
    return table
