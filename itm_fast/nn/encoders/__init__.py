"""Images and captions to embeddings: of regions, grids or patches, of words by GRU or transformer, of concepts."""

from itm_fast.nn.encoders.bert import BERTEncoder, SentenceBERTEncoder
from itm_fast.nn.encoders.concept_graph import ConceptGraph, GraphConvolution
from itm_fast.nn.encoders.grid import FrozenBatchNorm2d, GridEncoder, GridTower, ResNet
from itm_fast.nn.encoders.gru import GRUEncoder, SentenceGRUEncoder
from itm_fast.nn.encoders.patches import PatchTower
from itm_fast.nn.encoders.pixels import PixelEncoder
from itm_fast.nn.encoders.reasoning import ReasoningRegionEncoder, RsGCN
from itm_fast.nn.encoders.regions import MeanRegionEncoder, MLPRegionEncoder, RegionEncoder, WeightNormLinear

__all__ = [
    "BERTEncoder",
    "ConceptGraph",
    "FrozenBatchNorm2d",
    "GRUEncoder",
    "GraphConvolution",
    "GridEncoder",
    "GridTower",
    "MLPRegionEncoder",
    "MeanRegionEncoder",
    "PatchTower",
    "PixelEncoder",
    "ReasoningRegionEncoder",
    "RegionEncoder",
    "ResNet",
    "RsGCN",
    "SentenceBERTEncoder",
    "SentenceGRUEncoder",
    "WeightNormLinear",
]
