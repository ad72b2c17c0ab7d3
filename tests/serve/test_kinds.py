"""Models of other kinds behind HTTP: pictures beside numbers, lists of words, recordings."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton
from lepton.export import ExportedModel
from lepton.serve import Limits, make_app
from tests.serve.conftest import picture

testclient = pytest.importorskip("starlette.testclient")

TRAINING = {"max_epochs": 1, "batch_size": 16, "num_workers": 0}


def exported(source: Any, tasks: Any, place: Path, **options: Any) -> ExportedModel:
    run = lepton.fit(source, tasks, training=TRAINING, folder=place / "run", quiet=True, **options)
    return ExportedModel(run.export(place / "exported").folder, threads=1)


@pytest.mark.slow
def test_pictures_that_may_be_missing_beside_a_number(tmp_path: Path) -> None:
    for i in range(24):
        (tmp_path / f"{i}.png").write_bytes(picture(i, (8, 8)))
    paths = [str(tmp_path / f"{i}.png") for i in range(24)]
    rows = {
        "a": [path if i % 3 else None for i, path in enumerate(paths)],
        "b": [path if i % 4 else None for i, path in enumerate(reversed(paths))],
        "size": [None if i % 5 == 0 else float(i) for i in range(24)],
        "y": [0.5 * i for i in range(24)],
    }
    trunk = {"type": "mixed", "width": 16, "image": {"width": 8, "stages": 2}}
    model = exported(rows, ["y"], tmp_path, trunk=trunk, data={"image_size": [8, 8]})
    wanted = model.predict(rows)["y"]
    assert wanted.nunique() > 5
    with testclient.TestClient(make_app(model)) as client:
        for i in range(6):
            files = {name: ("p", Path(rows[name][i]).read_bytes()) for name in ("a", "b") if rows[name][i]}
            answer = client.post("/predict/file", files=files | {"row": (None, json.dumps({"size": rows["size"][i]}))})
            assert answer.json()["predictions"][0]["y"] == pytest.approx(wanted[i], rel=1e-4, abs=1e-5)
        file = ("p", picture())
        for form, words in (
            ({"a": file}, "needs one field 'row'"),
            ({"a": file, "row": (None, "{")}, "the field 'row' is no JSON"),
            ({"a": file, "row": (None, '{"size": NaN}')}, "'size' is nan"),
            ({"a": file, "row": (None, '{"size": "3"}')}, "'size' must be a finite number"),
        ):
            answer = client.post("/predict/file", files=form)
            assert answer.status_code == 422 and words in answer.json()["detail"]
        answer = client.post("/predict/file", content=picture())
        assert answer.status_code == 422 and "send a form" in answer.json()["detail"]


@pytest.mark.slow
def test_lists_of_words(tmp_path: Path) -> None:
    from tests.run.test_texts import tagged

    trunk = {"type": "transformer", "width": 16, "depth": 1, "heads": 2, "dropout": 0.0}
    tasks = {"tags": "token_classification", "next": "language_modeling"}
    model = exported(tagged(), tasks, tmp_path, trunk=trunk)
    column = model.encoder.names[0]
    words = [["the", "dog"], [], ["the", "dog", "sleeps", "unheard"], None]
    wanted = model.predict({column: words}).to_dict("list")
    with testclient.TestClient(make_app(model)) as client:
        rows = [{column: value} for value in words]
        found = client.post("/predict", json={"rows": rows}).json()["predictions"]
        assert [row["tags"] for row in found] == [list(tags) for tags in wanted["tags"]]
        said = [row["next_perplexity"] for row in found]
        assert said[:3] == pytest.approx(wanted["next_perplexity"][:3], rel=1e-4)
        assert said[3] is None and np.isnan(wanted["next_perplexity"][3])
        (cut,) = client.post("/predict", json={"rows": {column: "the  dog"}}).json()["predictions"]
        assert cut["tags"] == found[0]["tags"]
        answer = client.post("/predict", json={"rows": {column: ["the", 3]}})
        assert answer.status_code == 422 and "must be a list of words" in answer.json()["detail"]


@pytest.mark.slow
def test_recordings(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("jiwer")
    from tests.run.test_speech import RATE, TASKS, TRUNK, recordings

    (tmp_path / "sounds").mkdir()
    rows = recordings(tmp_path / "sounds", 40)
    tasks = {name: TASKS[name] for name in ("said", "who")}
    model = exported(rows, tasks, tmp_path, trunk=TRUNK, data={"augment": False})
    files = [Path(path).read_bytes() for path in rows["audio"][:3]]
    wanted = model.predict({"audio": rows["audio"][:3]}).to_dict("list")
    soundfile.write(flac := io.BytesIO(), np.zeros(100), RATE, format="FLAC")
    with testclient.TestClient(make_app(model, Limits(max_rows=5))) as client:
        form = [("audio", (f"{i}.wav", file)) for i, file in enumerate(files)]
        found = client.post("/predict/file", files=form).json()["predictions"]
        assert [row["said"] for row in found] == wanted["said"]
        assert [row["who"] for row in found] == wanted["who"]
        assert client.post("/predict/file", content=flac.getvalue()).status_code == 200
        answer = client.post("/predict/file", files=[*form, ("audio", ("x", b"RIFF\0\0\0\0WAVEnothing"))])
        assert answer.status_code == 422 and answer.json()["detail"].startswith("recording 3.wav: ")
        answer = client.post("/predict/file", content=picture())
        assert answer.status_code == 422 and "none of the formats ['WAV', 'FLAC', 'OGG']" in answer.json()["detail"]
        answer = client.post("/predict", json={"rows": {"audio": rows["audio"][0]}})
        assert answer.status_code == 422 and "which no request may read" in answer.json()["detail"]
