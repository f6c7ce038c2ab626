"""CIDEr and CIDEr-D in plain Python, word by word: the oracle of the tests and the baseline of the bench."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

Ngrams = Counter[tuple[str, ...]]


def cider(
    references: Sequence[Sequence[str]],
    candidates: Sequence[str],
    *,
    variant: str = "cider_d",
    n: int = 4,
    sigma: float = 6.0,
    corpus: Sequence[Sequence[str]] | None = None,
) -> Tensor:
    """φ of every image and every candidate.

    Args:
        references: Captions of every image, already tokenised: words between white space.
        candidates: Captions to be scored, likewise.
        variant: "cider_d" or "cider".
        n: Longest n-gram.
        sigma: Of CIDEr-D's length penalty, in bigrams.
        corpus: Captions of the images that document frequencies are counted on; None: the references.

    Returns:
        (n_images, n_candidates) float64.

    Source:
        Vedantam, Zitnick, Parikh, CIDEr, CVPR 2015, equations 1-4; tylin/coco-caption (CIDEr-D).
    """
    corpus = references if corpus is None else corpus
    frequency = Counter(g for image in corpus for g in {g for caption in image for g in _ngrams(caption, n)})
    vectors = [[_vectors(caption, frequency, math.log(len(corpus)), n) for caption in image] for image in references]
    scored = [_vectors(caption, frequency, math.log(len(corpus)), n) for caption in candidates]
    phi = [[sum(_score(c, r, variant, sigma) for r in image) / len(image) for c in scored] for image in vectors]
    return torch.tensor(phi, dtype=torch.float64).reshape(len(references), len(candidates))


def _ngrams(caption: str, n: int) -> Ngrams:
    words = caption.split()
    return Counter(tuple(words[i : i + k]) for k in range(1, n + 1) for i in range(len(words) - k + 1))


def _vectors(
    caption: str, frequency: Ngrams, log_n_images: float, n: int
) -> tuple[list[dict[tuple[str, ...], float]], list[float], int]:
    """The tf-idf vector and its norm for every order, and the number of bigrams."""
    vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(n)]
    for gram, count in _ngrams(caption, n).items():
        vectors[len(gram) - 1][gram] = count * (log_n_images - math.log(max(1, frequency[gram])))
    norms = [math.sqrt(sum(x * x for x in vector.values())) for vector in vectors]
    return vectors, norms, max(len(caption.split()) - 1, 0)


def _score(
    candidate: tuple[list[dict[tuple[str, ...], float]], list[float], int],
    reference: tuple[list[dict[tuple[str, ...], float]], list[float], int],
    variant: str,
    sigma: float,
) -> float:
    total = 0.0
    for c, r, c_norm, r_norm in zip(candidate[0], reference[0], candidate[1], reference[1], strict=True):
        if variant == "cider_d":
            product = sum(min(x, r.get(gram, 0.0)) * r.get(gram, 0.0) for gram, x in c.items())
        else:
            product = sum(x * r.get(gram, 0.0) for gram, x in c.items())
        total += product / (c_norm * r_norm) if c_norm and r_norm else 0.0
    penalty = math.exp(-((candidate[2] - reference[2]) ** 2) / (2 * sigma**2)) if variant == "cider_d" else 1.0
    return 10.0 * penalty * total / len(candidate[0])
