"""`MixedTrunk`: tables with images and texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError, DataError, is_whole, require
from lepton.nn._ids import PAD
from lepton.nn._prunable import Width
from lepton.nn.trunks._conv import ConvTrunk
from lepton.nn.trunks._residual import ResidualMLP, check_mlp
from lepton.nn.trunks._tabular import TabularTrunk
from lepton.nn.trunks._transformer import TransformerTrunk

__all__ = ["MixedTrunk"]


class MixedTrunk(nn.Module):
    """Rows with columns of numbers, categories, texts and images to features [B, width].

    Every image column goes through the same image trunk and is the mean of its map over positions. Every column of
    texts that are tokens goes through the same text trunk and is the mean of its states over the tokens, plus a
    learned vector of the column. Beside the features of the table's trunk, all that enters a residual network.

    Args:
        table: trunk of the columns that are neither images nor tokens; None if there are none.
        image: trunk of the images; None if there are none.
        text: trunk of the texts that are tokens, of which every reader is `"pooled"`; None if there are none.
        images: number of image columns K.
        texts: number of columns of tokens H.
        width: number of features that the trunk gives.
        depth: number of residual blocks after everything has been put side by side.
        dropout: share of the hidden features that training sets to zero, in [0, 1).

    Attributes:
        out_features: `width`.

    Raises:
        ConfigurationError: no trunk is given, a size that is not allowed, or a text trunk that reads something else.

    Example:
        >>> import torch
        >>> from lepton.nn import ConvTrunk, TabularTrunk
        >>> trunk = MixedTrunk(TabularTrunk(categories=[4], width=16), ConvTrunk(width=8, stages=2), width=32)
        >>> image = torch.zeros(5, 1, 3, 16, 16, dtype=torch.uint8)
        >>> trunk(categories=torch.zeros(5, 1, dtype=torch.int64), image=image).shape
        torch.Size([5, 32])
    """

    def __init__(
        self,
        table: TabularTrunk | None,
        image: ConvTrunk | None,
        text: TransformerTrunk | None = None,
        *,
        images: int = 1,
        texts: int = 1,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_mlp("MixedTrunk", width, depth, dropout)
        for name, count in (("images", images), ("texts", texts)):
            require(is_whole(count), "MixedTrunk", name, count, "an integer >= 1")
        if table is None and image is None and text is None:
            raise ConfigurationError(
                "MixedTrunk: there is nothing to mix: give a table trunk, an image trunk, a text trunk, or several."
            )
        self.table = table
        self.image = image
        self.text = text
        self.images = images
        self.texts = texts
        inputs = 0 if table is None else table.out_features
        if image is not None:
            inputs += images * image.out_features
            self.absent = nn.Parameter(torch.zeros(image.out_features))
        if text is not None:
            _check_pooled(text)
            inputs += texts * text.out_features
            self.no_text = nn.Parameter(torch.zeros(text.out_features))
            self.text_columns = nn.Parameter(torch.zeros(texts, text.out_features))
        self.mlp = ResidualMLP(inputs, width, depth, dropout)

    @property
    def out_features(self) -> int:
        """`width`."""
        return self.mlp.width

    def _parts(self) -> dict[str, TabularTrunk | ConvTrunk | TransformerTrunk]:
        found = {"table": self.table, "image": self.image, "text": self.text}
        return {name: part for name, part in found.items() if part is not None}

    def prunable(self) -> list[Width]:
        """Return the widths that may shrink: see `Prunable`.

        What an image or a text becomes stays as wide as it is, since learned vectors of that size stand for what is
        missing. Where there are several columns of them, side by side, the table's features do too: torch-pruning
        takes columns side by side for one.
        """
        several = (self.image is not None and self.images > 1) or (self.text is not None and self.texts > 1)
        found = self.mlp.prunable()
        for name, part in self._parts().items():
            stays = () if name == "table" and not several else (_own_width(part),)
            found += [replace(w, name=f"{name}.{w.name}") for w in part.prunable() if w.name not in stays]
        return found

    def sizes(self) -> dict[str, Any]:
        """Return the options that say the present widths: see `Prunable`."""
        return {"width": self.mlp.width, **{name: part.sizes() for name, part in self._parts().items()}}

    def forward(
        self,
        numbers: Tensor | None = None,
        missing: Tensor | None = None,
        categories: Tensor | None = None,
        text: Tensor | None = None,
        image: Tensor | None = None,
        image_missing: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """Return the features [B, width] of a batch of rows.

        Args:
            numbers: as in `TabularTrunk`, like the next three.
            missing: see there.
            categories: see there.
            text: see there.
            image: [B, K, C, H, W], uint8 in 0 to 255 or floating point in 0 to 1.
            image_missing: [B, K], true or 1 where there is no image; its pixels are not looked at, and a learned
                vector stands for its features. None where none is missing.
            tokens: whole numbers [B, H, L], each text `[START a b c END]` and padded on the right with 0. One that is
                empty or missing is all 0, and a learned vector stands for its features.

        Raises:
            DataError: a tensor that the trunks need is not given, or has another shape.
        """
        found = []
        if self.table is not None:
            found.append(self.table(numbers=numbers, missing=missing, categories=categories, text=text))
        if self.image is not None:
            found.append(self._images(self.image, image, image_missing))
        if self.text is not None:
            found.append(self._texts(self.text, tokens))
        return self.mlp(torch.cat(found, dim=1))  # type: ignore[no-any-return]

    def _images(self, trunk: ConvTrunk, image: Tensor | None, missing: Tensor | None) -> Tensor:
        if image is None or image.ndim != 5 or image.shape[1] != self.images:
            got = "it is not given" if image is None else f"it is {list(image.shape)}"
            raise DataError(
                f"MixedTrunk: image must be [B, {self.images}, C, H, W], as the trunk was built, but {got}."
            )
        if missing is not None and missing.shape != image.shape[:2]:
            raise DataError(
                f"MixedTrunk: image_missing must be {list(image.shape[:2])}, like the images, but it is "
                f"{list(missing.shape)}."
            )
        flat = image.flatten(0, 1)
        gone = None if missing is None else missing.flatten() != 0
        vectors = trunk(flat if gone is None or not self.training else flat[_stand_ins(gone)]).mean((2, 3))
        if gone is not None:
            vectors = torch.where(gone[:, None], self.absent, vectors)
        return vectors.reshape(image.shape[0], -1)  # type: ignore[no-any-return]

    def _texts(self, trunk: TransformerTrunk, tokens: Tensor | None) -> Tensor:
        if tokens is None or tokens.ndim != 3 or tokens.shape[1] != self.texts or tokens.is_floating_point():
            got = "it is not given" if tokens is None else f"it is {list(tokens.shape)} in {tokens.dtype}"
            raise DataError(
                f"MixedTrunk: tokens must be whole numbers [B, {self.texts}, L], as the trunk was built, but {got}."
            )
        flat = tokens.flatten(0, 1).long()
        states = trunk(flat)
        pooled = states if isinstance(states, Tensor) else next(iter(states.values()))
        vectors = torch.where((flat == PAD).all(1, keepdim=True), self.no_text, pooled)
        return (vectors.reshape(tokens.shape[0], self.texts, -1) + self.text_columns).flatten(1)


def _check_pooled(text: TransformerTrunk) -> None:
    told = set((text.readers or {}).values())
    require(
        told == {"pooled"}, "MixedTrunk", "text.readers", text.readers, "of one vector each, such as {'text': 'pooled'}"
    )


def _own_width(part: TabularTrunk | ConvTrunk | TransformerTrunk) -> str:
    """Return the name of the width of the features that a part gives."""
    return f"widths[{len(part.stages) // part.blocks}]" if isinstance(part, ConvTrunk) else "width"


def _stand_ins(gone: Tensor) -> Tensor:
    """Return for every image its own number, and for a missing one the number of an image that is there.

    Whatever the pixels of missing images hold would otherwise enter the statistics of a BatchNorm. Leaving them out
    instead would make the shape depend on the data, which the compiler refuses and a GPU waits for.
    """
    order = gone.long().argsort(stable=True)
    place = torch.arange(gone.shape[0], device=gone.device)
    present = (~gone).sum().clamp(min=1)
    return torch.where(gone, order[place % present], place)
