"""LAPS's similarity as one operator: public function, fake kernel, autograd."""

import math
from typing import Any

import torch
from torch import Tensor

from itm_fast.ops import _checks, _library
from itm_fast.ops._counts import Counts, counted
from itm_fast.ops._gradients import differentiable, once_only
from itm_fast.ops.batched import patch_word_similarity as batched
from itm_fast.ops.batched.kernels import register

_library.load()


def patch_word_similarity(
    regions: Tensor,
    words: Tensor,
    scores: Tensor,
    logits: Tensor,
    word_counts: Counts = None,
    *,
    sparse_ratio: float = 0.5,
    class_token: bool = False,
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
        words: (n_captions, max_words, dim), dtype and device of `regions`; any length of a vector.
        scores: (n_images, n_captions, n_patches) floating: how well a patch suits the image and the caption. They have
            no gradient.
        logits: (n_images, n_patches, n_aggregated) floating: of a patch's weight in each aggregated token.
        word_counts: (n_captions,) integers, 1 ... max_words, as a list, array or tensor: words of each caption; what
            lies beyond is never read. Or a boolean mask (n_captions, max_words), True at words, padded on either side.
            None: all are valid.
        sparse_ratio: Share of the patches that is kept, above 0, at most 1.
        class_token: The first of the tokens is no patch, and compared with the words as it is.

    Returns:
        (n_images, n_captions) float32, or float64 for float64 inputs. Sums run in at least float32. Differentiable once
        in `regions`, `words` and `logits`; gradients come in their dtype. The gradient of a word that is all zero
        is 0. NaN in a vector reaches the scores of its image or caption, and no others. Deterministic.

    Raises:
        ValueError: Shapes, devices, counts or options do not fit; the message names the argument. On CUDA nobody waits
            for the device to look at counts: one out of range gives NaN scores.
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
    if isinstance(regions, Tensor) and isinstance(words, Tensor):
        regions, words = _checks.autocast(regions, words)
    _checks.check_vectors(regions, words)
    words, word_counts = counted("word_counts", word_counts, "words", words)
    n_patches = regions.shape[1] - int(class_token)
    if n_patches < 1:
        raise ValueError(f"regions must have patches{' beside the class token' * class_token}, got {regions.shape[1]}")
    _check_numbers("scores", scores, "(n_images, n_captions, n_patches)", (len(regions), len(words), n_patches), words)
    _check_numbers("logits", logits, "(n_images, n_patches, n_aggregated)", (len(regions), n_patches), words)
    dtype = torch.float64 if regions.dtype == torch.float64 else torch.float32
    scores, logits, n_kept = scores.detach().to(dtype), logits.to(dtype), math.ceil(n_patches * sparse_ratio)
    sims: Tensor = _scored(regions, words, scores, logits, word_counts, n_kept, class_token)
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


@torch.library.register_fake("itm_fast::patch_word_similarity")  # type: ignore[untyped-decorator]
def _fake(regions: Tensor, words: Tensor, *_: Any) -> Tensor:
    dtype = torch.float64 if regions.dtype == torch.float64 else torch.float32
    return regions.new_empty((regions.shape[0], words.shape[0]), dtype=dtype)


@torch.library.register_fake("itm_fast::patch_word_similarity_backward")  # type: ignore[untyped-decorator]
def _fake_backward(
    _grad: Tensor, regions: Tensor, words: Tensor, _scores: Tensor, logits: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    given = zip((regions, words, logits), options[-3:], strict=True)
    return tuple(x.new_empty(x.shape if needed else (0,)) for x, needed in given)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.n_kept, ctx.class_token = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    needed = [ctx.needs_input_grad[i] for i in (0, 1, 3)]
    gradients = _gradients(grad, *ctx.saved_tensors, ctx.n_kept, ctx.class_token, *needed)
    regions, words, logits = (x if wanted else None for x, wanted in zip(gradients, needed, strict=True))
    return regions, words, None, logits, None, None, None


register("patch_word_similarity", batched.forward, batched.backward)
_scored = differentiable("patch_word_similarity", _backward, _setup_context)
_gradients = once_only("patch_word_similarity_backward")
