"""Trunks that a table, its images, its texts or recordings can be given to without writing a network."""

from lepton.nn.trunks._acoustic import AcousticTrunk
from lepton.nn.trunks._cache import Cache
from lepton.nn.trunks._conv import ConvTrunk
from lepton.nn.trunks._encoder import Encoder
from lepton.nn.trunks._hugging_face import HuggingFaceTrunk
from lepton.nn.trunks._mixed import MixedTrunk
from lepton.nn.trunks._tabular import TabularTrunk
from lepton.nn.trunks._transformer import TransformerTrunk
from lepton.nn.trunks._unet import UNet

__all__ = [
    "AcousticTrunk",
    "Cache",
    "ConvTrunk",
    "Encoder",
    "HuggingFaceTrunk",
    "MixedTrunk",
    "TabularTrunk",
    "TransformerTrunk",
    "UNet",
]
