"""Runs of one small test set, made as evaluate makes them."""

from dataclasses import replace

import numpy as np
import torch

from itm_fast.evaluation import evaluate
from itm_fast.runs.folder import Attention
from itm_fast.runs.keeper import RunKeeper

N_IMAGES, STEP = 30, 5
HOSTILE = "<script>alert(1)</script> & \"quotes\" <img src=x onerror='alert(2)'>"


def relevance_matrix(rng=None):
    """φ of all pairs, and which are of one image: both (n_images, n_captions)."""
    rng = np.random.default_rng(7) if rng is None else rng
    owned = np.arange(N_IMAGES * STEP) // STEP == np.arange(N_IMAGES)[:, None]
    return rng.random(owned.shape) + 0.5 * owned, owned


def make_run(name, noise, *, relevance=True, protocol=None, **changes):
    """A run over random similarities, the diagonal's blocks higher the less noise there is."""
    rng = np.random.default_rng(7)
    phi, owned = relevance_matrix(rng)
    sims = owned + noise * rng.standard_normal(owned.shape)
    keep = RunKeeper(depth=12)
    report = evaluate(torch.from_numpy(sims), torch.from_numpy(phi) if relevance else None, keep=keep)
    captions = [f"caption {number} of a {'dog' if number % 2 else 'cat'}" for number in range(N_IMAGES * STEP)]
    captions[int(keep.run(report, name="").t2i.ranks.argmax())] = HOSTILE  # the worst failure is always shown
    run = keep.run(
        report,
        name=name,
        captions=captions,
        image_names=[f"{number:03d}.jpg" for number in range(N_IMAGES)],
        source={"kind": "sims", "path": f"{name}.npy"},
    )
    weights = torch.softmax(torch.from_numpy(rng.standard_normal((4, 6))).float(), 1)
    attention = tuple(Attention(image, 3, ("<start>", "a", "dog", "<end>"), weights) for image in (0, 5))
    run.report["conditions"]["protocol"] = protocol
    return replace(run, **{"attention": attention, **changes})
