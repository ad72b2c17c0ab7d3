"""How a model reads rows, beside the rules of its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from lepton.data import Encoder, input_loader, input_rows

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LEAST_STEPS", "Reading"]

LEAST_STEPS = 8


@dataclass(frozen=True)
class Reading:
    """How rows become batches of inputs, beside the rules of the columns.

    Attributes:
        image_size: height and width of pictures, if there are some.
        one_image: whether a row has one picture, [C, H, W]; otherwise K of them, [K, C, H, W].
        next_tokens: whether the token after each of a text is an input, which the perplexity of a text needs.
        step: recordings of a batch are padded with zeros to a multiple of so many samples, and to 8 of them at least.
            A graph of any number of samples cannot be traced, since the convolutions round.
    """

    image_size: tuple[int, int] | None = None
    one_image: bool = True
    next_tokens: bool = False
    step: int = 1

    def batches(self, encoder: Encoder, table: pa.Table, batch_size: int | None = None) -> Iterator[dict[str, Tensor]]:
        """Yield the inputs of rows, batch by batch, sorted by their names.

        Args:
            encoder: rules of the columns.
            table: the rows.
            batch_size: rows at a time; by default `lepton.data.rows_at_once`.
        """
        told = {"image_size": self.image_size, "one_image": self.one_image, "next_tokens": self.next_tokens}
        for inputs, _ in input_loader(input_rows(encoder, table, **told), batch_size):  # type: ignore[arg-type]
            assert not isinstance(inputs, Tensor)
            yield {name: self._padded(name, inputs[name]) for name in sorted(inputs)}

    def _padded(self, name: str, tensor: Tensor) -> Tensor:
        if name != "waveform":
            return tensor
        steps = max(LEAST_STEPS, -(-tensor.shape[1] // self.step))
        return F.pad(tensor, (0, steps * self.step - tensor.shape[1]))
