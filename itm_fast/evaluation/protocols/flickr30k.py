"""Flickr30K, Karpathy's test split: 1000 images with five captions each."""

from __future__ import annotations

from itm_fast.evaluation.protocols._protocol import Protocol

FLICKR30K_1K = Protocol(
    "flickr30k-1k",
    1000,
    5000,
    folds=None,
    headline="full",
    wrong_size={
        5000: "these are the sizes of coco-5k, or every image is repeated once a caption; then pass every fifth row",
    },
    wrong_captions={},
)
