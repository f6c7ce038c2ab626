"""The batches of a whole training run, each a function of its number alone: what makes a resumed run exact."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.config import DataConfig
from itm_fast.data.augment import SizeAugment
from itm_fast.data.collate import Batch, Collator
from itm_fast.data.readers.precomp import CaptionedSplit
from itm_fast.indices import IndexLike, as_index, as_indices, as_number

_ORDER, _AUGMENT, _SUBSET, _IMAGES = range(4)  # what a generator is for


class BatchPlan(torch.utils.data.Dataset[Batch]):
    """Batch k of a run: the captions that come k-th when every epoch shuffles them anew.

    A map-style data set for a DataLoader with `batch_size=None`: neither processes that read ahead nor a restart
    change what a number stands for.
    """

    def __init__(
        self,
        collator: Collator,
        batch_size: int,
        num_epochs: int,
        *,
        caption_indices: IndexLike | None = None,
        seed: int = 0,
        augment: SizeAugment | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Plan; nothing is read yet.

        Args:
            collator: Makes a batch of caption indices.
            batch_size: Pairs a batch, over all ranks; the last, smaller batch of an epoch is left out.
            num_epochs: Epochs of the run.
            caption_indices: Captions to train on; None takes all.
            seed: Of the order and the augmentation.
            augment: Drops regions and words.
            rank: Which share of each batch is read.
            world_size: Equal shares of each batch.

        Raises:
            IndexError: A caption is not there.
            TypeError: `caption_indices` are no integers, such as a mask.
            ValueError: There are fewer captions than `batch_size`, that is below 1, or the shares are not equal.
        """
        n = collator.dataset.n_captions
        indices = np.arange(n) if caption_indices is None else as_indices(caption_indices, n, "caption_indices")
        as_number(batch_size, "batch_size")
        if len(indices) < batch_size:
            raise ValueError(f"batch_size is {batch_size}, but the training split has only {len(indices)} captions")
        if batch_size % world_size:
            raise ValueError(f"batch_size is {batch_size}; expected a multiple of the {world_size} processes")
        self.steps_per_epoch = len(indices) // batch_size
        self._collator, self._indices, self._augment, self._seed = collator, indices, augment, seed
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._n_steps = self.steps_per_epoch * num_epochs
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __len__(self) -> int:
        return self._n_steps

    def caption_ids(self, step: int) -> npt.NDArray[np.int64]:
        """Captions of a batch, all ranks together, int64 (batch_size,)."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order: npt.NDArray[np.int64] = self._order(epoch)
        return order[number * self._batch_size : (number + 1) * self._batch_size]

    def __getitem__(self, step: int) -> Batch:
        """Batch `step` of the run, from 0; negative ones count from the end.

        Raises:
            IndexError: The run has no such batch.
        """
        step = as_index(step, self._n_steps, "step")
        ids = np.split(self.caption_ids(step), self._world_size)[self._rank]
        batch = self._collator(torch.from_numpy(ids), _generator(self._seed, _IMAGES, step, self._rank))
        if self._augment is None:
            return batch
        generator = _generator(self._seed, _AUGMENT, step, self._rank)
        return self._augment(batch, generator)

    def _shuffled(self, epoch: int) -> npt.NDArray[np.int64]:
        order = torch.randperm(len(self._indices), generator=_generator(self._seed, _ORDER, epoch))
        shuffled: npt.NDArray[np.int64] = self._indices[order.numpy()]
        return shuffled

    def __getstate__(self) -> dict[str, object]:  # for worker processes that are started, not forked
        return {name: value for name, value in vars(self).items() if name != "_order"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._order = lru_cache(maxsize=2)(self._shuffled)


def training_captions(dataset: CaptionedSplit, config: DataConfig, seed: int) -> npt.NDArray[np.int64]:
    """The captions that `data_percent` leaves: the first lines of the file, or those of random images.

    Args:
        dataset: The training split.
        config: Says how many and which.
        seed: Of the random choice.

    Returns:
        int64, increasing: floor(percent of the captions) of them.

    Raises:
        ValueError: Not one is left.

    Source:
        Biten et al., WACV 2022, Table 2; the first lines are what AndresPMD/semantic_adaptive_margin takes.
    """
    n_kept = int(dataset.n_captions * config.data_percent / 100)
    if n_kept < 1:
        raise ValueError(f"data_percent {config.data_percent} of {dataset.n_captions} captions leaves none")
    if config.data_subset == "first":
        return np.arange(n_kept)
    images = torch.randperm(dataset.n_images, generator=_generator(seed, _SUBSET)).numpy()
    place = np.empty_like(images)
    place[images] = np.arange(len(images))
    return np.sort(np.argsort(place[dataset.caption_to_image], kind="stable")[:n_kept])


def seed_of(*numbers: int) -> int:
    """A seed of its own for each tuple of numbers, so that no two purposes draw the same."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def _generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*numbers))
