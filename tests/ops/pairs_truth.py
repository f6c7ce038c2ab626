"""Forms of one batch, and what given pairs should score, for the tests of ragged batches and candidates."""

import torch

import itm_fast


def assert_same(found, want, backend):
    """To the last bit where that is promised, on the CPU; elsewhere sums may be cut otherwise."""
    if backend == "cpu":
        assert torch.equal(found, want)
    else:
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def forms(vectors, counts):
    """The same groups in every form: name -> (vectors, counts)."""
    n, most = vectors.shape[:2]
    counts = torch.full((n,), most) if counts is None else counts
    matrices = [vectors[g, :count] for g, count in enumerate(counts.tolist())]
    mask = torch.arange(most) < counts[:, None]
    before = torch.arange(most) >= (most - counts)[:, None]
    behind = (torch.arange(most) - (most - counts)[:, None]) % most
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return {
        "counts": (vectors, counts),
        "mask": (vectors, mask),
        "mask before": (vectors.take_along_dim(behind[..., None], 1), before),
        "wider": (torch.nn.functional.pad(vectors, (0, 0, 0, 3), value=torch.nan), counts),
        "packed": (itm_fast.Packed(torch.cat(matrices), offsets), None),
        "packed int32": (itm_fast.Packed(torch.cat(matrices), offsets.int()), None),
        "list": (matrices, None),
    }


def picked(all_pairs, candidates, candidates_of):
    """Scores of the candidates from those of all pairs."""
    of_images = all_pairs if candidates_of == "images" else all_pairs.T
    return of_images.gather(1, candidates.clamp(min=0)).masked_fill(candidates < 0, -torch.inf)


def random_candidates(n_lists, k, n_others, seed=0):
    """Indices with repetitions, and none here and there."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, n_others, (n_lists, k), generator=generator)
