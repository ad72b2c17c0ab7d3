"""Shards of every format with the same rows, and a reader that keeps the numbers of rows apart."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import torch

FORMATS = ("a.parquet", "a.feather", "stream.arrow", "a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz")


def rows(first: int, stop: int) -> list[dict[str, Any]]:
    """Rows with a number of their own, words that hold what parts rows and columns, and labels of which some lack."""
    words = ["plain", 'wo,rd "quoted"', "two\nlines", "tab\there"]
    return [
        {"id": float(n), "word": words[n % 4], "label": float(n % 3) if n % 5 else None} for n in range(first, stop)
    ]


def write(path: Path, content: list[dict[str, Any]], group: int = 64) -> Path:
    """Write rows in the format that a name tells."""
    table = pa.Table.from_pylist(content)
    name = path.name
    if name.endswith(".parquet"):
        parquet.write_table(table, path, row_group_size=group)
    elif name == "stream.arrow":
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=group)
    elif name.endswith((".feather", ".arrow")):
        feather.write_feather(table, path, chunksize=group)
    else:
        text = _lines(content) if ".jsonl" in name else _separated(content, "\t" if ".tsv" in name else ",")
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def _lines(content: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in content)


def _separated(content: list[dict[str, Any]], delimiter: str) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(content[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(content)
    return out.getvalue()


class Ids:
    """Numbers of rows as inputs, labels as targets."""

    columns = ("id", "label")
    inputs = ("id",)

    def __call__(self, table: pa.Table) -> Any:
        found = [torch.from_numpy(np.array(table.column(name).to_numpy(), dtype=np.float64)) for name in self.columns]
        return found[0], {"label": found[1]}


def ids_of(batches: Any) -> list[int]:
    """The numbers of the rows of batches."""
    return [int(n) for inputs, _ in batches for n in inputs.tolist()]
