"""What makes the similarities of an evaluation: trained models, dual encoders, files of arrays, ensembles."""

from itm_fast.sources.embedders.dual_encoder import DualEncoder, load_dual_encoder
from itm_fast.sources.embedders.encoder import Encoder
from itm_fast.sources.embedders.loading import load_encoder
from itm_fast.sources.embedding_files import EmbeddedSet, read_embeddings
from itm_fast.sources.ensemble import EnsembleScorer
from itm_fast.sources.extraction import extract_embeddings
from itm_fast.sources.pairs import PairScorer
from itm_fast.sources.sharded import ShardedScorer
from itm_fast.sources.trained_model import ModelScorer

__all__ = [
    "DualEncoder",
    "EmbeddedSet",
    "Encoder",
    "EnsembleScorer",
    "ModelScorer",
    "PairScorer",
    "ShardedScorer",
    "extract_embeddings",
    "load_dual_encoder",
    "load_encoder",
    "read_embeddings",
]
