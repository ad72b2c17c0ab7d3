"""BLEU against time: the curve of one or more runs that translate, as a picture.

python benchmarks/bleu_curve.py runs/translation/seed-0 --output docs/images/translation.png

The time is the processor's, on one core, in training steps; half of it is what two cores would take if they shared the
work evenly. BLEU is that of greedy translations of the first 500 validation texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--task", default="german")
    parser.add_argument("--output", type=Path, default=Path("bleu_curve.png"))
    arguments = parser.parse_args()
    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    timed = True
    for run in arguments.runs:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        timed = timed and all("train/process_seconds" in row for row in rows)
        x = [row["train/process_seconds"] / 60 if timed else row["epoch"] for row in rows]
        y = [row[f"val/{arguments.task}/bleu"] for row in rows]
        axes.plot(x, y, marker="o", label=str(run))
        print(run, [(round(a, 2), round(b, 2)) for a, b in zip(x, y, strict=True)])
    axes.set_xlabel("minutes of one core, in training steps" if timed else "epoch")
    axes.set_ylabel("BLEU, 500 validation texts, greedy")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if len(arguments.runs) > 1:
        axes.legend()
    figure.savefig(arguments.output, dpi=130)


if __name__ == "__main__":
    main()
