"""MS-COCO, Karpathy's test split: 5000 images with their first five captions."""

from __future__ import annotations

from itm_fast.evaluation.protocols._protocol import Protocol

# SCAN's feature files call the whole split testall; fold5 on `test` would make folds of 200 images (SGRAF issue 7).
_ONE_FOLD = "1,000 images are one fold only (SCAN's coco split `test`); use the split `testall`"
_REPEATED = "25,000 rows hold every image once a caption; pass every fifth row"
_WRONG_SIZE = {1000: _ONE_FOLD, 25000: _REPEATED}

COCO_1K = Protocol("coco-1k", 5000, 25000, folds=5, headline="fold_mean", wrong_size=_WRONG_SIZE)
COCO_5K = Protocol("coco-5k", 5000, 25000, folds=5, headline="full", wrong_size=_WRONG_SIZE)
