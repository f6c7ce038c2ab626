"""ESL's similarity: embeddings on nine levels of width, one projection a caption and one product for all pairs."""

import math

import torch
from torch import Tensor, nn

from itm_fast.nn.encoders.regions import l2_normalise
from itm_fast.ops import _checks
from itm_fast.ops._blocks import padding
from itm_fast.ops._counts import Counts, counted, counted_in_place, may_be_read
from itm_fast.ops._ragged import Groups
from itm_fast.ops.level_attention import level_attention
from itm_fast.shown import named_options

N_LEVELS = 9
_NONZERO_ENTRIES = 2  # largest entries of a row that ESL-A's maps keep


class _Levels(nn.Module):
    """The eight maps from a level to the next, half as wide; state dict `{stem}_{k}.weight`, k = 1 ... 8."""

    def __init__(self, embed_size: int, stem: str, *, heuristic: bool) -> None:
        super().__init__()
        self.stem, self.heuristic = stem, heuristic
        for k in range(1, N_LEVELS):
            width = embed_size >> k
            level = nn.Conv1d(1, 4, 2, 2, bias=False) if heuristic else nn.Linear(2 * width, width, bias=False)
            self.add_module(f"{stem}_{k}", level)

    def forward(self, x: Tensor, *, chain_normalised: bool) -> Tensor:
        """(..., embed_size) -> all levels side by side (..., about 2 * embed_size), each but the first of unit length.

        The original's images go on from a level's normalised vector, its captions from the one before that.
        """
        levels = [x]
        for k in range(1, N_LEVELS):
            weight = _weight(self, f"{self.stem}_{k}")
            if self.heuristic:
                even, odd = weight.sum(0)[0]  # the four filters are only ever summed
                x = x[..., 0::2] * even + x[..., 1::2] * odd
            else:
                x = x @ _largest_of_rows(l2_normalise(weight)).T
            levels.append(l2_normalise(x))
            x = levels[-1] if chain_normalised else x
        return torch.cat(levels, dim=-1)


class _Encoders(nn.Module):
    def __init__(self, embed_size: int, *, heuristic: bool) -> None:
        super().__init__()
        stems = ("kernel_img", "kernel_txt") if heuristic else ("masks", "masks")
        self.image_levels = _Levels(embed_size, stems[0], heuristic=heuristic)
        self.text_levels = _Levels(embed_size, stems[1], heuristic=heuristic)


class _Calculator(nn.Module):
    """The learned form of each level, their weights and the temperatures."""

    def __init__(self, embed_size: int, *, heuristic: bool) -> None:
        super().__init__()
        self.heuristic = heuristic
        self.sim_eval = nn.Linear(N_LEVELS, 1, bias=False)
        self.temp_scale, self.temp_scale_1, self.temp_scale_2 = (nn.Linear(1, 1, bias=False) for _ in range(3))
        for layer, value in (
            (self.sim_eval, 0.1),
            (self.temp_scale, math.log(1 / 0.07)),
            (self.temp_scale_1, 0.0),
            (self.temp_scale_2, 3.0),
        ):
            nn.init.constant_(layer.weight, value)
        for k in range(N_LEVELS):
            width = embed_size >> k
            self.add_module(f"masks_{k}", nn.Linear(width, width, bias=False))
            self.add_module(f"lynorm_{k}", nn.LayerNorm((width, width), eps=1e-8))

    def forms(self) -> list[Tensor]:
        """Each level's form times its weight, (width, width)."""
        forms = []
        for k, weight in enumerate(self._level_weights()):
            normalise = self.get_submodule(f"lynorm_{k}")
            forms.append(normalise(_weight(self, f"masks_{k}")) * weight)
        return forms

    def _level_weights(self) -> Tensor:
        weights: Tensor = self.sim_eval.weight[0]
        if not self.heuristic:
            return weights
        size = weights.abs()
        least, most = size.min(), size.max()
        threshold = least + self.temp_scale_1.weight[0, 0] * (most - least)
        return weights * ((size - threshold) * self.temp_scale_2.weight[0, 0].exp()).exp()


class _Sims(nn.Module):  # the original's nesting, for its state dict
    def __init__(self, embed_size: int, *, heuristic: bool) -> None:
        super().__init__()
        self.calculator_1 = _Calculator(embed_size, heuristic=heuristic)


class _PlusEncoder(nn.Module):
    def __init__(self, embed_size: int, *, heuristic: bool) -> None:
        super().__init__()
        self.encoders_1 = _Encoders(embed_size, heuristic=heuristic)


