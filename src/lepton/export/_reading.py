"""How a model reads rows, beside the rules of its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from lepton.data import Encoder, input_loader, input_rows

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Reading"]


@dataclass(frozen=True)
class Reading:
    """How rows become batches of inputs, beside the rules of the columns.

    Attributes:
        image_size: height and width of pictures, if there are some.
        one_image: whether a row has one picture, [C, H, W]; otherwise K of them, [K, C, H, W].
        next_tokens: whether the token after each of a text is an input, which the perplexity of a text needs.
    """

    image_size: tuple[int, int] | None = None
    one_image: bool = True
    next_tokens: bool = False

    def batches(self, encoder: Encoder, table: pa.Table, batch_size: int | None = None) -> Iterator[dict[str, Tensor]]:
        """Yield the inputs of rows, batch by batch, sorted by their names.

        Args:
            encoder: rules of the columns.
            table: the rows.
            batch_size: rows at a time; by default `lepton.data.rows_at_once`.
        """
        for inputs, _ in input_loader(input_rows(encoder, table, **asdict(self)), batch_size):
            assert not isinstance(inputs, Tensor)
            yield {name: inputs[name] for name in sorted(inputs)}
