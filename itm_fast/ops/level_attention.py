"""ESL's similarity of levels as one operator: public function and registration."""

from torch import Tensor

from itm_fast.choices import CandidatesOf
from itm_fast.ops import _checks, _library
from itm_fast.ops._candidates import are_padded, as_candidates
from itm_fast.ops._counts import Counts
from itm_fast.ops._ragged import Groups, as_batches
from itm_fast.ops._similarity import Scored
from itm_fast.ops.batched import level_attention as batched
from itm_fast.ops.batched.kernels import register

_library.load()


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
    On the CPU affinities stay in the cache, and the gradients make them again. On other devices batched products, a
    block of images and captions at a time, made again as well, without waiting for the host; of candidates several
    lists at a time, whose vectors are found where they lie (on CUDA before compute capability 8.0 and of float64:
    gathered); packed ones are padded first.

    Args:
        regions: (n_images, n_regions, width) float32, float64, bfloat16 or float16; any strides; or `Packed`, or a list
            of matrices, without counts. ESL: their levels side by side.
        words: (n_captions, max_words, width), or likewise, dtype and device of `regions`. ESL: their levels times the
            forms.
        word_counts: (n_captions,) integers, 1 ... max_words, as a list, array or tensor: words of each caption; what
            lies beyond is never read. Or a boolean mask (n_captions, max_words), True at words, padded on either side.
            None: all are valid.
        temperature: () floating, on the device of `regions`; any finite number.
        region_counts: (n_images,) or (n_images, n_regions), likewise for the regions.
        candidates: (n_images, k) int64, captions of each image: score these pairs only; -1: none. None: all pairs.
        candidates_of: "captions": candidates are (n_captions, k) images of each caption.

    Returns:
        (n_images, n_captions), or the shape of `candidates` with -inf where there is none; float32, or float64 for
        float64 inputs. Sums run in at least float32. Differentiable once in `regions`, `words` and `temperature`;
        gradients come in their dtype. Where a region has affinity 0 with all words of a caption, or a word with all
        regions of an image, the gradient through these affinities is 0 (the original: NaN), and so is that of a vector
        that is all zero. NaN in a vector reaches the scores of its image or caption, and no others. Deterministic.

    Raises:
        ValueError: Shapes, devices or counts do not fit; the message names the argument. On CUDA nobody waits for the
            device to look at counts or candidates: one out of range gives NaN scores.
        TypeError: A dtype is not supported, or the two differ.

    Source:
        Zhang et al., ESL, IEEE TCSVT 2023; CrossmodalGroup/ESL.

    Example:
        >>> import torch
        >>> regions, words = torch.randn(2, 36, 64), torch.randn(3, 12, 64)
        >>> level_attention(regions, words, torch.tensor([12, 5, 1]), torch.tensor(14.0)).shape
        torch.Size([2, 3])
    """
    batches = as_batches(regions, words, word_counts, region_counts)
    given = as_candidates(candidates, candidates_of, batches)
    _check_temperature(temperature, batches.regions)
    return _scored(batches, given, temperature)


def _check_temperature(temperature: Tensor, regions: Tensor) -> None:
    if not isinstance(temperature, Tensor):
        raise TypeError(f"temperature must be a torch.Tensor, got {type(temperature).__name__}; use torch.as_tensor")
    if temperature.ndim != 0:
        raise ValueError(f"temperature must have shape (), got {tuple(temperature.shape)}")
    if temperature.dtype not in _checks.FLOAT_DTYPES:
        raise TypeError(f"temperature must be float32, float64, bfloat16 or float16, got {temperature.dtype}")
    if temperature.device != regions.device:
        raise ValueError(f"temperature must be on the device of regions, {regions.device}, got {temperature.device}")


register("level_attention", batched.forward, batched.backward)
register("level_attention_candidates", batched.forward_of_given, batched.backward_of_given)
_scored = Scored("level_attention", is_learnt=True, takes_lists=are_padded)
