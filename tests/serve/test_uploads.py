"""Pictures that are uploaded: predicted as files are, and refused when they are no pictures, too large, or paths."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lepton.export import ExportedModel
from lepton.serve import Limits, make_app
from lepton.serve._engine import Engine, Work
from lepton.serve._problem import Problem
from lepton.serve._request import RequestReader
from tests.serve.conftest import picture

testclient = pytest.importorskip("starlette.testclient")

LIMITS = Limits(max_rows=6, max_pixels=200 * 200, max_body=300_000)
ALL = ("left", "pixels", "sum")


@pytest.fixture(scope="module")
def client(picture_model: ExportedModel) -> Iterator[Any]:
    with testclient.TestClient(make_app(picture_model, LIMITS)) as found:
        yield found


def upload(client: Any, *files: bytes, name: str = "scene", **options: Any) -> Any:
    return client.post("/predict/file", files=[(name, (f"{i}.png", file)) for i, file in enumerate(files)], **options)


def expected(model: ExportedModel, folder: Path, files: list[bytes]) -> dict[str, Any]:
    paths = [folder / f"{number}.any" for number in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file)
    return model.predict({"scene": [str(path) for path in paths]}).to_dict("list")  # type: ignore[no-any-return]


# -- answers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("form", "mode"), [("PNG", "L"), ("PNG", "RGB"), ("JPEG", "RGB"), ("GIF", "L"), ("BMP", "L")])
def test_the_answer_is_that_of_the_file(
    client: Any, picture_model: ExportedModel, tmp_path: Path, form: str, mode: str
) -> None:
    files = [picture(seed, (40, 30), form, mode) for seed in range(3)]
    wanted = expected(picture_model, tmp_path, files)
    found = upload(client, *files).json()["predictions"]
    assert [row["left"] for row in found] == wanted["left"]
    for row in range(3):
        assert found[row]["sum"] == pytest.approx(wanted["sum"][row], rel=1e-5)
        assert found[row]["pixels"] == wanted["pixels"][row].tolist()
    assert found[0]["sum"] != found[1]["sum"]
    alone = client.post("/predict/file", content=files[1], headers={"content-type": "image/any"})
    assert alone.json()["predictions"][0]["left"] == found[1]["left"]
    assert alone.json()["predictions"][0]["sum"] == pytest.approx(found[1]["sum"], rel=1e-5)


def test_some_tasks(client: Any) -> None:
    (row,) = upload(client, picture(), params={"tasks": ["sum"]}).json()["predictions"]
    assert list(row) == ["sum"]
    (row,) = upload(client, picture(), data={"tasks": ["sum", "pixels"]}).json()["predictions"]
    assert list(row) == ["pixels", "sum"]


# -- what is refused ----------------------------------------------------------------------------------------------
def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that says that it is large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


REFUSED = {
    "no picture": (b"hello", 422, "is none of the formats"),
    "nothing": (b"", 422, "is empty"),
    "another format": (picture(form="TIFF"), 422, "is none of the formats"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "is none of the formats"),
    "an address": (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', 422, "is none of the formats"),
    "cut off": (picture(size=(60, 60), mode="RGB")[:3000], 422, "cannot be read"),
    "cut off in the head": (picture()[:20], 422, ""),
    "above the limit": (picture(size=(201, 200)), 413, "201 x 200 pixels, above the limit of 40000"),
    "a bomb": (bomb(30_000, 30_000), 413, "pixels"),
    "a large bomb": (bomb(2_000_000_000, 2_000_000_000), 413, "pixels"),
    "too large": (picture(size=(200, 200), form="BMP", mode="RGB") * 3, 413, "larger than the limit of 300000 bytes"),
}


@pytest.mark.parametrize("fault", REFUSED)
@pytest.mark.parametrize("way", ["form", "alone"])
def test_what_is_no_picture_is_refused(client: Any, fault: str, way: str) -> None:
    file, status, words = REFUSED[fault]
    answer = (
        upload(client, file)
        if way == "form"
        else client.post("/predict/file", content=file, headers={"content-type": "image/png"})
    )
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert upload(client, picture()).status_code == 200


def test_a_path_is_never_read(client: Any, picture_folder: Path) -> None:
    there = picture_folder.parent / "0.png"
    assert there.is_file()
    answer = client.post("/predict", json={"rows": [{"scene": str(there)}]})
    assert answer.status_code == 422 and "which no request may read" in answer.json()["detail"]
    answer = client.post("/predict/file", files={"scene": (None, str(there))})  # a field of the form, and no file
    assert answer.status_code == 422 and "came as a text: send a file" in answer.json()["detail"]
    answer = client.post("/predict/file", content=str(there).encode(), headers={"content-type": "image/png"})
    assert answer.status_code == 422 and "none of the formats" in answer.json()["detail"]
    answer = client.post("/predict/file", files={"scene": (str(there), b"")})
    assert answer.status_code == 422 and "is empty" in answer.json()["detail"]


FORMS = {
    "no file": ({"files": {"tasks": (None, "sum")}}, 422, "holds no file 'scene'"),
    "another name": ({"files": {"photo": ("a.png", picture())}}, 422, "a file 'photo', but the model reads ['scene']"),
    "an unknown field": ({"files": {"scene": ("a.png", picture())}, "data": {"size": "3"}}, 422, "holds 'size'"),
    "an unknown task": ({"files": {"scene": ("a.png", picture())}, "data": {"tasks": "summ"}}, 422, "mean 'sum'"),
    "too many": ({"files": [("scene", (f"{i}.png", picture())) for i in range(7)]}, 413, "7 files, but may have 6"),
    "no boundary": ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422, "cannot be read"),
    "no form": (
        {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        422,
        "cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FORMS)
def test_forms_that_do_not_fit(client: Any, fault: str) -> None:
    options, status, words = FORMS[fault]
    answer = client.post("/predict/file", **options)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


# -- together -----------------------------------------------------------------------------------------------------
def test_a_broken_picture_does_not_fail_the_others_of_its_batch(picture_model: ExportedModel) -> None:
    engine = Engine(picture_model, RequestReader(picture_model).columns, 64)
    good = [Work([{"scene": picture(seed)}], ALL) for seed in range(3)]
    broken = Work([{"scene": picture(9)}, {"scene": picture(size=(60, 60), mode="RGB")[:3000]}], ALL)
    found = engine([good[0], broken, *good[1:]])
    assert isinstance(found[1], Problem) and found[1].status == 422 and "cannot be read" in str(found[1])
    for answer, work in zip([found[0], *found[2:]], good, strict=True):
        alone = engine([work])[0]
        assert isinstance(answer, bytes) and isinstance(alone, bytes)
        one, other = (json.loads(text)["predictions"][0] for text in (answer, alone))
        assert one["left"] == other["left"] and one["sum"] == pytest.approx(other["sum"], rel=1e-5)


class Stumbling(Engine):
    """Fails where a picture is of one size, as a graph might."""

    def _predict(self, rows: Any, tasks: Any) -> Any:
        if any(int(row["scene"].sum()) == 0 for row in rows):
            raise RuntimeError("the graph cannot be run")
        return super()._predict(rows, tasks)


def test_whoever_makes_a_batch_fail_fails_alone(picture_model: ExportedModel, caplog: pytest.LogCaptureFixture) -> None:
    from PIL import Image

    Image.new("L", (14, 10), 0).save(black := io.BytesIO(), "PNG")
    engine = Stumbling(picture_model, RequestReader(picture_model).columns, 64)
    good = Work([{"scene": picture(1)}], ("sum",))
    found = engine([good, Work([{"scene": black.getvalue()}], ("sum",)), good])
    assert isinstance(found[1], Problem) and found[1].status == 500 and "the server's log says why" in str(found[1])
    assert found[0] == found[2] and isinstance(found[0], bytes) and found[0].startswith(b'{"predictions":[{"sum":')
    assert "the graph cannot be run" in caplog.text
