"""Images and captions to embeddings: of regions, of grids, of words by GRU or BERT, of concepts."""

from itm_fast.nn.encoders.bert import BERTEncoder
from itm_fast.nn.encoders.concept_graph import ConceptGraph, GraphConvolution
from itm_fast.nn.encoders.grid import FrozenBatchNorm2d, GridEncoder, ResNet
from itm_fast.nn.encoders.gru import GRUEncoder, SentenceGRUEncoder
from itm_fast.nn.encoders.reasoning import ReasoningRegionEncoder, RsGCN
from itm_fast.nn.encoders.regions import MeanRegionEncoder, MLPRegionEncoder, RegionEncoder, WeightNormLinear

__all__ = [
    "BERTEncoder",
    "ConceptGraph",
    "FrozenBatchNorm2d",
    "GRUEncoder",
    "GraphConvolution",
    "GridEncoder",
    "MLPRegionEncoder",
    "MeanRegionEncoder",
    "ReasoningRegionEncoder",
    "RegionEncoder",
    "ResNet",
    "RsGCN",
    "SentenceGRUEncoder",
    "WeightNormLinear",
]
