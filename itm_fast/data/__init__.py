"""Reading, making and batching data: SCAN's precomp layout, vocabularies, tokenizers, generated sets."""

from itm_fast.data.augment import SizeAugment
from itm_fast.data.batches import BatchPlan, training_captions
from itm_fast.data.collate import Batch, Collator
from itm_fast.data.made.synthetic import MadeData, estimate_bytes, make_data
from itm_fast.data.readers.captioned_images import CaptionedImages
from itm_fast.data.readers.formats import read_captioned_images
from itm_fast.data.readers.image_places import find_images
from itm_fast.data.readers.image_sets import CaptionedImageDataset, open_split
from itm_fast.data.readers.images import ImageDataset
from itm_fast.data.readers.precomp import CAPTIONS_PER_IMAGE, CaptionedSplit, CaptionWithImage, PrecompDataset
from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.caption_vocabulary import CaptionVocabulary, load_vocabulary
from itm_fast.data.text.tokenizers import CaptionTokenizer, Tokenizer, resolve_tokenizer, tokenize
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.data.text.word_pieces import WordPieces

__all__ = [
    "CAPTIONS_PER_IMAGE",
    "Batch",
    "BatchPlan",
    "CaptionTokenizer",
    "CaptionTokens",
    "CaptionVocabulary",
    "CaptionWithImage",
    "CaptionedImageDataset",
    "CaptionedImages",
    "CaptionedSplit",
    "Collator",
    "ImageDataset",
    "MadeData",
    "PrecompDataset",
    "SizeAugment",
    "Tokenizer",
    "Vocabulary",
    "WordPieces",
    "estimate_bytes",
    "find_images",
    "load_vocabulary",
    "make_data",
    "open_split",
    "read_captioned_images",
    "resolve_tokenizer",
    "tokenize",
    "training_captions",
]
