"""ESL's similarity of levels as one operator: public function, registration, and plain torch for other devices."""

import torch
from torch import Tensor

from itm_fast.choices import CandidatesOf
from itm_fast.ops import _checks, _library
from itm_fast.ops._blocks import padding, sims_in_blocks, valid_counts
from itm_fast.ops._candidates import as_candidates, gathered
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Batches, Groups, as_batches, in_padded_runs
from itm_fast.ops._similarity import Scored

_library.load()

_NEGATIVE_SLOPE = 0.1  # of the leaky ReLU on affinities, as in SCAN
_EPSILON = 1e-8


def level_attention(
    regions: Groups,
    words: Groups,
    word_counts: Counts,
    temperature: Tensor,
    region_counts: Counts = None,
    *,
    candidates: Tensor | None = None,
    candidates_of: CandidatesOf = "images",
) -> Tensor:
    """Similarity of every image with every caption: affinities of words and regions attended both ways.

    A = words regions^T, h = leaky ReLU of slope 0.1 of tanh A, n(h) = h / (|h| + 1e-8);
    sim = mean over words of sum_r A softmax_r(temperature n(h)), n over words, + mean over regions of
    sum_w A softmax_w(temperature n(h)), n over regions.
    On the CPU affinities stay in the cache, and the gradients make them again. On other devices: plain torch, a block
    of images and captions at a time; there the counts are read on the host, which waits for the device.

    Args:
        regions: (n_images, n_regions, width) float32, float64, bfloat16 or float16; any strides; or `Packed`, or a list
            of matrices, without counts. ESL: their levels side by side.
        words: (n_captions, max_words, width), or likewise, dtype and device of `regions`. ESL: their levels times the
            forms.
        word_counts: (n_captions,) integers, 1 ... max_words, as a list, array or tensor: words of each caption; what
            lies beyond is never read. Or a boolean mask (n_captions, max_words), True at words, padded on either side.
            None: all are valid.
        temperature: () floating, on the device of `regions`; any finite number.
        region_counts: (n_images,) or (n_images, n_regions), likewise for the regions. Elsewhere than on the CPU images
            of one count are scored together, for which the counts are read on the host.
        candidates: (n_images, k) int64, captions of each image: score these pairs only; -1: none. None: all pairs.
        candidates_of: "captions": candidates are (n_captions, k) images of each caption.

    Returns:
        (n_images, n_captions), or the shape of `candidates` with -inf where there is none; float32, or float64 for
        float64 inputs. Sums run in at least float32. Differentiable once in `regions`, `words` and `temperature`;
        gradients come in their dtype. Where a region has affinity 0 with all words of a caption, or a word with all
        regions of an image, the gradient through these affinities is 0 (the original: NaN), and so is that of a vector
        that is all zero. NaN in a vector reaches the scores of its image or caption, and no others. Deterministic on
        the CPU.

    Raises:
        ValueError: Shapes, devices or counts do not fit; the message names the argument.
        TypeError: A dtype is not supported, or the two differ.

    Source:
        Zhang et al., ESL, IEEE TCSVT 2023; CrossmodalGroup/ESL.

    Example:
        >>> regions, words = torch.randn(2, 36, 64), torch.randn(3, 12, 64)
        >>> level_attention(regions, words, torch.tensor([12, 5, 1]), torch.tensor(14.0)).shape
        torch.Size([2, 3])
    """
    batches = as_batches(regions, words, word_counts, region_counts)
    given = as_candidates(candidates, candidates_of, batches)
    _check_temperature(temperature, batches.regions)
    if batches.regions.device.type in ("cpu", "meta"):
        return _scored(batches, given, temperature)

    def plain(some: Batches) -> Tensor:
        return _by_count(some, temperature)

    return in_padded_runs(plain, batches) if given is None else gathered(plain, batches, given)


def _check_temperature(temperature: Tensor, regions: Tensor) -> None:
    if not isinstance(temperature, Tensor):
        raise TypeError(f"temperature must be a torch.Tensor, got {type(temperature).__name__}; use torch.as_tensor")
    if temperature.ndim != 0:
        raise ValueError(f"temperature must have shape (), got {tuple(temperature.shape)}")
    if temperature.dtype not in _checks.FLOAT_DTYPES:
        raise TypeError(f"temperature must be float32, float64, bfloat16 or float16, got {temperature.dtype}")
    if temperature.device != regions.device:
        raise ValueError(f"temperature must be on the device of regions, {regions.device}, got {temperature.device}")


def _by_count(batches: Batches, temperature: Tensor) -> Tensor:
    """The operator in plain torch, images of one count together."""
    regions, words, word_counts, region_counts = batches
    if region_counts is None or not len(regions):
        return _plain(regions, words, word_counts, temperature)
    region_counts = valid_counts("region_counts", region_counts, regions)
    order = region_counts.argsort(stable=True)
    sizes, n_images = torch.unique_consecutive(region_counts[order], return_counts=True)
    groups = torch.split(order, n_images.tolist())
    sims = [
        _plain(regions[images, :size], words, word_counts, temperature)
        for images, size in zip(groups, sizes.tolist(), strict=True)
    ]
    return torch.cat(sims)[order.argsort()]


def _plain(regions: Tensor, words: Tensor, word_counts: Tensor | None, temperature: Tensor) -> Tensor:
    """The operator in plain torch: affinities of some images and captions at a time."""
    if regions.shape[1] == 0 or words.shape[1] == 0:
        raise ValueError(f"regions and words must have rows, got {tuple(regions.shape)} and {tuple(words.shape)}")
    dtype = torch.float64 if regions.dtype == torch.float64 else torch.float32

    def sims_of(images: Tensor, _: Tensor, captions: Tensor, counts: Tensor) -> Tensor:
        return _plain_block(images.to(dtype), captions.to(dtype), counts, temperature.to(dtype))

    region_counts = valid_counts("region_counts", None, regions)
    word_counts = valid_counts("word_counts", word_counts, words)
    sims = sims_in_blocks(sims_of, regions, region_counts, words, word_counts)
    return sims.to(dtype)  # without images or captions there was no block


def _plain_block(regions: Tensor, words: Tensor, word_counts: Tensor, temperature: Tensor) -> Tensor:
    n_images, n_regions, width = regions.shape
    no_word = padding(word_counts, words.shape[1])  # (n_captions, max_words)
    words = words.masked_fill(no_word[:, :, None], 0)
    affinities = (regions.reshape(-1, width) @ words.reshape(-1, width).T).view(n_images, n_regions, *words.shape[:2])
    live = (affinities != 0).any(1, keepdim=True) & (affinities != 0).any(3, keepdim=True)
    affinities = torch.where(live, affinities, affinities.detach())
    activated = torch.nn.functional.leaky_relu(affinities.tanh(), _NEGATIVE_SLOPE)  # 0 at padded words
    over_words = torch.linalg.vector_norm(activated, dim=3, keepdim=True) + _EPSILON
    over_regions = torch.linalg.vector_norm(activated, dim=1, keepdim=True) + _EPSILON
    of_words: Tensor = (affinities * (temperature * activated / over_words).softmax(1)).sum((1, 3)) / word_counts
    logits = (temperature * activated / over_regions).masked_fill(no_word, -torch.inf)
    of_regions: Tensor = (affinities * logits.softmax(3)).sum((1, 3)) / n_regions
    return of_words + of_regions


_scored = Scored("level_attention", is_learnt=True)
