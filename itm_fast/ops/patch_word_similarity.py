"""LAPS's similarity as one operator: public function, fake kernel, autograd."""

import math
from typing import Any

import torch
from torch import Tensor

from itm_fast.choices import CandidatesOf
from itm_fast.ops import _checks, _library, _ragged
from itm_fast.ops._candidates import as_candidates
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Groups, as_batches, padded, padded_runs
from itm_fast.ops._similarity import registered
from itm_fast.ops.batched import patch_word_similarity as batched
from itm_fast.ops.batched.kernels import register

_library.load()


def patch_word_similarity(
    regions: Tensor,
    words: Groups,
    scores: Tensor,
    logits: Tensor,
    word_counts: Counts = None,
    *,
    sparse_ratio: float = 0.5,
    class_token: bool = False,
    candidates: Tensor | None = None,
    candidates_of: CandidatesOf = "images",
) -> Tensor:
    """Similarity of every image with every caption: words against few tokens, made of the patches the caption keeps.

    Of an image's patches a caption keeps the ceil(sparse_ratio n_patches) of the largest scores, of equal ones the
    first, NaN above all. Its tokens of the image: n_aggregated sums of the kept ones, weighted by softmax of the
    logits over them; one of the others, weighted by softmax of their scores; and the class token. With C the cosines
    of tokens and words after a leaky ReLU of slope 0.1: sim = mean over words of max over tokens + mean over tokens of
    max over words.
    On the CPU no token of a pair is ever made: its products with the words and its length come from those of the
    patches, tile by tile, and the gradients make them again. On other devices batched products of some images and
    captions at a time, which make the patches' weights in the tokens, again for the gradients, without waiting for the
    host.

    Args:
        regions: (n_images, n_tokens, dim) float32, float64, bfloat16 or float16; any strides, any length of a vector.
            The patches, after the class token where there is one.
        words: (n_captions, max_words, dim), dtype and device of `regions`; any length of a vector; or `Packed`, or a
            list of matrices, without counts.
        scores: (n_images, n_captions, n_patches) floating: how well a patch suits the image and the caption. They have
            no gradient. With candidates (n_images, k, n_patches), or (n_captions, k, n_patches): those of these pairs.
        logits: (n_images, n_patches, n_aggregated) floating: of a patch's weight in each aggregated token.
        word_counts: (n_captions,) integers, 1 ... max_words, as a list, array or tensor: words of each caption; what
            lies beyond is never read. Or a boolean mask (n_captions, max_words), True at words, padded on either side.
            None: all are valid.
        sparse_ratio: Share of the patches that is kept, above 0, at most 1.
        class_token: The first of the tokens is no patch, and compared with the words as it is.
        candidates: (n_images, k) int64, captions of each image: score these pairs only; -1: none. None: all pairs. On
            other devices than the CPU several lists at a time, whose vectors are found where they lie (on CUDA before
            compute capability 8.0 and of float64: gathered); packed words are padded first.
        candidates_of: "captions": candidates are (n_captions, k) images of each caption.

    Returns:
        (n_images, n_captions), or the shape of `candidates` with -inf where there is none; float32, or float64 for
        float64 inputs. Sums run in at least float32. Differentiable once in `regions`, `words` and `logits`; gradients
        come in their dtype. The gradient of a word that is all zero is 0. NaN in a vector reaches the scores of its
        image or caption, and no others. Deterministic.

    Raises:
        ValueError: Shapes, devices, counts or options do not fit; the message names the argument. On CUDA nobody waits
            for the device to look at counts or candidates: one out of range gives NaN scores.
        TypeError: A dtype is not supported, or the vectors' differ.

    Source:
        Fu et al., Linguistic-Aware Patch Slimming Framework for Fine-grained Cross-Modal Alignment, CVPR 2024;
        CrossmodalGroup/LAPS, lib/cross_net.py.

    Example:
        >>> regions, words = torch.randn(2, 49, 64), torch.randn(3, 12, 64)
        >>> patch_word_similarity(regions, words, torch.randn(2, 3, 49), torch.randn(2, 49, 8), [12, 5, 1]).shape
        torch.Size([2, 3])
    """
    sparse_ratio = _checks.check_finite("sparse_ratio", sparse_ratio, positive=True)
    if sparse_ratio > 1:
        raise ValueError(f"sparse_ratio must be at most 1, got {sparse_ratio}")
    if not isinstance(regions, Tensor):
        raise TypeError(f"regions must be a torch.Tensor (n_images, n_tokens, dim), got {type(regions).__name__}")
    batches = as_batches(regions, words, word_counts, None)
    regions, words, word_counts, _ = batches
    n_patches = regions.shape[1] - int(class_token)
    if n_patches < 1:
        raise ValueError(f"regions must have patches{' beside the class token' * class_token}, got {regions.shape[1]}")
    given = as_candidates(candidates, candidates_of, batches)
    shape, pairs = "(n_images, n_captions, n_patches)", batches.shape
    if given is not None:
        shape, pairs = f"(n_{candidates_of}, k, n_patches)", (given.indices.shape[0], given.indices.shape[1])
    _check_numbers("scores", scores, shape, (*pairs, n_patches), words)
    _check_numbers("logits", logits, "(n_images, n_patches, n_aggregated)", (len(regions), n_patches), words)
    dtype = torch.float64 if regions.dtype == torch.float64 else torch.float32
    scores, logits, n_kept = scores.detach().to(dtype), logits.to(dtype), math.ceil(n_patches * sparse_ratio)
    numbers = (regions, words, scores, logits, word_counts)
    sims: Tensor
    is_native = regions.device.type in _ragged.PACKED_ON
    if given is None:
        sims = (_scored if is_native else _in_runs)(*numbers, n_kept, class_token)
    else:
        if not is_native:
            words, word_counts = padded(words, word_counts)
        sims = _of_pairs(regions, words, scores, logits, word_counts, *given, n_kept, class_token)
    return sims


