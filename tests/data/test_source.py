"""Whatever people keep rows in becomes one plain table, or an error that says what is wrong with it."""

from __future__ import annotations

import datetime as dt
import decimal
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lepton.data import read_table
from lepton.errors import DataError

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")


def write(folder: Path, name: str, text: str | bytes) -> Path:
    content = text.encode() if isinstance(text, str) else text
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


PLAIN = {"a": [1, 2], "b": ["x, y", "z"]}
FILES: dict[str, str | bytes] = {
    "comma.csv": 'a,b\n1,"x, y"\n2,z\n',
    "semicolon.csv": "a;b\n1;x, y\n2;z\n",
    "tab.csv": "a\tb\n1\tx, y\n2\tz\n",
    "tab.tsv": "a\tb\n1\tx, y\n2\tz\n",
    "pipe.txt": "a|b\n1|x, y\n2|z\n",
    "mark.csv": b"\xef\xbb\xbf" + b'a,b\n1,"x, y"\n2,z\n',
    "windows.csv": 'a,b\r\n1,"x, y"\r\n2,z\r\n',
    "old_mac.csv": 'a,b\r1,"x, y"\r2,z\r',
    "spaces.csv": ' a , b \n1,"x, y"\n2, z \n',
    "trailing.csv": 'a,b,\n1,"x, y",\n2,z,\n',
    "packed.csv.gz": 'a,b\n1,"x, y"\n2,z\n',
    "UPPER.CSV": 'a,b\n1,"x, y"\n2,z\n',
    "lines.jsonl": '{"a": 1, "b": "x, y"}\n{"a": 2, "b": "z"}\n',
    "packed.jsonl.gz": '{"a": 1, "b": "x, y"}\n\n{"a": 2, "b": "z"}\n',
    "array.json": json.dumps([{"a": 1, "b": "x, y"}, {"a": 2, "b": "z"}], indent=2),
}


@pytest.mark.parametrize("name", FILES)
def test_every_way_of_writing_a_table_reads_as_the_same_one(name: str, tmp_path: Path) -> None:
    assert read_table(write(tmp_path, name, FILES[name])).to_pydict() == PLAIN


def test_binary_files(tmp_path: Path) -> None:
    frame = pd.DataFrame(PLAIN)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_feather(tmp_path / "a.feather")
    table = pa.Table.from_pandas(frame)
    with pa.OSFile(str(tmp_path / "stream.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "a.feather", "stream.arrow"):
        assert read_table(tmp_path / name).to_pydict() == PLAIN


def test_quotes_may_hold_delimiters_quotes_and_ends_of_lines(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "a.csv", '"a;b","c d"\n"x\ny","he said ""no"", twice"\n'))
    assert table.to_pydict() == {"a;b": ["x\ny"], "c d": ['he said "no", twice']}


def test_words_for_missing_are_missing_and_keys_that_lines_lack_too(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "a.csv", "a,b\n1, ?\nNA,x\n")).to_pydict() == {"a": [1, None], "b": [None, "x"]}
    lines = write(tmp_path, "a.jsonl", '{"a": 1}\n{"b": "x"}\n')
    assert read_table(lines).to_pydict() == {"a": [1, None], "b": [None, "x"]}


def test_a_comma_is_a_decimal_point_where_it_is_no_delimiter(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "a.csv", "a;b\n1,5;x\n-3;y\n")).to_pydict()["a"] == [1.5, -3.0]
    assert read_table(write(tmp_path, "b.csv", 'a,b\n"1,5",x\n')).to_pydict()["a"] == ["1,5"]


def test_types_that_change_late_in_a_file_become_text(tmp_path: Path) -> None:
    lines = write(tmp_path, "a.jsonl", '{"a": 1}\n{"a": "x"}\n')
    assert read_table(lines).to_pydict() == {"a": ["1", "x"]}
    table = read_table(write(tmp_path, "a.csv", "a,b\n" + "1,2\n" * 300_000 + "x,3\n"))
    assert table.column("a")[-1].as_py() == "x"
    assert table.num_rows == 300_001


def test_a_few_malformed_rows_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lepton"):
        table = read_table(write(tmp_path, "a.csv", "a,b\n" + "1,2\n" * 300 + "1,2,3\n"))
    assert table.num_rows == 300
    assert "row 302, which has 3 instead of 2" in caplog.text


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "empty.csv": ("", "is empty"),
    "header.csv": ("a,b\n", "header but no rows"),
    "malformed.csv": ("a,b\n1,2\n3\n4,5,6\n", "2 of 3 rows have the wrong number of columns.*is the delimiter right"),
    "latin.csv": ("a,b\nMünchen,1\n".encode("latin-1"), "UTF-8"),
    "latin_late.csv": (b"a,b\n" + b"x,1\n" * 40_000 + b"M\xfcnchen,1\n", "UTF-8"),
    "wide.csv": ("a,b\n1,2\n".encode("utf-16"), "UTF-8"),
    "zero.csv": (b"a,b\n1,\x00\n", "UTF-8"),
    "twice.csv": ("a, a\n1,2\n", "more than one column named 'a'"),
    "broken.jsonl": ('{"a": 1}\n{"a":\n', "line 2, is no JSON"),
    "scalars.jsonl": ("1\n2\n", "line 1, must hold an object"),
    "scalars.json": ("[1, 2]", "must hold objects"),
    "unclosed.json": ('[{"a": 1}', "is no JSON"),
    "blank.jsonl": ("\n", "no columns"),
    "no.parquet": ("nope", "cannot be read"),
    "no.arrow": ("nope", "cannot be read"),
    "sheet.xlsx": ("nope", "its ending must be one of .csv"),
    "no_ending": ("a,b\n1,2\n", "its ending must be one of .csv"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_read_say_why(name: str, tmp_path: Path) -> None:
    content, words = REFUSED[name]
    with pytest.raises(DataError, match=words) as caught:
        read_table(write(tmp_path, name, content))
    assert name in str(caught.value)


def test_a_file_that_is_not_packed_although_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"a.csv.gz.*cannot be read"):
        read_table(tmp_path / "a.csv.gz")


