"""SGR's and SAF's similarity: a similarity vector of every word and of the whole, then graph reasoning or a gate."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from itm_fast.nn.caption_groups import (
    CaptionGroup,
    caption_groups,
    on_device,
    parts_of_captions,
    read_on_the_host,
    split_captions,
    split_words,
    without_padding,
)
from itm_fast.nn.encoders.regions import l2_normalise
from itm_fast.nn.linear import TileLinear
from itm_fast.nn.pooling.whole_attention import TextGlobal, VisualGlobal
from itm_fast.nn.similarity.cross_attention import CrossAttention
from itm_fast.ops import _checks
from itm_fast.ops._blocks import padding, valid_counts
from itm_fast.ops._counts import Counts, counted
from itm_fast.ops.attended_similarity import attended_similarity
from itm_fast.ops.batched import kernels
from itm_fast.ops.graph_reasoning import graph_reasoning
from itm_fast.shown import named_options

ModuleName = Literal["SGR", "SAF"]
_EPSILON = 1e-8
_LOCAL_NUMBERS = 1 << 26  # of the words' similarity vectors at a time


class _GraphReasoning(nn.Module):
    """One step of SGR over the similarity vectors of a pair."""

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.graph_query_w = nn.Linear(sim_dim, sim_dim)
        self.graph_key_w = nn.Linear(sim_dim, sim_dim)
        self.sim_graph_w = nn.Linear(sim_dim, sim_dim)

    def form(self) -> tuple[Tensor, Tensor]:
        """Query and key as one matrix and a bias: what the query's side alone adds to the edges, their softmax removes.

        The key's bias stands there with factor 0, so that it has a gradient like the rest.
        """
        query, key = self.graph_query_w, self.graph_key_w
        return key.weight.T @ query.weight, query.bias @ key.weight + 0 * key.bias


class _Logits(torch.autograd.Function):
    """Linear map of local vectors to a number each; the vectors again, to be used by `_GatedSums` and nothing else.

    The gradient that comes back through these is completed in place: it is the largest tensor of the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(local, weight)
        return nn.functional.linear(local, weight, bias)[..., 0], local.view_as(local)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_local: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        local, weight = ctx.saved_tensors
        numbers = grad.reshape(-1)
        grad_local.view(-1, local.shape[2]).addr_(numbers, weight[0])
        return grad_local, numbers[None] @ local.flatten(0, 1), numbers.sum(0, keepdim=True)


