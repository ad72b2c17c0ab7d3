"""ImageRows: rows of files through a DataLoader, the cache, several image columns, files that do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lepton.data import ImageRows, decode_image, decode_mask
from lepton.errors import ConfigurationError, DataError

ROWS = 6


@pytest.fixture
def files(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    generator = np.random.default_rng(0)
    images, masks = [], []
    for row in range(ROWS):
        images.append(tmp_path / f"image{row}.png")
        masks.append(tmp_path / f"mask{row}.png")
        Image.fromarray(generator.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(images[-1])
        Image.fromarray(generator.integers(0, 3, (12, 10), dtype=np.uint8)).save(masks[-1])
    return images, masks


def make(files: tuple[list[Path], list[Path]], **options: object) -> ImageRows:
    images, masks = files
    defaults = {
        "size": (6, 5),
        "inputs": {"numbers": torch.arange(ROWS * 2.0).reshape(ROWS, 2)},
        "targets": {"kind": torch.arange(ROWS)},
        "masks": {"surface": masks},
        "classes": {"surface": 3},
    }
    return ImageRows(images, **{**defaults, **options})  # type: ignore[arg-type]


def same(first: object, second: object) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_row_is_its_files_and_its_labels(files: tuple[list[Path], list[Path]]) -> None:
    inputs, targets = make(files)[-2]
    same(inputs, {"numbers": torch.tensor([8.0, 9.0]), "image": decode_image(files[0][4], (6, 5))})
    same(targets, {"kind": torch.tensor(4), "surface": decode_mask(files[1][4], (6, 5))})
    with pytest.raises(IndexError):
        make(files)[ROWS]
    assert len([*make(files)]) == ROWS


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_the_same_batches_with_and_without_a_cache(
    files: tuple[list[Path], list[Path]], workers: int
) -> None:
    plain = [*DataLoader(make(files), batch_size=4)]
    rows = make(files, cache_bytes=10**6)
    loader = DataLoader(rows, batch_size=4, num_workers=workers, multiprocessing_context="fork" if workers else None)
    for _ in range(2):
        same([*loader], plain)
    for path in [*files[0], *files[1]]:
        path.unlink()  # what was decoded, in workers that are gone by now, is not read again
    same([*loader], plain)


def test_the_cache_keeps_no_more_than_its_bound(files: tuple[list[Path], list[Path]]) -> None:
    row_bytes = 3 * 30 + 30 + 1
    rows = make(files, cache_bytes=3 * row_bytes + 5)
    before = [*rows]
    for path in files[0]:
        path.unlink()
    same([rows[row] for row in range(3)], before[:3])
    with pytest.raises(DataError, match=r"image3.png: there is no such"):
        rows[3]


def test_what_is_done_to_a_row_does_not_reach_the_cache(files: tuple[list[Path], list[Path]]) -> None:
    rows = make(files, cache_bytes=10**6)
    rows[0][0]["image"].zero_()
    rows[0][0]["image"].zero_()
    same(rows[0], make(files)[0])


def test_a_copy_for_another_process_has_a_cache_of_its_own(files: tuple[list[Path], list[Path]]) -> None:
    rows = make(files, cache_bytes=10**6)
    before = rows[0]
    twin = pickle.loads(pickle.dumps(rows))
    same(twin[0], before)
    same(twin[0], before)


def test_several_image_columns_some_of_them_missing(files: tuple[list[Path], list[Path]]) -> None:
    images = files[0]
    rows = ImageRows([[images[0], None], [images[1], images[2]], [None, None]], size=(6, 5), cache_bytes=10**6)
    for _ in range(2):
        inputs, _ = next(iter(DataLoader(rows, batch_size=3)))
        assert inputs["image"].shape == (3, 2, 3, 6, 5)
        assert inputs["image_missing"].tolist() == [[False, True], [False, False], [True, True]]
        same(inputs["image"][1, 1], decode_image(images[2], (6, 5)))
        assert not inputs["image"][2].any()


def test_a_row_without_a_mask_has_missing_pixels(files: tuple[list[Path], list[Path]]) -> None:
    masks = [None, *files[1][1:]]
    rows = make(files, masks={"surface": masks}, cache_bytes=10**6)
    for _ in range(2):
        assert (rows[0][1]["surface"] == 255).all()
    wide = make(files, masks={"surface": masks}, classes={"surface": 300}, missing=-100, cache_bytes=10**6)
    for _ in range(2):
        assert wide[0][1]["surface"].dtype == torch.int64
        assert (wide[0][1]["surface"] == -100).all()
        same(wide[1][1]["surface"], decode_mask(files[1][1], (6, 5)).long())


def test_masks_that_do_not_fit_are_named(files: tuple[list[Path], list[Path]]) -> None:
    Image.fromarray(np.full((12, 10), 3, dtype=np.uint8)).save(files[1][1])
    with pytest.raises(DataError, match=r"mask1.png.*holds \[3\]; allowed are the classes 0 to 2, and 255"):
        make(files)[1]
    Image.fromarray(np.zeros((10, 12), dtype=np.uint8)).save(files[1][2])
    with pytest.raises(DataError, match=r"mask2.png.*\[10, 12\].*image2.png is \[12, 10\]"):
        make(files)[2]


def test_a_worker_names_the_file_that_it_cannot_read(files: tuple[list[Path], list[Path]]) -> None:
    files[0][3].write_bytes(files[0][3].read_bytes()[:60])
    with pytest.raises(DataError, match=r"image3.png: this image cannot be read"):
        [*DataLoader(make(files), batch_size=2, num_workers=1, multiprocessing_context="fork")]


def test_a_turned_photograph_and_its_upright_mask_fit(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 100)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("L", (100, 400)).save(tmp_path / "m.png")
    rows = ImageRows([tmp_path / "a.jpg"], size=(8, 8), masks={"surface": [tmp_path / "m.png"]}, classes={"surface": 2})
    assert rows[0][1]["surface"].shape == (8, 8)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"targets": {"kind": torch.arange(3)}}, DataError, "6 rows of images, but 3 of 'kind'"),
        ({"classes": {"surfaces": 3}}, ConfigurationError, "surfaces"),
        ({"targets": {"surface": torch.arange(ROWS)}}, ConfigurationError, "targets and among the masks"),
        ({"cache_bytes": -1}, ConfigurationError, "cache_bytes"),
        ({"size": (6,)}, ConfigurationError, "size"),
    ],
)
def test_what_it_refuses(files, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make(files, **options)


def test_wrong_rows(files: tuple[list[Path], list[Path]]) -> None:
    with pytest.raises(DataError, match="no rows"):
        ImageRows([], size=(4, 4))
    with pytest.raises(DataError, match="different numbers"):
        ImageRows([["a.png"], ["a.png", "b.png"]], size=(4, 4))
    with pytest.raises(DataError, match="row 1 has no image"):
        ImageRows(["a.png", None], size=(4, 4))  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="masks go with one image"):
        ImageRows([["a.png"]], size=(4, 4), masks={"m": ["m.png"]}, classes={"m": 2})
