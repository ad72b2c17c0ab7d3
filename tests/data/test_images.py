"""Decoding of images and masks: every kind of file, and files that cannot be read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lepton.data import decode_image, decode_mask
from lepton.errors import ConfigurationError, DataError


def colours(height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_come_as_they_are_stored(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png")
    found = decode_image(tmp_path / "a.png")
    assert found.dtype == torch.uint8
    assert np.array_equal(found.permute(1, 2, 0).numpy(), colours())
    assert decode_image(str(tmp_path / "a.png"), channels=4).shape == (4, 6, 8)
    assert decode_image(tmp_path / "a.png", channels=1).shape == (1, 6, 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_orientation_says(tmp_path: Path, orientation: int) -> None:
    """Orientation k means: the stored image, transformed by k, is upright. Undo it in numpy and compare."""
    upright = colours()
    stored = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda x: np.rot90(x, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode_image(tmp_path / "a.png").permute(1, 2, 0).numpy(), upright)


def test_palettes_greys_and_bits(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2, 1])
    palette.save(tmp_path / "p.png")
    assert decode_image(tmp_path / "p.png")[:, 0, 0].tolist() == [255, 0, 0]
    assert decode_image(tmp_path / "p.png")[:, 1, 0].tolist() == [0, 0, 255]
    Image.fromarray(np.array([[7, 90]], dtype=np.uint8)).save(tmp_path / "l.png")
    assert decode_image(tmp_path / "l.png").tolist() == [[[7, 90]]] * 3
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "1.png")
    assert decode_image(tmp_path / "1.png", channels=1).tolist() == [[[255, 0]]]
    Image.fromarray(np.array([[0, 256 * 7 + 3, 65535]], dtype=np.uint16)).save(tmp_path / "16.png")
    assert decode_image(tmp_path / "16.png", channels=1).tolist() == [[[0, 7, 255]]]
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "c.tiff")
    red, green, blue = decode_image(tmp_path / "c.tiff")[:, 0, 0].tolist()
    assert red > 200
    assert max(green, blue) < 60


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    hidden = np.zeros((1, 2, 4), dtype=np.uint8)
    hidden[0, 0] = [10, 20, 30, 255]
    hidden[0, 1] = [10, 20, 30, 0]
    Image.fromarray(hidden).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png")[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]
    assert decode_image(tmp_path / "a.png", channels=4)[3, 0].tolist() == [255, 0]
    grey = Image.fromarray(np.array([[5, 5]], dtype=np.uint8))
    grey.save(tmp_path / "g.png", transparency=5)
    assert decode_image(tmp_path / "g.png", channels=1).tolist() == [[[255, 255]]]


def test_a_reduced_image_is_the_mean_of_what_it_stands_for(tmp_path: Path) -> None:
    board = np.indices((32, 32)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "a.png")
    found = decode_image(tmp_path / "a.png", size=(4, 2)).float()
    assert found.shape == (3, 4, 2)
    assert float((found - 127.5).abs().max()) < 8


def test_a_large_jpeg_is_reduced_to_the_size_asked_for_in_either_orientation(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 640)[None, :, None] * np.ones((200, 1, 3))
    exif = Image.Exif()
    for orientation in (1, 6):
        exif[0x0112] = orientation
        image = Image.fromarray(ramp.astype(np.uint8))
        image.save(tmp_path / "a.jpg", exif=exif, quality=95)
        found = decode_image(tmp_path / "a.jpg", size=(40, 30)).float()[0]
        if orientation == 6:  # turned clockwise: what was left is above
            found = found.T
        assert found[:, 0].max() < 12 < 240 < found[:, -1].min()
        assert (found.diff(dim=1) > 0).all()


def test_broken_files_are_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(buffer, "PNG")
    whole = buffer.getvalue()
    jpeg = io.BytesIO()
    Image.fromarray(colours(64, 64)).save(jpeg, "JPEG")
    cases = {
        "cut.png": whole[: len(whole) // 2],
        "cut.jpg": jpeg.getvalue()[: len(jpeg.getvalue()) // 2],
        "head.png": whole[:20],
        "text.png": b"no image at all",
        "empty.png": b"",
        "bits.png": whole[:60] + bytes(200) + whole[260:],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        for decode in (decode_image, decode_mask):
            with pytest.raises(DataError, match=name):
                decode(tmp_path / name)
    with pytest.raises(DataError, match=r"gone.png: there is no such"):
        decode_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="cannot be read"):
        decode_image(tmp_path)


def test_an_image_too_large_to_be_meant_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    for limit in (500, 100):  # pillow warns above its limit, and refuses above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=r"a.png.*Store it smaller"):
            decode_image(tmp_path / "a.png")


def test_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="channels"):
        decode_image(tmp_path, channels=2)
    with pytest.raises(ConfigurationError, match="size"):
        decode_image(tmp_path, size=(0, 3))
    Image.fromarray(np.zeros((2, 2), dtype=np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(DataError, match=r"f.tiff: pixels of mode 'F'"):
        decode_image(tmp_path / "f.tiff")


# -- masks --------------------------------------------------------------------------------------------------------
def test_masks_keep_their_class_numbers(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 21, (9, 7), dtype=np.uint8)
    numbers[0, 0] = 255
    grey = Image.fromarray(numbers)
    grey.save(tmp_path / "l.png")
    palette = Image.frombytes("P", (7, 9), numbers.tobytes())
    palette.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
    palette.save(tmp_path / "p.png")
    Image.merge("RGB", [grey] * 3).save(tmp_path / "rgb.png")
    for name in ("l.png", "p.png", "rgb.png"):
        found = decode_mask(tmp_path / name)
        assert found.dtype == torch.uint8
        assert np.array_equal(found.numpy(), numbers)
    Image.fromarray(numbers.astype(np.uint16) * 200).save(tmp_path / "16.png")
    assert decode_mask(tmp_path / "16.png").dtype == torch.int64
    assert np.array_equal(decode_mask(tmp_path / "16.png").numpy(), numbers.astype(np.int64) * 200)
    Image.fromarray(numbers > 9).save(tmp_path / "1.png")
    assert np.array_equal(decode_mask(tmp_path / "1.png").numpy(), numbers > 9)


def test_a_resized_mask_holds_no_new_class_and_agrees_with_pillow(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 5, (37, 53), dtype=np.uint8) * 50
    image = Image.fromarray(numbers)
    image.save(tmp_path / "m.png")
    for size in [(16, 16), (80, 90), (37, 20), (1, 1)]:
        found = decode_mask(tmp_path / "m.png", size=size)
        assert set(found.unique().tolist()) <= set(np.unique(numbers).tolist())
        assert np.array_equal(found.numpy(), np.asarray(image.resize(size[::-1], Image.Resampling.NEAREST)))


def test_a_mask_of_colours_is_refused(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m.png: a mask holds one class number"):
        decode_mask(tmp_path / "m.png")


def test_the_bytes_of_a_file_are_read_as_the_file(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for size in (None, (4, 5)):
        assert torch.equal(decode_image(content, size), decode_image(tmp_path / "a.png", size))
    with pytest.raises(DataError, match=r"^the picture: this image cannot be read"):
        decode_image(content[:60])
