"""The settings of a training run, one dataclass a trade: the same names are the command line's flags.

What a model itself is made of is in its own configuration, beside the model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from itm_fast.choices import Precision, WordTokenizer
from itm_fast.ops import _checks
from itm_fast.ops.semantic_margin import Sampling, T2IMargin, Variant

Optim = Literal["adam", "adamw"]
Criterion = Literal["rsum", "nsum"]
Subset = Literal["first", "random"]
Tracker = Literal["tensorboard", "wandb"]


@dataclass(frozen=True)
class DataConfig:
    """Which data: a folder in SCAN's layout, {data_path}/{data_name}/{split}_ims.npy and {split}_caps.txt.

    Models that read images take {split}_caps.txt and {split}_ids.txt from there, and id_mapping.json and images/ or
    flickr30k-images/ from there or from the folder above; or captioned images of any other format, as data_path.
    """

    data_path: Path = Path("data")
    """Folder of the data sets."""
    data_name: str = "."
    """Data set below data_path, such as f30k_precomp or coco_precomp; "." is data_path itself."""
    vocab_path: Path | None = None
    """Vocabulary file, or a folder with {data_name}_vocab.json or .pkl; None: vocab.json of the data set, or, where
    there is none, the words that the captions of train and dev hold at least four times. BERT brings its own."""
    tokenizer: WordTokenizer | None = None
    """Splits captions into words; None: the one that the vocabulary is kept with, or nltk. BERT brings its own."""
    cider_tokenizer: Literal["split", "ptb", "characters"] = "split"
    """Splits captions for CIDEr, of SAM and of nsum: at white space, as pycocoevalcap does, or into characters, for
    scripts without blanks between words."""
    train_split: str = "train"
    """Split to learn from."""
    val_split: str = "dev"
    """Split that decides which model is best."""
    data_percent: float = 100.0
    """Share of the training captions, in percent: floor(percent of their number)."""
    data_subset: Subset = "first"
    """Which share: the "first" lines of the file, as the SAM paper does, or whole images at "random" by the seed."""
    drop_blank: bool = False
    """Leave out captions that are blank lines, which are an error otherwise."""

    def __post_init__(self) -> None:
        _checks.check_choice("data_subset", self.data_subset, Subset)
        if not 0 < self.data_percent <= 100:
            raise ValueError(f"data_percent must be above 0 and at most 100, got {self.data_percent!r}")

    @property
    def folder(self) -> Path:
        """Folder with the files of all splits."""
        return self.data_path / self.data_name


@dataclass(frozen=True)
class SAMConfig:
    """The semantic adaptive margin (SAM), added to any model's loss; defaults as in the paper where it has them."""

    sam: bool = False
    """Add SAM: a triplet loss whose margin follows CIDEr."""
    sam_temperature: float = 10.0
    """A margin is the difference of CIDEr divided by it; the paper's tau, 3, 5 or 10."""
    sam_weight: float = 5.0
    """Weight of SAM beside the model's own loss."""
    sam_sampling: Sampling = "hardest"
    """How SAM's negatives are chosen."""
    sam_variant: Variant = "fixed"
    """The equation as the paper's text has it ("fixed"), as printed ("literal"), or as its code does ("released")."""
    sam_margin_max: float | None = 1.0
    """Upper bound of SAM's margins."""
    sam_t2i_margin: T2IMargin = "row"
    """Whose CIDEr makes the margin of a caption's negatives."""
    sam_triplet_weight: float = 1.0
    """Weight of the model's own triplet loss beside SAM; 0 drops it."""

    def __post_init__(self) -> None:
        for name in ("sam_weight", "sam_triplet_weight"):
            _checks.check_finite(name, getattr(self, name), positive=False)


@dataclass(frozen=True)
class TrainingConfig:
    """How to train: SCAN's defaults; each model's presets have their own."""

    num_epochs: int = 30
    """Passes over the training captions."""
    batch_size: int = 128
    """Pairs of image and caption a step, over all processes together."""
    learning_rate: float = 2e-4
    """Of the optimiser; pretrained parts of a model have a share of it."""
    lr_update: int = 15
    """Epochs after which the learning rate falls to a tenth, again and again."""
    optim: Optim = "adam"
    """Optimiser."""
    weight_decay: float = 0.0
    """Weight decay: of "adamw" decoupled, of "adam" an L2 penalty."""
    grad_clip: float = 2.0
    """Largest L2 norm of all gradients together; 0 does not clip."""
    vse_mean_warmup_epochs: int = 0
    """First epochs with all negatives instead of the hardest, which from scratch often collapse."""
    accumulation_steps: int = 1
    """Batches whose gradients are added before the optimiser steps; negatives come from one batch each."""
    size_augment: bool = False
    """Drop regions and words at random while training, as VSE-infinity does."""
    precision: Precision = "float32"
    """Of the matrix products, by torch.autocast; parameters and losses stay float32."""
    compile: bool = False
    """Compile the encoders with torch.compile."""
    seed: int = 0
    """Of initialisation, order and every random choice."""
    device: str = "auto"
    """Where to train: "auto" is CUDA where there are a device and kernels for it; "cpu", "cuda", "cuda:1"."""
    workers: int = 0
    """Processes that read features ahead of the training."""
    log_step: int = 10
    """Steps between lines of the log."""
    val_step: int = 500
    """Steps between validations; there is one after each epoch as well."""
    save_step: int = 500
    """Steps between checkpoints to resume from: what a crash can lose; one after each validation as well."""
    select: Criterion = "rsum"
    """What makes a model the best: "rsum", the sum of six recalls, or "nsum", of six normalised cumulative scores."""
    patience: int | None = None
    """Stop after so many validations without a better model; None never stops early."""
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    """Where else the log goes, beside log.jsonl; one that is not installed is said and left out."""

    def __post_init__(self) -> None:
        for name in (
            "num_epochs",
            "batch_size",
            "lr_update",
            "accumulation_steps",
            "log_step",
            "val_step",
            "save_step",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("vse_mean_warmup_epochs", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")
        for name in ("learning_rate", "weight_decay", "grad_clip"):
            _checks.check_finite(name, getattr(self, name), positive=False)
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}; expected at least 1, or None")
        for name, options in (("optim", Optim), ("precision", Precision), ("select", Criterion)):
            _checks.check_choice(name, getattr(self, name), options)
