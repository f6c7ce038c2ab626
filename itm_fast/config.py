"""The settings of a training run, one dataclass a trade: the same names are the command line's flags.

What encodes images, and what captions, is an axis of every model; what else a model is made of is in its own
configuration, beside the model.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from itm_fast.choices import BackboneSource, ClassToken, ImageEncoder, Precision, Resampling, TextEncoder, WordTokenizer
from itm_fast.ops import _checks
from itm_fast.ops.semantic_margin import Sampling, T2IMargin, Variant

Optim = Literal["adam", "adamw"]
Criterion = Literal["rsum", "nsum"]
Subset = Literal["first", "random"]
Tracker = Literal["tensorboard", "wandb"]


_IMAGE_SIZE = 256  # pixels at input_scale_factor 1


def check_switches(config: Any) -> None:
    """Make 0 and 1 of a configuration's switches False and True; TypeError for what is neither, such as "False"."""
    for field in dataclasses.fields(config):
        if isinstance(field.default, bool):
            object.__setattr__(config, field.name, _checks.check_switch(field.name, getattr(config, field.name)))


def _check_not_negative(config: object, *names: str) -> None:
    """Raise ValueError unless numbers are finite and at least 0: gradients times less would go uphill."""
    for name in names:
        value = _checks.check_finite(name, getattr(config, name), positive=False)
        if value < 0:
            raise ValueError(f"{name} is {value:g}; expected at least 0")