class _GatedSums(torch.autograd.Function):
    """Sums over each caption's words of gate (n_images, n_words) times local (n_images, n_words, sim_dim).

    As products of torch's own, the local vectors and their gradient would be copied several times.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, local: Tensor, groups: list[CaptionGroup]) -> Tensor:
        ctx.save_for_backward(gate, local)
        ctx.groups = groups
        pairs = zip(split_words(gate, groups, 1), split_words(local, groups, 1), strict=True)
        return torch.cat([(weights[:, :, None] @ vectors)[:, :, 0] for weights, vectors in pairs], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, local = ctx.saved_tensors
        n_words = [group.n_words for group in ctx.groups for _ in range(group.n_captions)]
        repeats = on_device(torch.tensor(n_words), grad)
        of_words = grad.repeat_interleave(repeats, dim=1, output_size=local.shape[1])
        of_gate = (of_words[:, :, None] @ local[..., None])[..., 0, 0]
        return of_gate, of_words.mul_(gate[..., None]), None


class _AttentionFiltration(nn.Module):
    """SAF's gate: one weight a similarity vector, normalised over all images of one caption."""

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.attn_sim_w = nn.Linear(sim_dim, 1)
        self.bn = nn.BatchNorm1d(1)

    def forward(self, whole: Tensor, local: Tensor, groups: list[CaptionGroup]) -> tuple[Tensor, Tensor, Tensor]:
        """Similarity vectors (n_images, n_captions, sim_dim) and (n_images, n_words, sim_dim) -> one of each pair.

        Also the batch statistics, mean and unbiased variance (n_captions,), that `update` takes.
        """
        of_pairs = split_captions(self.attn_sim_w(whole), groups, 1)
        layer = self.attn_sim_w
        logits, local = _Logits.apply(local, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
        of_words = split_words(logits, groups, 1)
        gates, *statistics = zip(
            *(self._gate(torch.cat(pair, dim=2)) for pair in zip(of_pairs, of_words, strict=True)), strict=True
        )
        of_whole = torch.cat([gate[:, :, :1] for gate in gates], dim=1)
        of_local = torch.cat([gate[:, :, 1:].flatten(1) for gate in gates], dim=1)
        vectors = of_whole * whole + _GatedSums.apply(of_local, local, groups)  # type: ignore[no-untyped-call]
        mean, variance = (torch.cat(parts) for parts in statistics)
        return l2_normalise(vectors), mean, variance

    def _gate(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n_images, n_captions, n_nodes) -> weights of the same shape, and the batch statistics."""
        variance, mean = torch.var_mean(logits, (0, 2), correction=0)
        n = logits.shape[0] * logits.shape[2]
        statistics = (mean.detach(), variance.detach() * (n / (n - 1)))
        if not self.training:
            mean, variance = cast(Tensor, self.bn.running_mean), cast(Tensor, self.bn.running_var)
        scale = self.bn.weight * (variance + self.bn.eps).rsqrt()
        gate = ((logits - mean[:, None]) * scale[:, None] + self.bn.bias).sigmoid()
        return gate / (gate.sum(2, keepdim=True) + _EPSILON), *statistics

    def update(self, mean: Tensor, variance: Tensor) -> None:
        """Running statistics after one training step a caption, in this order."""
        momentum = cast(float, self.bn.momentum)
        steps_after = torch.arange(len(mean) - 1, -1, -1, dtype=mean.dtype, device=mean.device)
        weights = momentum * (1 - momentum) ** steps_after
        for running, batch in ((self.bn.running_mean, mean), (self.bn.running_var, variance)):
            cast(Tensor, running).mul_((1 - momentum) ** len(mean)).add_((weights * batch).sum())
        cast(Tensor, self.bn.num_batches_tracked).add_(len(mean))


class SGRAFSimilarity(nn.Module):
    """Similarity graph reasoning (SGR) or similarity attention filtration (SAF) between regions and words.

    A word attends to the regions as in SCAN; the squared difference of word and attended context is mapped to a
    similarity vector, and so is that of the whole caption and the whole image. SGR lets these vectors attend to each
    other `sgr_step` times and keeps the global one, SAF weighs them with a gate; the sim is the sigmoid of a linear map
    of what is left.

    State dict: as in the original (`v_global_w`, `t_global_w`, `sim_tranloc_w`, `sim_tranglo_w`, `sim_eval_w`,
    `SGR_module` or `SAF_module`). In training, SAF's gate normalises every caption with the statistics of its own nodes
    over all images of the call, and counts each as one step of its running statistics, as the original does.

    Source:
        Diao et al., Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021; Paranioar/SGRAF.
    """

    def __init__(
        self,
        embed_size: int = 1024,
        sim_dim: int = 256,
        *,
        module_name: ModuleName = "SGR",
        sgr_step: int = 3,
        n_regions: int = 36,
        dropout: float = 0.4,
        class_token: bool = False,
    ) -> None:
        """Initialise as SGRAF does: Xavier-uniform weights, biases 0.

        Args:
            embed_size: Numbers per region and word.
            sim_dim: Numbers per similarity vector.
            module_name: "SGR" or "SAF".
            sgr_step: Steps of graph reasoning, at least 1.
            n_regions: Regions of every image; they are the channels of a batch normalisation.
            dropout: Probability, on the two embeddings that find the whole image and the whole caption.
            class_token: Before an image's regions there is a class token, which is none of them: it stands in the place
                of their mean, by which they are weighted to the whole image.

        Raises:
            ValueError: An argument is out of its range.
        """
        super().__init__()
        _checks.check_choice("module_name", module_name, ModuleName)
        sizes = {"embed_size": embed_size, "sim_dim": sim_dim, "sgr_step": sgr_step, "n_regions": n_regions}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.embed_size, self.sim_dim, self.n_regions = embed_size, sim_dim, n_regions
        self.module_name, self.sgr_step, self.dropout, self.class_token = module_name, sgr_step, dropout, class_token
        self.v_global_w = VisualGlobal(embed_size, n_regions, dropout)
        self.t_global_w = TextGlobal(embed_size, dropout)
        self.sim_tranloc_w = nn.Linear(embed_size, sim_dim)
        self.sim_tranglo_w = TileLinear(embed_size, sim_dim)
        self.sim_eval_w = nn.Linear(sim_dim, 1)
        if module_name == "SGR":
            self.SGR_module = nn.ModuleList(_GraphReasoning(sim_dim) for _ in range(sgr_step))
        else:
            self.SAF_module = _AttentionFiltration(sim_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self, regions: Tensor, words: Tensor, word_counts: Counts = None, region_counts: Counts = None
    ) -> Tensor:
        """Similarities of all pairs.

        The counts are read on the host, which waits for those that are on a device, once, and for nothing else.

        Args:
            regions: (n_images, n_regions, embed_size) floating, or (n_images, 1 + n_regions, embed_size) after class
                tokens; in training at least two images.
            words: (n_captions, max_words, embed_size), dtype and device of `regions`.
            word_counts: (n_captions,) integers, 1 ... max_words, or a mask (n_captions, max_words), as
                `itm_fast.cross_attention_similarity` takes them; None: all valid. Nothing beyond a count is read.
            region_counts: (n_images,) or a mask, likewise for the regions, a class token counted. What is missing takes
                part as zeros, which have no share in an attended context of unit length.

        Returns:
            (n_images, n_captions) between 0 and 1, differentiable.

        Raises:
            ValueError: Shapes or devices do not fit, or a count is outside 1 ... max_words.
            TypeError: An argument has the wrong type or dtype.
        """
        self._check(regions, words)
        words, counts = read_on_the_host(words, word_counts)
        regions, region_counts = counted("region_counts", region_counts, "regions", regions)
        n_images, n_captions = len(regions), len(words)
        if not n_images or not n_captions:
            return regions.new_empty(n_images, n_captions)
        whole = None
        if self.class_token:
            whole, regions = regions[:, 0], regions[:, 1:]
            region_counts = None if region_counts is None else region_counts - 1
        if region_counts is not None:
            region_counts = valid_counts("region_counts", region_counts, regions)
            regions = regions.masked_fill(padding(region_counts, self.n_regions)[..., None], 0)
        order = sorted(range(n_captions), key=counts.__getitem__)
        counts = [counts[caption] for caption in order]
        packed = without_padding(words, order, counts)
        images = self.v_global_w(regions, region_counts, whole)
        results = []
        is_padded = regions.device.type not in kernels.COMPILED_ON  # by graph_reasoning, to the longest of a part
        for part in parts_of_captions(counts, _LOCAL_NUMBERS // (n_images * self.sim_dim), is_padded=is_padded):
            n_words = sum(part)
            results.append(self._sims(regions, images, packed[:n_words], part))
            packed = packed[n_words:]
        place = on_device(torch.tensor(order).argsort(), words)
        sims, *statistics = (torch.cat(parts, dim=-1)[..., place] for parts in zip(*results, strict=True))
        if self.training and statistics:
            self.SAF_module.update(*statistics)
        return sims

    def _check(self, regions: Tensor, words: Tensor) -> None:
        _checks.check_vectors(regions, words)
        expected = (self.n_regions + int(self.class_token), self.embed_size)
        if regions.shape[1:] != expected:
            raise ValueError(
                f"regions must have shape (n_images, {expected[0]}, {expected[1]}), got {tuple(regions.shape)}"
            )
        if self.training and len(regions) == 1:
            raise ValueError("regions has one image; in training the batch normalisation needs at least two")

    def _sims(self, regions: Tensor, images: Tensor, words: Tensor, word_counts: list[int]) -> tuple[Tensor, ...]:
        """Sims (n_images, n_captions) of captions in the order of their lengths; for SAF also what its `update` takes.

        Args:
            regions: (n_images, n_regions, embed_size).
            images: (n_images, embed_size), whole images.
            words: (n_words, embed_size), the captions' words one after another.
            word_counts: Words of each caption.
        """
        groups, counts = caption_groups(word_counts, len(words)), on_device(torch.tensor(word_counts), words)
        # On a device 16-bit vectors are multiplied as such, and summed in float32.
        is_compiled = regions.device.type in kernels.COMPILED_ON
        dtype = torch.promote_types(regions.dtype, torch.float32) if is_compiled else regions.dtype
        layer = self.sim_tranloc_w
        local = attended_similarity(
            regions.to(dtype), words.to(dtype), counts, layer.weight.to(dtype), layer.bias.to(dtype)
        )
        whole = checkpoint(self._whole, images, self.t_global_w(words, groups), use_reentrant=False)
        if hasattr(self, "SAF_module"):
            vectors, *statistics = self.SAF_module(whole, local.to(whole.dtype), groups)
            return self._scores(vectors), *statistics
        steps = [cast(_GraphReasoning, step) for step in self.SGR_module]
        forms, form_biases = zip(*(step.form() for step in steps), strict=True)
        weights, biases = ([getattr(step.sim_graph_w, name) for step in steps] for name in ("weight", "bias"))
        parameters = (torch.stack(tensors).to(local.dtype) for tensors in (forms, form_biases, weights, biases))
        vectors = graph_reasoning(whole.to(local.dtype), local, counts, *parameters, max_words=max(word_counts))
        return (self._scores(vectors.to(whole.dtype)),)

    def attention(self, regions: Tensor, words: Tensor) -> Tensor:
        """Each word's weights over the regions in one pair, (n_words, n_regions), as `CrossAttention.attention`.

        Words attend to no class token: its column is 0.
        """
        n_own = int(self.class_token)
        weights = CrossAttention("t2i", "clipped_l2norm").attention(regions[n_own:], words)
        return nn.functional.pad(weights, (n_own, 0))

    def _whole(self, images: Tensor, captions: Tensor) -> Tensor:
        """Similarity vectors of whole images and whole captions, (n_images, n_captions, sim_dim)."""
        return l2_normalise(self.sim_tranglo_w((images[:, None] - captions).square()))

    def _scores(self, vectors: Tensor) -> Tensor:
        """(n_images, n_captions, sim_dim) -> (n_images, n_captions)."""
        return cast(Tensor, self.sim_eval_w(vectors))[..., 0].sigmoid()

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        steps = ("sgr_step",) if self.module_name == "SGR" else ()
        names = (
            "embed_size",
            "sim_dim",
            *steps,
            "n_regions",
            "dropout",
            *(("class_token",) if self.class_token else ()),
        )
        return f"{self.module_name}, {named_options(self, *names)}"
