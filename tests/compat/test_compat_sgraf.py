"""SGRAF's drop-in module against the original's golden scores, its state dict and its errors."""

import pytest
import torch
from golden_files import golden

from itm_fast.compat.sgraf import EncoderSimilarity


@pytest.mark.parametrize("kind", ["SGR", "SAF"])
def test_golden_scores_under_the_originals_names(kind):
    arrays = golden("sgraf_sim.npz")
    module = EncoderSimilarity(96, 32, kind, int(arrays["sgr_step"])).eval()
    names = (name for name in arrays.files if name.startswith(f"{kind}.sd."))
    weights = {name.removeprefix(f"{kind}.sd."): torch.from_numpy(arrays[name]) for name in names}
    module.load_state_dict(weights, strict=True)
    module.double()
    images, captions = (torch.from_numpy(arrays[name]).double() for name in ("images", "captions"))
    want = torch.from_numpy(arrays[f"{kind}.eval.scores"])
    for lens in (arrays["lens"].tolist(), torch.from_numpy(arrays["lens"])):
        sims = module(img_emb=images, cap_emb=captions, cap_lens=lens)
        torch.testing.assert_close(sims, want, rtol=0, atol=1e-13)


def test_what_the_paper_does_not_have_is_refused():
    with pytest.raises(ValueError, match="module_name must be one of 'SAF', 'SGR', got 'AVE'"):
        EncoderSimilarity(16, 8)
