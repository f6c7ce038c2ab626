"""Captions near a caption, found again pair by pair."""

import pytest
import torch

from itm_fast.models import label_completion
from itm_fast.models.label_completion import neighbours


def by_hand(images, captions, n, first, of_image_first):
    m = len(captions)
    to_captions = (captions @ captions[n]).tolist()
    to_captions[n] = 0.0
    nearest = sorted(range(m), key=lambda c: -to_captions[c])[:10]
    image = images[int((images @ captions[n]).argmax())]
    ranked = sorted(range(m), key=lambda c: -float(image @ captions[c]))
    at = ranked.index(n)
    around = ranked[-3:] if at >= m - 3 else ranked[at - 1 : at + 2] if at > 1 else ranked[:3]
    common = [caption for caption in nearest if caption in around]
    return common if len(common) >= 3 else nearest[:first] + around[:of_image_first]


@pytest.mark.parametrize("block_bytes", [1 << 20, 1000])
@pytest.mark.parametrize("m", [2, 3, 7, 11, 40])
@pytest.mark.parametrize(("data_name", "counts"), [("f30k", (3, 4)), ("coco", (2, 1))])
def test_neighbours(data_name, counts, m, block_bytes, monkeypatch):
    monkeypatch.setattr(label_completion, "_BLOCK_BYTES", block_bytes)
    generator = torch.Generator().manual_seed(m)
    # all of one side, so that a caption is rarely among its own nearest, and apart
    images, captions = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (5, m))
    for some in ((images, captions), (images.abs(), captions.abs())):
        unit = [torch.nn.functional.normalize(x, dim=1) for x in some]
        want = [by_hand(*unit, n, *counts) for n in range(m)]
        assert neighbours(*unit, data_name) == want
