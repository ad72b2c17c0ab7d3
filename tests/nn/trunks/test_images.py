"""ConvTrunk, UNet and MixedTrunk: sizes, bytes and numbers, missing images, training under a balancer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.balance import UPGrad
from lepton.errors import ConfigurationError, DataError
from lepton.nn import ConvTrunk, MixedTrunk, TabularTrunk, UNet
from lepton.tasks import Classification, Regression, Segmentation, Task
from tests.conftest import gradients, loss_of


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(32, 32), (17, 33), (5, 1)])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_every_stage_halves_the_map_rounding_up(size: tuple[int, int], stem_stride: int) -> None:
    trunk = ConvTrunk(1, width=4, stages=3, blocks=1, stem_stride=stem_stride)
    expected = [-(-side // (stem_stride * 8)) for side in size]
    assert list(trunk(pictures(2, 1, *size)).shape) == [2, trunk.out_features, *expected]
    assert trunk.out_features == 16


@pytest.mark.parametrize("size", [(32, 32), (21, 35), (1, 7), (3, 64)])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_unet_answers_for_every_pixel(size: tuple[int, int], depth: int) -> None:
    trunk = UNet(2, width=4, depth=depth, norm="group")
    assert trunk(pictures(2, 2, *size)).shape == (2, trunk.out_features, *size)


def test_moved_images_have_moved_features() -> None:
    """Skips and crop are in place: away from the border, moving by 2^depth pixels moves the features likewise."""
    torch.manual_seed(0)
    trunk = UNet(1, width=4, depth=2).eval()
    image = torch.rand(1, 1, 100, 102)
    features = trunk(image)[..., 44:56, 44:56]
    moved = trunk(image.roll((4, 8), (2, 3)))[..., 48:60, 52:64]
    torch.testing.assert_close(moved, features)
    assert float(features.detach().std()) > 0.01


@pytest.mark.parametrize("make", [ConvTrunk, UNet])
def test_bytes_and_numbers_are_the_same_images(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    trunk = make(3, 8, mean=[0.1, 0.2, 0.3], std=0.5).eval()
    image = pictures(2, 3, 16, 16)
    torch.testing.assert_close(trunk(image), trunk(image.float() / 255))
    torch.testing.assert_close(trunk(image), trunk(image.double() / 255))


def test_a_norm_over_groups_does_not_look_at_other_images() -> None:
    image = pictures(4, 3, 16, 16)
    for make in (ConvTrunk, UNet):
        torch.manual_seed(0)
        alone = make(3, 8, norm="group").train()
        torch.testing.assert_close(alone(image)[:2], alone(image[:2]), atol=1e-4, rtol=1e-4)
        together = make(3, 8, norm="batch").train()
        assert not torch.allclose(together(image)[:2], together(image[:2]), atol=1e-2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvTrunk(stages=0), "stages"),
        (lambda: ConvTrunk(norm="batsh"), "Did you mean 'batch'"),  # type: ignore[arg-type]
        (lambda: ConvTrunk(mean=[0.1, 0.2]), "mean must be one number or 3"),
        (lambda: UNet(std=0.0), "std must be positive"),
        (lambda: UNet(depth=0), "depth"),
        (lambda: MixedTrunk(None, None), "nothing to mix"),
        (lambda: MixedTrunk(None, ConvTrunk(), images=0), "images"),
    ],
)
def test_what_they_refuse(make, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_wrong_images() -> None:
    with pytest.raises(DataError, match=r"ConvTrunk: images must be \[B, 3, H, W\].*\[2, 1, 8, 8\]"):
        ConvTrunk()(pictures(2, 1, 8, 8))
    trunk = MixedTrunk(None, ConvTrunk(), images=2)
    with pytest.raises(DataError, match=r"image must be .*not given"):
        trunk()
    with pytest.raises(DataError, match=r"\[B, 2, C, H, W\].*\[2, 1, 3, 8, 8\]"):
        trunk(image=pictures(2, 1, 3, 8, 8))
    with pytest.raises(DataError, match="image_missing"):
        trunk(image=pictures(2, 2, 3, 8, 8), image_missing=torch.zeros(2))


# -- tables with images -------------------------------------------------------------------------------------------
def mixed(images: int = 2) -> MixedTrunk:
    torch.manual_seed(0)
    table = TabularTrunk([[-1.0, 0.0, 1.0]], [4], width=12, depth=1, dropout=0.0, unknown_rate=0.0)
    return MixedTrunk(table, ConvTrunk(3, 8, 2, 1), images=images, width=20, depth=1, dropout=0.0)


def rows(n: int = 12, images: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "numbers": torch.randn(n, 1, generator=generator),
        "categories": torch.randint(0, 4, (n, 1), generator=generator),
        "image": pictures(n, images, 3, 16, 16),
    }


@pytest.mark.parametrize("training", [False, True])
def test_the_pixels_of_missing_images_do_not_matter(training: bool) -> None:
    """In training too, where a BatchNorm would see them, and for its running statistics."""
    found = []
    gone = torch.rand(12, 2, generator=torch.Generator().manual_seed(1)) < 0.4
    for other in (pictures(12, 2, 3, 16, 16, seed=5), torch.zeros(12, 2, 3, 16, 16, dtype=torch.uint8)):
        trunk = mixed().train(training)
        data = rows()
        data["image"] = torch.where(gone[..., None, None, None], other, data["image"])
        features = trunk(**data, image_missing=gone)
        features.square().sum().backward()
        found.append((features.detach(), gradients(trunk), dict(trunk.named_buffers())))
    torch.testing.assert_close(found[0], found[1])


def test_a_missing_image_is_told_from_a_black_one() -> None:
    trunk = mixed(1).eval()
    data = rows(2, 1)
    data = {name: tensor[:1].expand(2, *tensor.shape[1:]) for name, tensor in data.items()}
    data["image"] = torch.zeros_like(data["image"])
    found = trunk(**data, image_missing=torch.tensor([[0], [1]]))
    assert not torch.allclose(found[0], found[1])


def test_rows_without_any_image_still_give_features() -> None:
    found = mixed()(**rows(), image_missing=torch.ones(12, 2))
    assert torch.isfinite(found).all()


def test_every_image_column_has_its_own_place() -> None:
    trunk = mixed().eval()
    data = rows()
    swapped = {**data, "image": data["image"].flip(1)}
    assert not torch.allclose(trunk(**data), trunk(**swapped))


def test_either_trunk_alone() -> None:
    data = rows()
    assert MixedTrunk(None, ConvTrunk(3, 8, 2, 1), images=2, width=20)(image=data["image"]).shape == (12, 20)
    table = TabularTrunk([[-1.0, 0.0, 1.0]], width=12)
    assert MixedTrunk(table, None, width=20)(numbers=data["numbers"]).shape == (12, 20)


def test_mixed_forward_is_one_graph() -> None:
    torch._dynamo.reset()
    trunk = mixed().eval()
    data = {**rows(), "image_missing": torch.rand(12, 2) < 0.5}
    compiled = torch.compile(trunk, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**data), trunk(**data))


# -- training -----------------------------------------------------------------------------------------------------
def falls(trunk: nn.Module, tasks: list[Task], inputs: object, targets: dict[str, Tensor], steps: int = 25) -> None:
    model = lepton.LeptonModel(trunk, tasks, balancer=UPGrad())
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, inputs, targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert all(parameter.grad is not None for parameter in trunk.parameters())


def bright(n: int = 16, size: int = 16) -> tuple[Tensor, Tensor]:
    """Images whose left or right half is bright, and which half it is."""
    side = torch.arange(n) % 2
    image = pictures(n, 3, size, size) // 2
    for row, half in enumerate(side.tolist()):
        image[row, :, :, half * size // 2 : (half + 1) * size // 2] += 120
    return image, side


def test_a_conv_trunk_trains_under_a_gradient_balancer() -> None:
    torch.manual_seed(0)
    image, side = bright()
    tasks: list[Task] = [Classification("side", classes=2), Regression("light")]
    light = image.float().mean((1, 2, 3)) / 50 + side
    falls(ConvTrunk(3, 8, 2, 1), tasks, image, {"side": side, "light": light})


def test_a_unet_trains_under_a_gradient_balancer() -> None:
    torch.manual_seed(0)
    image, side = bright(8)
    mask = (image.float().mean(1) > 100).long()
    tasks: list[Task] = [Segmentation("bright", classes=2), Classification("side", classes=2)]
    falls(UNet(3, 8, 2), tasks, image, {"bright": mask, "side": side})


def test_a_mixed_trunk_trains_under_a_gradient_balancer() -> None:
    data = rows(24)
    image, side = bright(24)
    data["image"][:, 1] = image
    gone = torch.zeros(24, 2, dtype=torch.bool)
    gone[::3, 0] = True
    tasks: list[Task] = [Classification("side", classes=2), Regression("number")]
    falls(mixed(), tasks, {**data, "image_missing": gone}, {"side": side, "number": data["numbers"][:, 0]})


def test_widths_are_told_layer_by_layer() -> None:
    trunk = ConvTrunk(stages=2, blocks=2, widths=[5, 6, 7], inner=[2, 3, 4, 1])
    assert trunk(torch.rand(2, 3, 8, 8)).shape == (2, 7, 2, 2) and trunk.out_features == 7
    assert trunk.sizes() == {"widths": [5, 6, 7], "inner": [2, 3, 4, 1]}
    unet = UNet(depth=2, widths=[4, 5, 6], up_widths=[15, 9], inner=[1, 2, 3, 4])  # 9 + 4 + 2: no identity path
    assert unet(torch.rand(1, 3, 9, 10)).shape == (1, 15, 9, 10) and unet.out_features == 15
    assert unet.sizes() == {"widths": [4, 5, 6], "up_widths": [15, 9], "inner": [1, 2, 3, 4]}
    equal = UNet(depth=1, widths=[4, 5], up_widths=[9])  # the block up reads as many channels as it gives
    assert "up.0.beside.1.weight" in equal.state_dict()


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (ConvTrunk, {"widths": [8, 8]}, "widths must be 4 integers >= 1: the stem's, and each stage's"),
        (ConvTrunk, {"inner": [8] * 5}, "inner must be 6 integers >= 1"),
        (ConvTrunk, {"inner": [8] * 5 + [0]}, "inner must be 6 integers >= 1"),
        (UNet, {"up_widths": [8]}, "up_widths must be 4 integers >= 1: at full resolution first"),
        (UNet, {"widths": "wide"}, "widths must be 5 integers >= 1"),
    ],
)
def test_widths_that_do_not_fit_are_refused(kind: Any, options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        kind(**options)
