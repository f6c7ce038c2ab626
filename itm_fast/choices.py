"""The values of options that are names; they stand here so that the command line knows them without torch."""

from typing import Literal, TypeAlias

CrossAttn: TypeAlias = Literal["t2i", "i2t"]
RawFeatureNorm: TypeAlias = Literal[
    "clipped_l2norm", "l2norm", "clipped_l1norm", "l1norm", "clipped", "no_norm", "softmax"
]
AggFunc: TypeAlias = Literal["LogSumExp", "Mean", "Sum", "Max"]

WordTokenizer: TypeAlias = Literal["nltk", "split"]  # of captions, into the words of a vocabulary
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]  # of matrix products, by torch.autocast

Query: TypeAlias = Literal["image", "caption"]  # which of the two looks for the other

ProtocolName: TypeAlias = Literal[
    "flickr30k-1k",
    "coco-1k",
    "coco-5k",
    "eccv",
    "cxc",
    "cxc-image-text",
    "coco-fg",
    "coco-fg-originals",
    "flickr30k-fg",
    "flickr30k-fg-originals",
    "positives",
]
