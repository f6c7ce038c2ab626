"""The training loop, top to bottom."""

from collections.abc import Callable

import torch
from torch.utils.data import DataLoader

from itm_fast.data.collate import Batch, CaptionTokens, Collator
from itm_fast.data.precomp import PrecompDataset
from itm_fast.models.scan import SCAN
from itm_fast.nn.losses.semantic_margin import SemanticMarginLoss


def train(
    model: SCAN,
    dataset: PrecompDataset,
    tokens: CaptionTokens,
    *,
    criterion: SemanticMarginLoss | None = None,
    num_epochs: int = 30,
    batch_size: int = 128,
    learning_rate: float = 2e-4,
    lr_update: int = 15,
    grad_clip: float = 2.0,
    warmup_epochs: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """Trains `model` in place with Adam on batches of (image, caption) pairs.

    Args:
        model: On the CPU; left in training mode.
        dataset: The training split.
        tokens: Its captions, encoded with the model's vocabulary.
        criterion: SAM over a corpus of the same captions, in place of the model's own loss.
        num_epochs: Passes over all captions.
        batch_size: Pairs per step; the last, smaller batch of an epoch is left out.
        learning_rate: Of Adam.
        lr_update: Epochs after which the learning rate falls to a tenth, again and again.
        grad_clip: Largest L2 norm of all gradients together.
        warmup_epochs: First epochs with all negatives: hardest negatives from the start often collapse.
        seed: Of the order of the pairs; the model's initialisation is the caller's.
        progress: Called with (steps done, steps in all).

    Returns:
        The loss of every step, per pair.

    Raises:
        ValueError: A number is below 1, or there are fewer pairs than `batch_size`.

    Source:
        kuanghuei/SCAN, train.py; the warm-up is that of woodfrog/vse_infty. Unlike there, two captions of one image
        are no negatives of each other.
    """
    for name, value in (("num_epochs", num_epochs), ("batch_size", batch_size), ("lr_update", lr_update)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    if dataset.n_captions < batch_size:
        raise ValueError(f"batch_size is {batch_size}, but the training split has only {dataset.n_captions} captions")
    loader: DataLoader[Batch] = DataLoader(
        range(dataset.n_captions),  # type: ignore[arg-type]  # a range is all a map-style data set has to be
        batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=Collator(dataset, tokens),
        generator=torch.Generator().manual_seed(seed),
    )
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    loss_module = model.loss if criterion is None else criterion
    hardest = loss_module.max_violation
    losses = []
    model.train()
    for epoch in range(num_epochs):
        optimizer.param_groups[0]["lr"] = learning_rate * 0.1 ** (epoch // lr_update)
        loss_module.max_violation = hardest and epoch >= warmup_epochs
        for batch in loader:
            regions = model.encode_images(batch.regions)  # (B, max_regions, D)
            words = model.encode_captions(batch.tokens, batch.word_counts)  # (B, max_words, D)
            sims = model.similarity(regions, words, batch.word_counts)  # (B, B)
            if criterion is None:
                loss = model.loss(sims, batch.image_ids)
            else:
                loss = criterion(sims, batch.caption_ids, batch.image_ids)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
            optimizer.step()
            losses.append(loss.item() / batch_size)
            progress(len(losses), num_epochs * len(loader))
    loss_module.max_violation = hardest
    return losses
