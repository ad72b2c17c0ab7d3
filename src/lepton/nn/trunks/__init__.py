"""Trunks that a table, its images or its texts can be given to without writing a network."""

from lepton.nn.trunks._cache import Cache
from lepton.nn.trunks._conv import ConvTrunk
from lepton.nn.trunks._hugging_face import HuggingFaceTrunk
from lepton.nn.trunks._mixed import MixedTrunk
from lepton.nn.trunks._tabular import TabularTrunk
from lepton.nn.trunks._transformer import TransformerTrunk
from lepton.nn.trunks._unet import UNet

__all__ = ["Cache", "ConvTrunk", "HuggingFaceTrunk", "MixedTrunk", "TabularTrunk", "TransformerTrunk", "UNet"]