class ESLSimilarity(nn.Module):
    """Word-region affinities summed over nine levels, attended both ways.

    A = sum_k T_k D_k V_k^T; sim = mean over words of sum_r A softmax_r(tau h) + mean over regions of
    sum_w A softmax_w(tau h), h = leaky ReLU(tanh A), normalised over the other side. The original multiplies every
    caption by the forms D_k again for every image; here that is done once a caption.

    State dict: `sims.calculator_1.*`, `plus_encoder.encoders_1.*` as in the original.

    Source:
        CrossmodalGroup/ESL; "H" is its `heuristic_strategy = True`, "A" (adaptive) its default.
    """

    def __init__(self, embed_size: int = 512, *, heuristic: bool = False) -> None:
        """Initialise temperatures and level weights as ESL does, the maps as torch does.

        Args:
            embed_size: Numbers per region and word, a multiple of 256.
            heuristic: ESL-H: a level is a two-tap filter of the last; otherwise ESL-A: a learned, sparse map.

        Raises:
            ValueError: `embed_size` cannot be halved eight times.
        """
        super().__init__()
        if embed_size < 1 or embed_size % (1 << (N_LEVELS - 1)):
            raise ValueError(f"embed_size must be a positive multiple of {1 << (N_LEVELS - 1)}, got {embed_size}")
        self.embed_size, self.heuristic = embed_size, heuristic
        self.sims = _Sims(embed_size, heuristic=heuristic)
        self.plus_encoder = _PlusEncoder(embed_size, heuristic=heuristic)

    def forward(
        self, regions: Tensor, words: Tensor, word_counts: Counts = None, region_counts: Counts = None
    ) -> Tensor:
        """Similarities of all pairs.

        Args:
            regions: (n_images, max_regions, embed_size) floating.
            words: (n_captions, max_words, embed_size), dtype and device of `regions`.
            word_counts: (n_captions,) integers, 1 ... max_words, or a mask (n_captions, max_words), as
                `itm_fast.cross_attention_similarity` takes them; None: all valid. Nothing beyond a count is read.
            region_counts: (n_images,) or (n_images, max_regions), likewise for the regions.

        Returns:
            (n_images, n_captions), differentiable.

        Raises:
            ValueError: Shapes or devices do not fit, an image has no regions, or a count is outside 1 ... max_words.
            TypeError: An argument has the wrong type or dtype.
        """
        _checks.check_vectors(regions, words)
        if regions.shape[2] != self.embed_size:
            raise ValueError(f"regions and words must have dim {self.embed_size}, got {regions.shape[2]}")
        if regions.shape[1] == 0 or words.shape[1] == 0:
            raise ValueError(f"regions and words must have rows, got {tuple(regions.shape)} and {tuple(words.shape)}")
        words, word_counts = counted("word_counts", word_counts, "words", words)
        captions = self.caption_levels(words, word_counts)
        return self.attend(self.image_levels(regions), captions, word_counts, region_counts)

    def image_levels(self, regions: Tensor) -> Tensor:
        """Regions (n, n_regions, embed_size) -> their levels (n, n_regions, width)."""
        levels: Tensor = self.plus_encoder.encoders_1.image_levels(regions, chain_normalised=True)
        return levels

    def caption_levels(self, words: Tensor, word_counts: Counts = None) -> Tensor:
        """Words (n, max_words, embed_size) -> their levels times the forms (n, max_words, width), padding 0.

        On the CPU only the words themselves are multiplied; elsewhere nobody waits to know how many there are.
        """
        word_counts = counted_in_place("word_counts", word_counts, "words", words)
        if word_counts is None:
            return self._projected_levels(words)
        missing = padding(word_counts, words.shape[1])
        if not may_be_read(words):
            return self._projected_levels(words.masked_fill(missing[..., None], 0)).masked_fill(missing[..., None], 0)
        valid = ~missing
        levels = self._projected_levels(words[valid])
        padded = levels.new_zeros(*valid.shape, levels.shape[1])
        padded[valid] = levels
        return padded

    def _projected_levels(self, words: Tensor) -> Tensor:
        levels = self.plus_encoder.encoders_1.text_levels(words, chain_normalised=False)
        forms = self.sims.calculator_1.forms()
        parts = levels.split([len(form) for form in forms], dim=-1)
        return torch.cat([part @ form for part, form in zip(parts, forms, strict=True)], dim=-1)

    def attend(
        self,
        image_levels: Groups,
        caption_levels: Groups,
        word_counts: Counts = None,
        region_counts: Counts = None,
        candidates: Tensor | None = None,
    ) -> Tensor:
        """What the two methods above return -> (n_images, n_captions), see `level_attention`.

        With candidates (n_images, k), captions of each image, (n_images, k).

        Raises:
            ValueError: A count is outside 1 ... max_words.
        """
        temperature = self.sims.calculator_1.temp_scale.weight[0, 0].exp()
        return level_attention(
            image_levels, caption_levels, word_counts, temperature, region_counts, candidates=candidates
        )

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        return named_options(self, "embed_size", "heuristic")


def _weight(module: nn.Module, name: str) -> Tensor:
    return module.get_parameter(f"{name}.weight")


def _largest_of_rows(weight: Tensor) -> Tensor:
    """All but the largest entries of each row set to 0; ties keep more."""
    threshold = weight.detach().topk(min(_NONZERO_ENTRIES, weight.shape[1]), dim=1).values[:, -1:]
    return weight.masked_fill(weight < threshold, 0)