def test_the_nearest_file_is_offered(tmp_path: Path) -> None:
    write(tmp_path, "houses.csv", "a\n1\n")
    with pytest.raises(DataError, match=r"Did you mean 'houses.csv'"):
        read_table(tmp_path / "house.csv")


# -- memory -------------------------------------------------------------------------------------------------------
MOMENT = dt.datetime(1950, 1, 5, 12, tzinfo=dt.timezone(dt.timedelta(hours=5)))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1, "a", 2.5, None], ["1", "a", "2.5", None]),
        ([2**70, 1], [str(2**70), "1"]),
        ([decimal.Decimal("3.50"), None], [3.5, None]),
        ([dt.timedelta(minutes=1), None], [60.0, None]),
        ([dt.time(1, 0, 5)], [3605.0]),
        ([True, None], [True, None]),
        ([float("nan"), 1.0], [None, 1.0]),
        (pa.array([float("nan"), 1.0]), [None, 1.0]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array([None, None]), [None, None]),
        (torch.arange(2), [0, 1]),
        (np.array(["1960-01-01"], "datetime64[D]"), [dt.date(1960, 1, 1)]),
        ([MOMENT], [MOMENT]),
        (pd.array([1, None], "Int64"), [1, None]),
        (pd.array([True, None], "boolean"), [True, None]),
        (pd.array(["a", None], "string"), ["a", None]),
        (pd.Categorical(["b", None, "a"]), ["b", None, "a"]),
        (pd.arrays.SparseArray([0, 1]), [0, 1]),
        (pd.period_range("2020-01", periods=2, freq="M"), ["2020-01", "2020-02"]),
        (np.array([pd.NA, "a", 1], dtype=object), [None, "a", "1"]),
    ],
    ids=str,
)
def test_columns_in_memory_become_plain_ones(column: Any, expected: list[Any]) -> None:
    table = pa.table({"a": column}) if isinstance(column, pa.Array) else {"a": column}
    assert read_table(table).column("a").to_pylist() == expected


def test_a_frames_index_does_not_matter_and_its_names_become_words() -> None:
    frame = pd.DataFrame({0: [1, 2], "b": ["x", None]}, index=[7, 3])
    assert read_table(frame).to_pydict() == {"0": [1, 2], "b": ["x", None]}
    for twice in (["a", "a"], [1, "1"]):
        with pytest.raises(DataError, match="more than one column named"):
            read_table(pd.DataFrame([[1, 2]], columns=twice))


@pytest.mark.parametrize("same", [PLAIN, [{"a": 1, "b": "x, y"}, {"a": 2, "b": "z"}], pa.table(PLAIN)])
def test_mappings_rows_and_tables_are_the_same_table(same: Any) -> None:
    assert read_table(same).to_pydict() == PLAIN
    assert read_table(pa.RecordBatch.from_pydict(PLAIN)).to_pydict() == PLAIN


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"a": 1}, "column 'a' must be a list or an array"),
        ({"a": "abc"}, "column 'a' must be a list or an array"),
        ({"a": np.zeros((2, 2))}, "one dimension"),
        ({"a": [1], "b": [1, 2]}, "different lengths"),
        ({"a": (i for i in range(3))}, "column 'a' must be"),
        (np.zeros((2, 2)), "not from ndarray"),
        ([[1, 2]], "not from list"),
        (pd.Series([1, 2]), "not from Series"),
        (None, "not from NoneType"),
        ({}, "no columns"),
        (pd.DataFrame({"a": []}), "no rows"),
        (pa.table([[1], [2]], names=["a", "a"]), "more than one column"),
    ],
)
def test_what_is_no_table(source: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_table(source)


# -- folders ------------------------------------------------------------------------------------------------------
def picture(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)
    return str(path)


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    files = [picture(tmp_path / name) for name in ("cat/1.jpg", "cat/1.png", "dog/7.png")]
    assert read_table(tmp_path).to_pydict() == {"image": files, "label": ["cat", "cat", "dog"]}


def test_folders_of_files_that_belong_together(tmp_path: Path) -> None:
    files = {kind: [picture(tmp_path / kind / f"{i}.png") for i in range(3)] for kind in ("image", "label")}
    assert read_table(tmp_path).to_pydict() == files
    picture(tmp_path / "image" / "9.png")
    with pytest.raises(DataError, match="'9' is in one of them only"):
        read_table(tmp_path)


def test_a_folder_with_a_table_of_its_files(tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png")
    write(tmp_path, "metadata.csv", "file,y\nx.png,1\n,2\n")
    assert read_table(tmp_path).to_pydict() == {"file": [path, None], "y": [1, 2]}


def test_a_folder_of_pictures_alone_and_folders_without_any(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        read_table(tmp_path)
    path = picture(tmp_path / "train" / "cat" / "x.png")
    with pytest.raises(DataError, match="sub-folders meant, \\['train'\\]"):
        read_table(tmp_path)
    assert read_table(tmp_path / "train" / "cat").to_pydict() == {"image": [path]}
