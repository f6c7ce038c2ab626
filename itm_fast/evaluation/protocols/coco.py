"""MS-COCO, Karpathy's test split: 5000 images with their first five captions."""

from __future__ import annotations

from itm_fast.evaluation.protocols._protocol import Protocol

# SCAN's feature files call the whole split testall; fold5 on `test` would make folds of 200 images (SGRAF issue 7).
_ONE_FOLD = "1,000 images are one fold only (SCAN's coco split `test`); use the split `testall`"
_REPEATED = "25,000 rows hold every image once a caption; pass every fifth row"
_WRONG_SIZE = {1000: _ONE_FOLD, 25000: _REPEATED}
# With c // 5 every label after the first image of six captions would be wrong, without a sign of it.
_ALL_CAPTIONS = (
    "25,010 are all captions of the split, where a few images have six or seven; pass caption_to_image, by which the "
    "first five of every image are kept (protocol eccv also by ids)"
)
_WRONG_CAPTIONS = {25010: _ALL_CAPTIONS}

COCO_1K = Protocol("coco-1k", 5000, 25000, 5, "fold_mean", _WRONG_SIZE, _WRONG_CAPTIONS)
COCO_5K = Protocol("coco-5k", 5000, 25000, 5, "full", _WRONG_SIZE, _WRONG_CAPTIONS)
ECCV = Protocol("eccv", 5000, 25000, 5, "full", _WRONG_SIZE, _WRONG_CAPTIONS)
COCO_ALL = Protocol("coco-all", 5000, 25000, 5, "full", _WRONG_SIZE, _WRONG_CAPTIONS)
CXC = Protocol("cxc", 5000, 25000, None, "full", _WRONG_SIZE, _WRONG_CAPTIONS)
CXC_IMAGE_TEXT = Protocol("cxc-image-text", 5000, 25000, None, "full", _WRONG_SIZE, _WRONG_CAPTIONS)
