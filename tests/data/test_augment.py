"""Augment: image and mask move together, the draws are fixed by the generator, nothing changes kind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lepton.data import Augment
from lepton.errors import ConfigurationError, DataError

NONE = {"flip": 0.0, "crop": 0.0, "brightness": 0.0, "contrast": 0.0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masks(rows: int = 16, height: int = 20, width: int = 30) -> Tensor:
    return torch.randint(1, 9, (rows, height, width), generator=seeded(7))


def test_an_image_that_holds_its_own_mask_still_does() -> None:
    """Mirrors and moves by whole pixels: exactly, and what comes in is black above a missing class."""
    mask = masks()
    image = (mask * 20).to(torch.uint8)[:, None]
    augment = Augment(flip=0.5, vertical_flip=0.5, crop=0.3, brightness=0.0, contrast=0.0)
    moved, moved_mask = augment(image, mask, generator=seeded())
    assert moved_mask is not None
    inside = moved_mask != 255
    assert torch.equal(moved[:, 0].long()[inside], moved_mask[inside] * 20)
    assert not moved[:, 0][~inside].any()
    assert 0.01 < float((~inside).float().mean()) < 0.5
    assert not torch.equal(moved, image)


def test_turned_and_enlarged_images_agree_with_their_masks() -> None:
    """Large areas of one class: bilinear and nearest pixels differ at their borders only."""
    areas = torch.randint(1, 5, (16, 3, 4), generator=seeded(3)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    image = (areas * 50).to(torch.uint8)[:, None]
    augment = Augment(**{**NONE, "flip": 0.5, "crop": 0.2}, zoom=0.3, rotate=90)
    moved, mask = augment(image, areas, generator=seeded())
    assert mask is not None
    inside = mask != 255
    off = (moved[:, 0].long()[inside] - mask[inside] * 50).abs()
    assert float((off == 0).float().mean()) > 0.7
    assert float((off > 110).float().mean()) < 0.02
    assert set(mask.unique().tolist()) <= {1, 2, 3, 4, 255}


def test_a_turn_keeps_lengths_in_images_that_are_not_square() -> None:
    image = torch.zeros(8, 1, 40, 80)
    image[:, :, 18:22, 30:50] = 1.0  # a bar of 4 x 20 pixels at the centre
    moved, _ = Augment(**NONE, rotate=180)(image, generator=seeded())
    torch.testing.assert_close(moved.sum((1, 2, 3)), torch.full((8,), 80.0), rtol=0.03, atol=0)
    ys, xs = torch.meshgrid(torch.arange(40.0) - 19.5, torch.arange(80.0) - 39.5, indexing="ij")
    second = ((ys**2 + xs**2) * moved[:, 0]).sum((1, 2)) / moved.sum((1, 2, 3))
    expected = (4**2 + 20**2) / 12
    torch.testing.assert_close(second, torch.full((8,), expected), rtol=0.08, atol=0)


def test_the_generator_fixes_everything_and_rows_differ() -> None:
    image = torch.rand(1, 3, 12, 12, generator=seeded()).expand(8, 3, 12, 12)
    augment = Augment(zoom=0.2, rotate=15, saturation=0.3)
    first, again = (augment(image, generator=seeded(1))[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(image, generator=seeded(2))[0])
    assert len({tuple(row.flatten().tolist()) for row in first}) == 8


def test_one_option_does_not_change_what_another_one_draws() -> None:
    mask = masks()
    image = (mask * 20).to(torch.uint8)[:, None]
    bright = Augment(brightness=0.9, saturation=0.5)(image, mask, generator=seeded())[1]
    plain = Augment(brightness=0.0, contrast=0.0)(image, mask, generator=seeded())[1]
    assert bright is not None
    assert plain is not None
    assert torch.equal(bright, plain)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("mask_dtype", [torch.uint8, torch.int64])
def test_kinds_and_ranges_stay(dtype: torch.dtype, mask_dtype: torch.dtype) -> None:
    image = torch.rand(4, 3, 9, 11, generator=seeded())
    image = (image * 255).to(torch.uint8) if dtype == torch.uint8 else image
    before = image.clone()
    found, mask = Augment(zoom=0.1, brightness=0.9, contrast=0.9)(
        image, masks(4, 9, 11).to(mask_dtype), generator=seeded()
    )
    assert mask is not None
    assert (found.dtype, mask.dtype, found.shape) == (dtype, mask_dtype, image.shape)
    assert 0 <= float(found.min()) <= float(found.max()) <= (255 if dtype == torch.uint8 else 1)
    assert torch.equal(image, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_without_any_option_nothing_changes(dtype: torch.dtype) -> None:
    image = torch.randint(0, 256, (4, 3, 9, 11), generator=seeded()).to(torch.uint8)
    image = image if dtype == torch.uint8 else image / 255
    found, mask = Augment(**NONE)(image, masks(4, 9, 11), generator=seeded())
    torch.testing.assert_close(found, image)
    assert torch.equal(mask, masks(4, 9, 11))


def test_light() -> None:
    image = torch.full((200, 3, 2, 2), 0.5)
    image[:, :, 0] = 0.3
    bright, _ = Augment(**{**NONE, "brightness": 0.4})(image, generator=seeded())
    factor = bright / image
    torch.testing.assert_close(factor, factor[:, :1, :1, :1].expand_as(factor))
    assert 0.6 <= float(factor.min()) < 0.65
    assert 1.35 < float(factor.max()) <= 1.4
    contrasted, _ = Augment(**{**NONE, "contrast": 0.4})(image, generator=seeded())
    torch.testing.assert_close(contrasted.mean((1, 2, 3)), image.mean((1, 2, 3)))
    assert float(contrasted.std()) != pytest.approx(float(image.std()))
    grey, _ = Augment(**NONE, saturation=0.9)(image, generator=seeded())
    torch.testing.assert_close(grey, image)


def test_half_of_the_rows_are_mirrored() -> None:
    image = torch.arange(4.0).div(3).expand(2000, 1, 1, 4)
    found, _ = Augment(**{**NONE, "flip": 0.5})(image, generator=seeded())
    share = float((found[:, 0, 0, 0] > 0.5).float().mean())
    assert abs(share - 0.5) < 3 * math.sqrt(0.25 / 2000)


def test_what_it_refuses() -> None:
    for option in ({"flip": 1.5}, {"crop": 1.0}, {"rotate": 200}, {"contrast": -0.1}):
        with pytest.raises(ConfigurationError, match=next(iter(option))):
            Augment(**option)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"\[B, C, H, W\]"):
        Augment()(torch.zeros(3, 4, 4), generator=seeded())
    with pytest.raises(DataError, match=r"must be \[2, 4, 4\], but are \[2, 4, 5\]"):
        Augment()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 5), generator=seeded())
