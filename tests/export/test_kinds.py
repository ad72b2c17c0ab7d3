"""Exported runs that read pictures, texts and recordings say what the runs say, at any length and number of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton
from lepton.errors import ConfigurationError, ExportError
from lepton.export import Export, ExportedModel
from lepton.run import Run
from tests.export.test_tables import same
from tests.run.test_pictures import N, fit, pairs, save

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TRUNK = {"type": "transformer", "width": 16, "depth": 1, "heads": 2, "dropout": 0.0}
TRAINING = {"max_epochs": 1, "batch_size": 16, "learning_rate": 1e-2, "num_workers": 0}


def exported(run: Run, place: Path) -> tuple[Export, ExportedModel]:
    found = run.export(place / "exported")
    return found, ExportedModel(found.folder)


def shapes(found: Export) -> dict[str, tuple[Any, ...]]:
    return {port.name: port.shape for port in found.manifest.inputs}


# -- pictures -----------------------------------------------------------------------------------------------------
def test_masks(tmp_path: Path) -> None:
    source = pairs(tmp_path / "pictures")
    run = fit(str(source), ["label"], tmp_path / "run", trunk={"type": "unet", "width": 8, "depth": 2})
    found, model = exported(run, tmp_path)
    assert shapes(found) == {"image": ("batch", 3, 16, 12)}
    expected, said = run.predict(str(source / "image")), model.predict(str(source / "image"), batch_size=5)
    assert len({int(value) for mask in expected["label"] for value in np.unique(mask)}) > 1
    assert all(np.array_equal(*masks) for masks in zip(expected["label"], said["label"], strict=True))


def test_classes_of_pictures_of_any_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(N):
        top = 100 if i % 2 else 255
        save(tmp_path / "pictures" / ("dark" if i % 2 else "light") / f"{i}.png", rng.integers(0, top, (9 + i, 8, 3)))
    run = fit(str(tmp_path / "pictures"), ["label"], tmp_path / "run", trunk={"type": "conv", "width": 8})
    _, model = exported(run, tmp_path)
    same(run.predict(str(tmp_path / "pictures")), model.predict(str(tmp_path / "pictures"), batch_size=3))


def test_two_pictures_of_which_some_are_missing_beside_a_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(N):
        save(tmp_path / f"{i}.png", rng.integers(0, 255, (8, 8, 3)))
    paths = [str(tmp_path / f"{i}.png") for i in range(N)]
    rows = {
        "a": [path if i % 3 else None for i, path in enumerate(paths)],
        "b": [path if i % 4 else None for i, path in enumerate(reversed(paths))],
        "size": [None if i % 5 == 0 else float(i) for i in range(N)],
        "y": [0.5 * i for i in range(N)],
    }
    run = fit(rows, ["y"], tmp_path / "run", trunk={"type": "mixed", "width": 16, "image": {"width": 8, "stages": 2}})
    found, model = exported(run, tmp_path)
    assert shapes(found)["image"] == ("batch", 2, 3, 8, 8)
    same(run.predict(rows), model.predict(rows, batch_size=7))


# -- texts --------------------------------------------------------------------------------------------------------
def test_columns_of_tokens(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from tests.run import test_text_inputs as texts

    run = texts.fit(tmp_path / "run", kinds=texts.TEXTS)
    found, model = exported(run, tmp_path)
    assert shapes(found)["tokens"] == ("batch", 2, "length")
    rows = texts.rows(20)
    same(run.predict(rows), model.predict(rows, batch_size=3))
    empty = {"title": ["", None], "body": [None, " "], "size": [1.0, 2.0]}
    same(run.predict(empty), model.predict(empty), scale=100.0)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from tests.run.test_texts import tagged

    tasks = {"tags": "token_classification", "next": "language_modeling"}
    folder = tmp_path_factory.mktemp("runs") / "tags"
    return lepton.fit(tagged(), tasks, trunk=TRUNK, training=TRAINING, folder=folder, quiet=True)


def test_tags_and_perplexities_of_words(tagger: Run, tmp_path: Path) -> None:
    from tests.run.test_texts import tagged

    found, model = exported(tagger, tmp_path)
    assert shapes(found) == {
        "characters": ("batch", "length", "letters"),
        "next_tokens": ("batch", "length"),
        "tokens": ("batch", "length"),
    }
    same(tagger.predict(tagged(30)), model.predict(tagged(30), batch_size=4))
    for source in (["a", "the dog sleeps a a unheard"], {"words": [["the"], None, [], ["dog"] * 200]}, {"words": [[]]}):
        expected = tagger.predict(source)
        same(expected[["tags"]], model.predict(source, tasks="tags"))
        said = model.predict(source, tasks="next")["next_perplexity"]
        np.testing.assert_allclose(said, expected["next_perplexity"], rtol=1e-5)


def test_a_translation_is_left_out_with_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("sacrebleu")
    from tests.run.test_texts import TASKS, sentences

    options: dict[str, Any] = {"trunk": TRUNK, "training": TRAINING, "quiet": True}
    run = lepton.fit(sentences(), {**TASKS, "animal": "auto"}, folder=tmp_path / "run", **options)
    found, model = exported(run, tmp_path)
    assert list(found.manifest.left_out) == ["german"] and model.tasks == ["english", "animal"]
    for source in (sentences(20), ["the dog", ""]):  # with the second text beside the first, and without
        same(run.predict(source, tasks=["english", "animal"]), model.predict(source))
    with pytest.raises(ConfigurationError, match=r"'german'.*left out: a translation is searched for"):
        model.predict(["the dog"], tasks=["german"])
    only = lepton.fit(sentences(), {"german": TASKS["german"]}, ignore=["animal"], folder=tmp_path / "only", **options)
    with pytest.raises(ExportError, match="no task of this run can be exported: 'german': a translation"):
        only.export(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# -- recordings ---------------------------------------------------------------------------------------------------
def test_transcripts_and_speakers(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("jiwer")
    from tests.run.test_speech import RATE, TASKS, recordings
    from tests.run.test_speech import TRUNK as ACOUSTIC

    (tmp_path / "sounds").mkdir()
    rows = recordings(tmp_path / "sounds", 40)
    tasks = {**TASKS, "said": {**TASKS["said"], "beam": 3}}
    data = {"augment": False}
    run = lepton.fit(rows, tasks, trunk=ACOUSTIC, training=TRAINING, folder=tmp_path / "run", data=data, quiet=True)
    found, model = exported(run, tmp_path)
    assert list(found.manifest.left_out) == ["voice"] and found.manifest.beams == {"said": 3}
    hop = run.model.trunk.front.hop
    assert shapes(found) == {"samples": ("batch",), "waveform": ("batch", f"{2 * hop}*steps")}
    short, stereo = str(tmp_path / "short.wav"), str(tmp_path / "stereo.flac")
    soundfile.write(short, np.full(10, 0.1), RATE)
    soundfile.write(stereo, np.random.default_rng(0).normal(size=(30001, 2)) * 0.1, 22050)
    for source in (rows, short, [stereo, short]):
        expected, said = run.predict(source, tasks=["said", "who"]), model.predict(source, batch_size=7)
        assert list(said) == list(expected) and said["said"].tolist() == expected["said"].tolist()
        for name in expected:
            if expected[name].dtype.kind == "f":
                np.testing.assert_allclose(said[name], expected[name], rtol=1e-3, atol=1e-4)
