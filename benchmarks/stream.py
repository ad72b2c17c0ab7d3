"""Rows that are read while a model trains, against what else turns a Parquet folder into batches.

    python benchmarks/stream.py                      # 0.1, 1 and 10 million rows; several minutes, 2 GB of disk
    python benchmarks/stream.py --rows 1000000 --rounds 5
    python benchmarks/stream.py --rows 10000000 --ways pyarrow lepton "lepton shuffled"
    python benchmarks/stream.py --decoding           # what workers bring where decoding is what costs

20 numbers in, 20 tasks, half of which are classes; each label is missing in half of the rows, and one shard in four
lacks ten of the tasks. Every reading is a process of its own, one after the other in turns, so that a slow minute hits
all alike. Rows per second are of a whole epoch, by the clock and by the work of the process without its workers; memory
is the most that the process held (VmHWM), and how much of that came after Python and torch were imported.

- pyarrow: row groups to tensors, columns stacked, nothing else: no scales, no marks of missing values, no batches.
- lepton: `StreamLoader` with `TableEncode`, batches of 1024.
- datasets: `load_dataset("parquet", streaming=True)`, batches of 1024: as Arrow tables, its quickest format, whose
  columns are stacked to tensors; and shuffled with a buffer as large as Lepton's window.
- DataLoader: all rows in memory as tensors, a Dataset of single rows, shuffled and collated.

`--decoding` reads 40 000 JSON lines of the same columns and 2000 JPEG pictures of 240 x 320 pixels, which are made 112
high and wide, with 0 and with 2 workers in turns; its ratio is that of the clock, since work is spread over processes.

The first two have read an epoch before the one that is timed; the others take too long for that and start cold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch

INPUTS = [f"x{place}" for place in range(20)]
TASKS = [f"y{place}" for place in range(20)]
SHARD, GROUP, BATCH = 250_000, 62_500, 1024


def write_shards(folder: Path, rows: int) -> None:
    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, rows, SHARD)):
        rng = np.random.default_rng(number)
        size = min(SHARD, rows - first)
        x = rng.standard_normal((size, len(INPUTS)), dtype=np.float32)
        columns: dict[str, Any] = {name: x[:, place] for place, name in enumerate(INPUTS)}
        for place, name in enumerate(TASKS):
            y = x[:, place] + 0.1 * rng.standard_normal(size, dtype=np.float32)
            labels = y if place % 2 else np.digitize(y, [-0.5, 0.5]).astype(np.int64)
            if number % 4 != 3 or place < 10:
                columns[name] = pa.array(labels, mask=rng.random(size) < 0.5)
        parquet.write_table(pa.table(columns), folder / f"{number:04d}.parquet", row_group_size=GROUP)


# -- what is compared: each returns how many rows it gave -----------------------------------------------------------
def with_pyarrow(folder: Path, limit: int) -> Callable[[], int]:
    def run() -> int:
        rows = 0
        for path in sorted(folder.iterdir()):
            file = parquet.ParquetFile(path)
            there = set(file.schema_arrow.names)
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=[*INPUTS, *(name for name in TASKS if name in there)])
                x = torch.from_numpy(np.stack([table.column(name).to_numpy() for name in INPUTS], 1))
                targets = {n: torch.from_numpy(table.column(n).to_numpy().copy()) for n in TASKS if n in there}
                rows += len(x) if targets else 0
        return rows

    return run


def with_lepton(**options: Any) -> Callable[[Path, int], Callable[[], int]]:
    def prepared(folder: Path, limit: int) -> Callable[[], int]:
        from lepton.data import InputEncoder, LabelRule, Shards, StreamLoader, TableEncode, describe_columns, sampled

        shards = Shards(folder)
        encoder = InputEncoder.fit(table := sampled(shards), describe_columns(table.select(INPUTS)))
        classes = [() if place % 2 else ("0", "1", "2") for place in range(len(TASKS))]
        rules = [
            LabelRule(name, "classification" if known else "regression", (name,), known)
            for name, known in zip(TASKS, classes, strict=True)
        ]
        loader = StreamLoader(shards, TableEncode(encoder, rules), BATCH, **options)
        return lambda: sum(len(inputs["numbers"]) for inputs, _ in loader)

    return prepared


def with_datasets(shuffle: bool) -> Callable[[Path, int], Callable[[], int]]:
    def prepared(folder: Path, limit: int) -> Callable[[], int]:
        from datasets import load_dataset

        files = [str(path) for path in sorted(folder.iterdir()) if path.stem[-1] not in "37"]  # those with all columns
        stream = load_dataset("parquet", data_files=files, streaming=True, split="train").with_format("arrow")
        stream = stream.shuffle(seed=0, buffer_size=1 << 16) if shuffle else stream

        def run() -> int:
            rows = 0
            for batch in stream.iter(batch_size=BATCH):
                x = torch.from_numpy(np.stack([batch.column(name).to_numpy() for name in INPUTS], 1))
                targets = {name: torch.from_numpy(batch.column(name).to_numpy().copy()) for name in TASKS}
                rows += len(x) if targets else 0
                if rows >= limit:
                    break
            return rows

        return run

    return prepared


def with_data_loader(folder: Path, limit: int) -> Callable[[], int]:
    table = pa.concat_tables([parquet.read_table(path) for path in sorted(folder.iterdir())], promote_options="default")
    x = torch.from_numpy(np.stack([table.column(name).to_numpy() for name in INPUTS], 1))
    y = {name: torch.from_numpy(table.column(name).to_numpy().copy()) for name in TASKS}

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return min(limit, len(x))

        def __getitem__(self, row: int) -> Any:
            return x[row], {name: column[row] for name, column in y.items()}

    loader = torch.utils.data.DataLoader(Rows(), batch_size=BATCH, shuffle=True)
    return lambda: sum(len(inputs) for inputs, _ in loader)


def decoding_loader(kind: str, folder: Path, workers: int) -> Any:
    from lepton.data import (
        InputEncoder,
        LabelRule,
        PictureEncode,
        Shards,
        StreamLoader,
        TableEncode,
        describe_columns,
        sampled,
    )

    shards = Shards(folder)
    sample = sampled(shards)
    if kind == "JSON lines":
        encoder = InputEncoder.fit(sample, describe_columns(sample.select(INPUTS)))
        rules = [LabelRule(name, "regression", (name,)) for name in TASKS]
        return StreamLoader(shards, TableEncode(encoder, rules), BATCH, window=8192, shuffle=True, workers=workers)
    encoder = InputEncoder.fit(sample, describe_columns(sample.select(["image"])))
    rules = [LabelRule("y", "regression", ("y",))]
    return StreamLoader(shards, PictureEncode(encoder, rules, size=(112, 112)), 32, shuffle=True, workers=workers)


def write_decoding(kind: str, folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    if kind == "JSON lines":
        x = rng.standard_normal((40_000, len(INPUTS) + len(TASKS))).round(6).tolist()
        lines = [json.dumps(dict(zip([*INPUTS, *TASKS], row, strict=True))) + "\n" for row in x]
        for place in range(4):
            (folder / f"{place}.jsonl").write_text("".join(lines[place::4]))
        return
    from PIL import Image

    (folder / "pictures").mkdir()
    rows = []
    for number in range(2000):
        coarse = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        path = folder / "pictures" / f"{number}.jpg"
        coarse.resize((320, 240)).save(path)
        rows.append({"image": str(path), "y": float(number)})
    parquet.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")


def report_decoding(folder: Path, rounds: int) -> None:
    for kind in ("JSON lines", "pictures"):
        place = folder / kind
        if not place.exists():
            write_decoding(kind, place)
        loaders = {workers: decoding_loader(kind, place, workers) for workers in (0, 2)}
        ratios, seconds = [], []
        for _ in range(rounds):
            found = {}
            for workers, loader in loaders.items():
                start = time.perf_counter()
                rows = sum(len(next(iter(targets.values()))) for _, targets in loader)
                found[workers] = time.perf_counter() - start
            ratios.append(found[0] / found[2])
            seconds.append(found[0] / rows)
        speed = 1 / statistics.median(seconds)
        print(f"{kind}: {speed:,.0f} rows/s without workers, 2 workers {statistics.median(ratios):.2f} times that")


WAYS: dict[str, Callable[[Path, int], Callable[[], int]]] = {
    "pyarrow": with_pyarrow,
    "lepton": with_lepton(),
    "lepton shuffled": with_lepton(shuffle=True),
    "lepton shuffled, 2 workers": with_lepton(shuffle=True, workers=2),
    "datasets": with_datasets(shuffle=False),
    "datasets shuffled": with_datasets(shuffle=True),
    "DataLoader": with_data_loader,
}
SLOW = ("datasets", "datasets shuffled", "DataLoader")


def held(key: str) -> float:
    """Megabytes of this process: VmRSS now, VmHWM at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def child(way: str, folder: Path, limit: int) -> None:
    torch.set_num_threads(1)
    start = held("VmRSS")
    run = WAYS[way](folder, limit)
    if way not in SLOW:
        run()
    wall, work = time.perf_counter(), time.process_time()
    rows = run()
    wall, work = time.perf_counter() - wall, time.process_time() - work
    found = {"rows": rows, "wall": wall, "work": work, "memory": held("VmHWM") - start, "resident": held("VmHWM")}
    print(json.dumps(found))


