"""The values of options that are names, and what is said to a name that is none of them; known without torch."""

from collections.abc import Iterable
from typing import Literal, TypeAlias

CrossAttn: TypeAlias = Literal["t2i", "i2t"]
RawFeatureNorm: TypeAlias = Literal[
    "clipped_l2norm", "l2norm", "clipped_l1norm", "l1norm", "clipped", "no_norm", "softmax"
]
AggFunc: TypeAlias = Literal["LogSumExp", "Mean", "Sum", "Max"]

WordTokenizer: TypeAlias = Literal["nltk", "split"]  # of captions, into the words of a vocabulary
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]  # of matrix products, by torch.autocast

CandidatesOf: TypeAlias = Literal["images", "captions"]  # whose lists given pairs come in
ImageEncoder: TypeAlias = Literal["regions", "grid", "patches"]
TextEncoder: TypeAlias = Literal["bigru", "bert", "clip"]
EncoderLibrary: TypeAlias = Literal["transformers", "open-clip", "sentence-transformers"]  # whose model embeds
ClassToken: TypeAlias = Literal["kept", "dropped", "apart"]
BackboneSource: TypeAlias = Literal[
    "detector", "wsl", "imagenet", "imagenet_res50", "imagenet_res152", "imagenet_resnext"
]
Resampling: TypeAlias = Literal["points", "bilinear", "bicubic"]  # between four pixels, or of all that shrink to one

Query: TypeAlias = Literal["image", "caption"]  # which of the two looks for the other

ProtocolName: TypeAlias = Literal[
    "flickr30k-1k",
    "coco-1k",
    "coco-5k",
    "coco-all",
    "eccv",
    "cxc",
    "cxc-image-text",
    "coco-fg",
    "coco-fg-originals",
    "flickr30k-fg",
    "flickr30k-fg-originals",
    "positives",
    "urban1k",
    "docci",
    "dci",
    "iiw",
    "xm3600",
    "xtd10",
    "multi30k",
    "coco-cn",
    "flickr30k-cn",
    "rococo",
    "rococo-images",
    "winoground",
    "sugarcrepe",
    "sugarcrepe-pp",
    "vidore",
]


def in_order(choices: Iterable[object]) -> list[str]:
    """Choices as messages and help list them: sorted whatever their case, without None.

    Example:
        >>> in_order(["no_norm", None, "Mean", "max"])
        ['max', 'Mean', 'no_norm']
    """
    return sorted({str(choice) for choice in choices if choice is not None}, key=lambda name: (name.casefold(), name))


def perhaps(given: object, choices: Iterable[object]) -> str:
    """What a message says behind a name that is no choice: the nearest one, or nothing where none is near.

    Args:
        given: What was typed; nothing is said to what is a choice after all.
        choices: What there is.

    Example:
        >>> perhaps("flickr-1k", ["coco-1k", "flickr30k-1k"]), perhaps("clip", ["scan"])
        ('; perhaps you meant flickr30k-1k', '')
    """
    import difflib

    names = {name.casefold(): name for name in in_order(choices)}
    typed = str(given).casefold()
    if not typed or str(given) in names.values():
        return ""
    near = [name for name in names if name.startswith(typed)]  # cut short
    near = near or difflib.get_close_matches(typed, names, n=1)
    near = near or [name for name in names if typed.startswith(name)]
    return f"; perhaps you meant {names[near[0]]}" if near else ""