def _check_numbers(name: str, given: Tensor, shape: str, sizes: tuple[int, ...], like: Tensor) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(given).__name__}")
    if given.dtype not in _checks.FLOAT_DTYPES:
        raise TypeError(f"{name} must be float32, float64, bfloat16 or float16, got {given.dtype}")
    if given.ndim != 3 or tuple(given.shape[: len(sizes)]) != sizes or given.shape[2] == 0:
        expected = ", ".join(map(str, sizes))
        raise ValueError(f"{name} must have shape {shape}, here ({expected}, ...), got {tuple(given.shape)}")
    if given.device != like.device:
        raise ValueError(f"{name} must be on the device of words, {like.device}, got {given.device}")


def _in_runs(
    regions: Tensor,
    words: Tensor,
    scores: Tensor,
    logits: Tensor,
    word_counts: Tensor | None,
    n_kept: int,
    class_token: bool,
) -> Tensor:
    """All pairs on other devices, of packed words a bounded run of captions at a time."""
    sims, first = [], 0
    for some, counts in padded_runs(words, word_counts):
        of_pairs = scores[:, first : first + len(some)]
        sims.append(_scored(regions, some, of_pairs, logits, counts, n_kept, class_token))
        first += len(some)
    return torch.cat(sims, dim=1)


def _shape(_regions: Tensor, _words: Tensor, scores: Tensor, *_: Any) -> tuple[int, ...]:
    return scores.shape[:2]


register("patch_word_similarity", batched.forward, batched.backward)
register("patch_word_similarity_candidates", batched.forward_of_given, batched.backward_of_given)
_scored = registered("patch_word_similarity", 5, (0, 1, 3), _shape)
_of_pairs = registered("patch_word_similarity_candidates", 6, (0, 1, 3), _shape)
