"""The table of benchmarks/views.py, and its picture.

    python benchmarks/views_table.py views.jsonl [--raw] [--picture views.png]

Mean and standard deviation over the seeds; the difference to `parameters` is paired by seed (the same scenes, weights
at the start and order of batches), with a 95 % interval of Student's t. Times are process times of the whole training,
over that of equal weighting with the same seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy.stats import t
from views import METHODS, TASKS, Run

Found = Mapping[int, Mapping[str, float]]
"""For each seed what a run measured."""

UNITS = {"left": "left %", "right": "right %", "picture": "picture"}
EXACT = "parameters"


def read(path: Path, raw: bool) -> dict[tuple[str, str, tuple[str, ...]], dict[int, dict[str, float]]]:
    """Return, for each method, view and tasks, what was found with each seed."""
    found: dict[tuple[str, str, tuple[str, ...]], dict[int, dict[str, float]]] = {}
    for line in path.read_text().splitlines():
        run = Run.of(line)
        if run.raw == raw:
            found.setdefault((run.method, run.view, run.tasks), {})[run.seed] = json.loads(line)
    return found


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation."""
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def interval(differences: Sequence[float]) -> str:
    """Return the mean of paired differences and its 95 % interval."""
    mean, n = statistics.mean(differences), len(differences)
    if n < 2:
        return f"{mean:+.2f}"
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def difference(found: Found, base: Found, name: str) -> str:
    """Return a measure minus the base's with the same seed."""
    return interval([found[seed][name] - base[seed][name] for seed in found if seed in base])


def time_ratio(found: Found, equal: Found) -> str:
    """Return the median over the seeds of the time over that of equal weighting."""
    return f"{statistics.median(found[s]['seconds'] / equal[s]['seconds'] for s in found if s in equal):.2f}"


def row(cells: Sequence[str]) -> str:
    """Return one line of a table."""
    return "| " + " | ".join(cells) + " |"


def tables(path: Path, raw: bool) -> str:
    """Return both tables as Markdown: without views, and every method in every view."""
    found = read(path, raw)
    equal = found["equal", "none", TASKS]
    lines = [row(["without the fork", *UNITS.values(), "time", "seeds"]), "|---" * 6 + "|"]
    alone = {name: found.get(("equal", "none", (name,)), {}) for name in TASKS}
    if all(alone.values()):
        values = [spread([seed[name] for seed in alone[name].values()]) for name in TASKS]
        seeds = [s for s in equal if all(s in alone[name] for name in TASKS)]
        sums = {s: {"seconds": sum(alone[name][s]["seconds"] for name in TASKS)} for s in seeds}
        lines.append(row(["each task alone", *values, f"{time_ratio(sums, equal)} for the three", str(len(seeds))]))
    for (method, view, tasks), runs in found.items():
        if view == "none" and tasks == TASKS:
            values = [spread([seed[name] for seed in runs.values()]) for name in TASKS]
            lines.append(row([method, *values, time_ratio(runs, equal), str(len(runs))]))
    lines += [
        "",
        row(
            ["method", "view", *UNITS.values(), *(f"{UNITS[name]}, minus `{EXACT}`" for name in TASKS), "time", "seeds"]
        ),
    ]
    lines.append("|---" * 10 + "|")
    for method in METHODS:
        base = found.get((method, EXACT, TASKS), {})
        for (other, view, _), runs in found.items():
            if other == method:
                values = [spread([seed[name] for seed in runs.values()]) for name in TASKS]
                exact = view == EXACT or not set(base) & set(runs)
                minus = ["" if exact else difference(runs, base, name) for name in TASKS]
                lines.append(row([method, f"`{view}`", *values, *minus, time_ratio(runs, equal), str(len(runs))]))
    return "\n".join(lines)


def draw(path: Path, raw: bool, into: Path) -> None:
    """Draw accuracy and error against time: one line for each method, one mark for each view."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = read(path, raw)
    equal = found["equal", "none", TASKS]
    views = list(dict.fromkeys(view for _, view, _ in found if view != "none"))
    marks = dict(zip(views, "osD^vP*X", strict=False))
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axis, name in zip(axes, ("left", "picture"), strict=True):
        for number, method in enumerate(METHODS):
            points = {}
            for view in views:
                runs = found.get((method, view, TASKS))
                if runs:
                    values = [seed[name] for seed in runs.values()]
                    time = statistics.median(runs[s]["seconds"] / equal[s]["seconds"] for s in runs)
                    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                    points[view] = (time, statistics.mean(values), deviation)
            for view, (time, mean, deviation) in points.items():
                axis.errorbar(time, mean, deviation, color=f"C{number}", marker=marks[view], ls="", capsize=2)
            ordered = sorted(points.values())
            axis.plot([p[0] for p in ordered], [p[1] for p in ordered], color=f"C{number}", lw=0.8, label=method)
        axis.axhline(
            statistics.mean(seed[name] for seed in equal.values()), color="0.5", ls=":", label="equal weighting"
        )
        axis.set_xlabel("process time over equal weighting")
        axis.set_ylabel("left digit, accuracy in %" if name == "left" else "picture, 400 x mean squared error")
    handles = [plt.Line2D([], [], color="0.3", marker=mark, ls="", label=view) for view, mark in marks.items()]
    axes[1].add_artist(axes[1].legend(handles=handles, fontsize=7, loc="center"))
    axes[0].legend(fontsize=7)
    figure.savefig(into, dpi=110)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    print(tables(options.results, options.raw))
    if options.picture is not None:
        draw(options.results, options.raw, options.picture)


if __name__ == "__main__":
    main()