def measured(way: str, folder: Path, limit: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        "--child",
        way,
        "--folder",
        str(folder),
        "--slow-rows",
        str(limit),
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def report(folder: Path, rows: int, rounds: int, limit: int, wanted: list[str]) -> None:
    ways = [way for way in wanted if way not in SLOW or rows == 1_000_000]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way in ways:
            if way not in SLOW or turn == 0:
                found[way].append(measured(way, folder, limit))
    print(f"\n{rows:,} rows, median of {rounds} rounds")
    print("way | rows/s | rows per second of work | of pyarrow's speed | by work | peak MB | beyond start")
    clock = statistics.median(one["wall"] / one["rows"] for one in found["pyarrow"])
    base = statistics.median(one["work"] / one["rows"] for one in found["pyarrow"])
    for way, each in found.items():
        wall = statistics.median(one["wall"] / one["rows"] for one in each)
        work = statistics.median(one["work"] / one["rows"] for one in each)
        peak, more = (max(one[key] for one in each) for key in ("resident", "memory"))
        speeds = f"{1 / wall:11,.0f} | {1 / work:11,.0f} | {clock / wall:5.2f} | {base / work:5.2f}"
        print(f"{way:27s} | {speeds} | {peak:5.0f} | {more:5.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the shards are, or are kept")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS), help="pyarrow must be among them")
    parser.add_argument("--decoding", action="store_true")
    parser.add_argument("--child", choices=WAYS)
    told = parser.parse_args()
    if told.child:
        return child(told.child, told.folder, told.slow_rows)
    with tempfile.TemporaryDirectory() as temporary:
        if told.decoding:
            return report_decoding(told.folder or Path(temporary), told.rounds)
        for rows in told.rows:
            folder = (told.folder or Path(temporary)) / str(rows)
            if not folder.exists():
                write_shards(folder, rows)
            report(folder, rows, told.rounds if rows < 10_000_000 else 2, told.slow_rows, told.ways)


if __name__ == "__main__":
    main()
