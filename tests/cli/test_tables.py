"""The verbs for tables: exit codes, what goes to which stream, and files that work as they are written."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import lepton
from lepton.cli._main import app
from lepton.config import read_config
from lepton.data import read_table
from lepton.run import prepare

pa = pytest.importorskip("pyarrow")

SHORT = ["--set", "training.max_epochs=1"]
ODD = [
    "a: b",
    "#x",
    "yes",
    "1",
    "ü",
    "null",
    "- q",
    "'",
    '"',
    "~",
    "{",
    "&a",
    "*a",
    "!t",
    "|",
    "@",
    "%",
    "1e3",
    "2020-01-01",
    "a,b",
]
N = 60


def lepton_(*arguments: Any, **options: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {name: rng.normal(size=N) for name in ODD}
    columns |= {"yes": ["p", "q"] * 30, "ü": rng.integers(0, 2, N), "null": ["k", "l", "m"] * 20}
    import pyarrow.csv as arrow_csv

    arrow_csv.write_csv(pa.table(columns), folder / "t.csv")
    return folder


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    done = lepton_("fit", place / "t.csv", "-t", "a: b", "-t", "yes", *SHORT, "--json", "--folder", place / "run")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found.keys() == {"run", "results", "notes"}
    assert found["results"]["test"].keys() == {"a: b", "yes"}
    return Path(found["run"])


def test_json_is_one_object_and_nothing_else(place: Path, run: Path) -> None:
    for verb in (["evaluate", run], ["evaluate", run, place / "t.csv"], ["predict", run, place / "t.csv"]):
        done = lepton_(*verb, "--json")
        assert (done.exit_code, done.stderr) == (0, "")
        assert isinstance(json.loads(done.stdout), dict)
        assert done.stdout.count("\n") == 1
    rows = json.loads(lepton_("predict", run, place / "t.csv", "--json").stdout)["rows"]
    assert len(rows) == N
    assert rows[0]["yes"] in ("p", "q")


def test_rows_that_trained_are_said_to_have_trained(place: Path, run: Path) -> None:
    def evaluate(*arguments: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lepton", "evaluate", *map(str, (run, *arguments, "--json"))]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    own, whole = evaluate("--part", "test"), evaluate(place / "t.csv")
    assert own.stderr == "" and json.loads(own.stdout).keys() == {"a: b", "yes"}
    (note,) = json.loads(whole.stdout)["notes"]
    assert whole.stderr == note + "\n"
    assert "42 of its 60 rows trained" in note and "--part test" in note
    assert lepton_("evaluate", run, place / "t.csv", "--part", "test").exit_code == 2


def test_quiet_says_nothing(place: Path, run: Path) -> None:
    fit = lepton_("fit", place / "t.csv", "-t", "ü", *SHORT, "--quiet", "--folder", place / "quiet")
    again = lepton_("fit", place / "t.csv", "-t", "ü", *SHORT, "--quiet", "--folder", place / "quiet")
    for done in (fit, again, lepton_("evaluate", run, "--quiet"), lepton_("predict", run, place / "t.csv", "-q")):
        assert (done.exit_code, done.output) == (0, "")
    assert (place / "quiet-2" / "run.json").exists()


@pytest.mark.parametrize("how", ["option", "environment"])
def test_plain_has_no_colours_and_no_frames(how: str, place: Path, run: Path) -> None:
    flag, env = (["--plain"], {}) if how == "option" else ([], {"NO_COLOR": "1"})
    verbs: list[list[Any]] = [
        ["fit", place / "t.csv", "-t", "ü", *SHORT, "--folder", place / "plain"],
        ["evaluate", run],
        ["predict", run, place / "t.csv"],
    ]
    for verb in verbs:
        done = lepton_(*verb, *flag, env=env)
        assert done.exit_code == 0
        assert done.output.strip()
        assert "\x1b" not in done.output
        assert not [letter for letter in done.output if "\u2500" <= letter <= "\u259f"]


def test_predictions_are_written_and_never_over_a_file(place: Path, run: Path) -> None:
    for ending in ("csv", "parquet", "jsonl"):
        target = place / f"predicted.{ending}"
        assert lepton_("predict", run, place / "t.csv", "-o", target).exit_code == 0
        assert read_table(target).num_rows == N
        assert read_table(target).column_names[:2] == ["a: b", "yes"]
        again = lepton_("predict", run, place / "t.csv", "-o", target)
        assert again.exit_code == 2
        assert "is there already" in again.stderr


def test_what_init_writes_trains_as_it_is(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = lepton_(
        "init", "--from", place / "t.csv", *(f"--target={name}" for name in ("a: b", "yes", "1", "ü", "2020-01-01"))
    )
    assert done.exit_code == 0, done.output
    assert lepton_("init", "--from", place / "t.csv", "-t", "1").exit_code == 2
    done = lepton_("train", "lepton.yaml", "training.max_epochs=1", "balance.method=mgda", "--json", "--folder", "run")
    assert done.exit_code == 0, done.output
    loaded = lepton.load("run")
    assert loaded.tasks == ["a: b", "yes", "1", "ü", "2020-01-01"]
    assert set(loaded.encoder.names) == set(ODD) - set(loaded.tasks)
    assert loaded.config.balance.method == "mgda"


def test_the_schema_accepts_what_init_writes(place: Path, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import yaml

    lepton_("init", "--from", place / "t.csv", "-t", "ü", "-t", "1", "-o", tmp_path / "c.yaml")
    content = yaml.safe_load((tmp_path / "c.yaml").read_text())
    schema = json.loads(lepton_("init", "--schema").stdout)
    jsonschema.validate(content, schema)
    short = {"tasks": ["a"], "balance": "mgda", "trunk": "tabular", "data": {"split": "random"}}
    jsonschema.validate(short, schema)
    for wrong in (
        {"trunk": "tablular"},
        {"balance": "mgd"},
        {"tasks": {"a": "clasification"}},
        {"data": {"inputs": {"x": "numbr"}}},
        {"data": {"sorce": "x"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**short, **wrong}, schema)


def test_init_shows_the_options_that_the_rows_give(place: Path, tmp_path: Path) -> None:
    lepton_("init", "--from", place / "t.csv", "-t", "ü", "-o", tmp_path / "c.yaml")
    text = (tmp_path / "c.yaml").read_text()
    shown = dict(re.findall(r"  # (learning_rate|batch_size|max_epochs|patience): (\S+)", text))
    training = prepare(read_config(tmp_path / "c.yaml")).config.training
    assert {name: float(value) for name, value in shown.items()} == {
        name: getattr(training, name) for name in ("learning_rate", "batch_size", "max_epochs", "patience")
    }


def test_a_source_beside_the_file_is_found_from_anywhere(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.yaml").write_text("data: {source: t.csv}\ntasks: ['ü']\n")
    shutil.copy(place / "t.csv", tmp_path / "t.csv")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert lepton_("validate", tmp_path / "c.yaml").exit_code == 0
    monkeypatch.chdir(tmp_path)
    assert read_config("c.yaml").data.source == "t.csv"


def test_init_shows_where_the_format_of_dates_is_told(tmp_path: Path) -> None:
    rows = [f"{1 + i % 12:02}/{1 + i % 10:02}/2026,{1 + i % 28}.{1 + i % 12}.2026,{i / 7}" for i in range(N)]
    (tmp_path / "t.csv").write_text("\n".join(["first,second,y", *rows]) + "\n")
    file = tmp_path / "t.yaml"
    assert lepton_("init", "--from", tmp_path / "t.csv", "-t", "y", "-o", file).exit_code == 0
    text = file.read_text()
    assert re.search(r"second: +date +# dates of the format %d.%m.%Y", text)
    told = text.replace("  # date_formats:", "  date_formats:").replace("  #   first:", "    first:")
    file.write_text(re.sub(r"(first: +)category", r"\1date", told))
    config = prepare(read_config(file)).config
    assert config.data.date_formats == {"first": "%d/%m/%Y", "second": "%d.%m.%Y"}
    assert config.data.inputs["first"].kind == "date"


def test_columns_are_kept_beside_the_predictions(place: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    done = lepton_("predict", run, place / "t.csv", "--keep", "#x", "-o", out)
    assert done.exit_code == 0, done.output
    found, rows = read_table(out), read_table(place / "t.csv")
    assert found.column_names[0] == "#x"
    assert [str(value) for value in found["#x"].to_pylist()] == [str(value) for value in rows["#x"].to_pylist()]
    task = lepton.load(run).tasks[0]
    assert lepton_("predict", run, place / "t.csv", "--keep", "no such").exit_code == 2
    refused = lepton_("predict", run, place / "t.csv", "--keep", task)
    assert refused.exit_code == 2 and "cannot be kept" in refused.output


def test_resuming_takes_nothing_to_change(run: Path) -> None:
    refused = lepton_("train", "--resume", run, "training.max_epochs=20")
    assert refused.exit_code == 2 and "no values to change" in refused.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "no.csv", "-t", "a"], "there is no file 'no.csv'"),
        (["fit", "{t}", "-t", "yess"], "Did you mean 'yes'"),
        (["fit", "{t}", "-t", "ü", "--kind", "x"], "--kind 'x' must be written name=value"),
        (["fit", "{t}", "-t", "ü", "--kind", "1=numbr"], "kinds.1"),
        (["fit", "{t}", "-t", "ü", "--set", "training.max_epoch=1"], "Did you mean 'max_epochs'"),
        (["fit", "{t}", "-t", "ü", "--balance", "cagrd"], "Did you mean 'cagrad'"),
        (["fit", "{t}", "-t", "ü", "--folder", "{t}/x"], "cannot be made"),
        (["fit", "{t}"], "--target"),
        (["train", "no.yaml"], "no.yaml cannot be read"),
        (["init"], "Give it with --from"),
        (["init", "--from", "{t}", "-o", "{t}.yaml"], "which columns are to be predicted"),
        (["evaluate", "{run}", "--part", "trian"], "must be train, val or test"),
        (["predict", "no_run", "{t}"], "there is no run 'no_run'"),
        (["predict", "{place}", "{t}"], "is no run"),
        (["predict", "{run}", "{t}", "--task", "yess"], "Did you mean 'yes'"),
        (["predict", "{run}", "{t}", "-o", "{place}/p.xlsx"], "the ending must be"),
        (["predict", "{run}", "{t}", "-o", "{t}/p.csv"], "File exists"),
        (["nope"], "No such command"),
    ],
)
def test_faults_are_one_paragraph_and_two(arguments: list[str], words: str, place: Path, run: Path) -> None:
    done = lepton_(*(part.format(t=place / "t.csv", run=run, place=place) for part in arguments))
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.output


VERBS = [c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands if c.callback]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_with_an_example(verb: str) -> None:
    done = lepton_(verb, "--help")
    assert done.exit_code == 0
    assert f"Example: lepton {verb}" in " ".join(done.stdout.split())


def test_the_version() -> None:
    assert lepton_("--version").stdout == f"lepton {lepton.__version__}\n"


# -- in a process of its own --------------------------------------------------------------------------------------
@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_is_one_line_and_130(place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lepton", "fit", str(place / "t.csv"), "-t", "ü", "--quiet", "--folder", "run"]
    command += ["--set", "training.max_epochs=100000", "--set", "training.patience=100000"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        limit = time.monotonic() + 60
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < limit:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.count("\n") == 1
    assert "interrupted" in err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["format"] == 1


def _limit_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on the size of files here")
def test_a_disk_that_takes_no_more_is_one_line_and_two(place: Path, run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lepton", "predict", str(run), str(place / "t.csv"), "-o", "p.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=_limit_files)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "p.jsonl").exists()