@dataclass(frozen=True)
class ImageAxis:
    """What encodes images; the names of the backbone's flags are VSE-infinity's.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    image_encoder: ImageEncoder | None = None
    """Images are "regions", precomputed features; or files, for a CNN ("grid") or a vision transformer of the library
    transformers ("patches"), the backbone, which is trained as well; None: what precomp_enc_type says, or regions."""
    backbone_source: BackboneSource = "detector"
    """CNN of a grid: of a region "detector", of hashtags ("wsl"), or of ImageNet (ResNet-101 unless it says else)."""
    backbone_path: str = ""
    """Of a grid the file of its weights, "" takes torchvision's of ImageNet, downloaded once; of patches a folder or a
    name in the Hugging Face cache: ViT, Swin, DINOv2, CLIP, SigLIP and the like. Nothing is downloaded."""
    backbone_config: tyro.conf.Suppress[dict[str, Any] | None] = None
    """The transformer's architecture, and the pixels that it takes; None: those of backbone_path. No flag."""
    class_token: ClassToken = "kept"
    """Of patches: what is before them, a class token and registers, is "kept", tokens of an image like its patches, or
    "dropped"; "apart": the class token is no patch, but what the model has for the image as a whole."""
    input_scale_factor: float = 1.0
    """Side of the images of a grid, in units of 256 pixels; patches have what their transformer takes."""
    embedding_warmup_epochs: int = 2
    """First epochs with the backbone fixed; in the one that follows the loss grows to its full weight."""
    backbone_warmup_epochs: int = 5
    """Epochs after which the next earlier stage of a CNN trains, after the last; 0 trains all of them at once, as the
    layers of a transformer do anyway."""
    backbone_lr_factor: float = 0.01
    """Share of the learning rate that the backbone has; 0 fixes it for good."""

    def __post_init__(self) -> None:
        for name, options in (("backbone_source", BackboneSource), ("class_token", ClassToken)):
            _checks.check_choice(name, getattr(self, name), options)
        if self.image_encoder is not None:
            _checks.check_choice("image_encoder", self.image_encoder, ImageEncoder)
        _checks.check_finite("input_scale_factor", self.input_scale_factor, positive=True)
        _check_not_negative(self, "backbone_lr_factor")
        for name in ("embedding_warmup_epochs", "backbone_warmup_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        _check_architecture("backbone_config", self.backbone_config)

    @property
    def image_kind(self) -> ImageEncoder:
        """What images are: `image_encoder`, or where that is None what the model's own flag says."""
        if self.image_encoder is not None:
            return self.image_encoder
        return "grid" if getattr(self, "precomp_enc_type", None) == "backbone" else "regions"

    @property
    def image_size(self) -> int | None:
        """Side in pixels of the images that the model reads itself; None: it takes precomputed features.

        That of patches is known once the architecture is.
        """
        if self.image_kind == "regions":
            return None
        if self.image_kind == "patches":
            return int((self.backbone_config or {}).get("size", 0))
        return int(_IMAGE_SIZE * self.input_scale_factor)

    @property
    def resampling(self) -> Resampling:
        """How images are resized: for CNNs as VSE-infinity's weights learnt, for patches as their processor has it."""
        if self.image_kind != "patches":
            return "points"
        found: Resampling = (self.backbone_config or {}).get("resampling", "bicubic")
        return found


@dataclass(frozen=True)
class TextAxis:
    """What encodes captions.

    Raises:
        ValueError: A number is out of range, or an option is unknown.
        TypeError: A number is none.
    """

    text_encoder: TextEncoder | None = None
    """What encodes captions: "bigru", the model's own GRU over words; "bert", a pretrained transformer over the pieces
    that its tokenizer makes; "clip", the text tower of CLIP or SigLIP; None: what text_enc_type says, or the GRU."""
    bert_path: str = "bert-base-uncased"
    """The transformer, or CLIP: a folder, or a name in the Hugging Face cache. Nothing is downloaded."""
    bert_config: tyro.conf.Suppress[dict[str, Any] | None] = None
    """Its architecture, as its config.json has it; None: that of bert_path. No flag."""
    bert_lr_factor: float = 0.1
    """Share of the learning rate that the transformer has, a tenth in VSE-infinity, ESL, CHAN and LAPS; 0 fixes it."""
    bert_warmup_epochs: int = 0
    """First epochs with the transformer fixed."""

    def __post_init__(self) -> None:
        if self.text_encoder is not None:
            _checks.check_choice("text_encoder", self.text_encoder, TextEncoder)
        _check_not_negative(self, "bert_lr_factor")
        if self.bert_warmup_epochs < 0:
            raise ValueError(f"bert_warmup_epochs must be at least 0, got {self.bert_warmup_epochs}")
        _check_architecture("bert_config", self.bert_config)

    @property
    def text_kind(self) -> TextEncoder:
        """What encodes captions: `text_encoder`, or where that is None what the model's own flag says."""
        if self.text_encoder is not None:
            return self.text_encoder
        kind: TextEncoder = getattr(self, "text_enc_type", "bigru")
        return kind


def _check_architecture(name: str, given: object) -> None:
    if not isinstance(given, dict | None):
        raise TypeError(f"{name} must be a dictionary or None, got {given!r:.80}")


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
    cache_tokens: Path | None = None
    """Folder for the tokens that encoders make which never train, a backbone with backbone_lr_factor 0, a text encoder
    with bert_lr_factor 0: made once, float16, and then read like regions, of images as they are, neither cropped nor
    mirrored; None runs them in every step."""

    def __post_init__(self) -> None:
        check_switches(self)
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
        check_switches(self)
        _check_not_negative(self, "sam_weight", "sam_triplet_weight")


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
    lr_schedules: tuple[int, ...] = ()
    """Epochs from which on the learning rate is lower, in place of every lr_update."""
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
    gradient_checkpointing: bool = False
    """Transformers keep no inner states of their layers and compute them again on the way back: less memory, more
    time."""
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
        check_switches(self)
        if self.batch_size == 1:
            raise ValueError("batch_size is 1; expected at least 2: a pair's negatives are the others of its batch")
        for name in ("vse_mean_warmup_epochs", "workers", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")
        _check_not_negative(self, "learning_rate", "weight_decay", "grad_clip")
        if any(epoch < 1 for epoch in self.lr_schedules):
            raise ValueError(f"lr_schedules is {self.lr_schedules}; expected epochs of at least 1")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}; expected at least 1, or None")
        for name, options in (("optim", Optim), ("precision", Precision), ("select", Criterion)):
            _checks.check_choice(name, getattr(self, name), options)
