"""One vector of each set of vectors: regions of an image, words of a caption, concepts."""

from itm_fast.nn.pooling.consensus import ConsensusAttention
from itm_fast.nn.pooling.gpo import GPO
from itm_fast.nn.pooling.instance_attention import RegionAttention, WordAttention
from itm_fast.nn.pooling.whole_attention import TextGlobal, VisualGlobal

__all__ = ["GPO", "ConsensusAttention", "RegionAttention", "TextGlobal", "VisualGlobal", "WordAttention"]
