"""`itm-fast protocols`: the protocols there are, what each evaluates, and which annotations it needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from itm_fast.choices import ProtocolName
from itm_fast.cli.console import print_entries, print_json


@dataclass(frozen=True)
class Protocols:
    """List the protocols of `itm-fast evaluate --protocol`: what each evaluates, sizes and annotations."""

    json: bool = False
    """Print one JSON object instead of text."""


@dataclass(frozen=True)
class About:
    """A protocol in words; known here without torch, and compared by the tests with what the protocols check.

    Attributes:
        evaluates: what is reported.
        n_images: images in the gallery; None: as the annotations or the user say.
        n_captions: captions, likewise.
        annotations: what --annotations is; None: none is needed.
        needs_embeddings: whether similarities alone are not enough.
    """

    evaluates: str
    n_images: int | None
    n_captions: int | None
    annotations: str | None = None
    needs_embeddings: bool = False


_CXC = "folder of Crisscrossed-Captions: {}_test.csv (github.com/google-research-datasets/Crisscrossed-Captions, data/)"
_FINE = "folder with {0}_ann.json, {0}_img_filenames.npy (github.com/cwj1412/MSCOCO-Flikcr30K_FG)"
_LONG = "recall on {}, one long caption an image"
_LANGUAGES = "recall by language, and its mean: {}"
_ORIGINALS = "the same without the distractors: another, easier test"

ABOUT: dict[ProtocolName, About] = {
    "flickr30k-1k": About("recall on Flickr30K's test split", 1000, 5000),
    "coco-1k": About("recall on MSCOCO's test split, mean of five folds of 1000 images", 5000, 25000),
    "coco-5k": About("recall on MSCOCO's whole test split, the folds beside it", 5000, 25000),
    "eccv": About(
        "coco-5k, CxC recall, and ECCV Caption's mAP@R and R-Precision; PMRP where its files are",
        5000,
        25000,
        "in the package eccv_caption (pip install eccv-caption); or a folder with its files",
    ),
    "coco-all": About(
        "eccv and all of cxc, of one pass over the similarities",
        5000,
        25000,
        _CXC.format("{sts,sis,sits}") + ", and eccv's",
        needs_embeddings=True,
    ),
    "cxc": About(
        "CxC recall of image-text, text-text and image-image retrieval, and correlations with ratings",
        5000,
        25000,
        _CXC.format("{sts,sis,sits}"),
        needs_embeddings=True,
    ),
    "cxc-image-text": About(
        "CxC recall of image-text retrieval and its correlation with ratings, of any model",
        5000,
        25000,
        _CXC.format("sits"),
    ),
    "coco-fg": About(
        "recall with MSCOCO-FG's refined captions, in a pool with distractor images",
        31244,
        25000,
        _FINE.format("MSCOCO_FG"),
    ),
    "coco-fg-originals": About(_ORIGINALS, 5000, 25000, _FINE.format("MSCOCO_FG")),
    "flickr30k-fg": About(
        "recall with Flickr30K-FG's refined captions, in a pool with distractor images",
        6867,
        5000,
        _FINE.format("Flickr30K_FG"),
    ),
    "flickr30k-fg-originals": About(_ORIGINALS, 1000, 5000, _FINE.format("Flickr30K_FG")),
    "positives": About(
        "recall, mAP@R and R-Precision on any data set with any positives a query",
        None,
        None,
        ".json or .npz with image_ids, caption_ids, image_to_captions or caption_to_images",
    ),
    "urban1k": About(_LONG.format("Urban1k"), 1000, 1000, "folder with image/ and caption/ (hf BeichenZhang/Urban1k)"),
    "docci": About(
        _LONG.format("DOCCI's test split"), 5000, 5000, "docci_descriptions.jsonlines (google.github.io/docci)"
    ),
    "dci": About(
        _LONG.format("Densely Captioned Images, all splits"),
        7805,
        7805,
        "folder with splits.json and annotations/ (github.com/facebookresearch/DCI, dci.tar.gz)",
    ),
    "iiw": About(
        _LONG.format("ImageInWords"),
        612,
        612,
        "folder with IIW-400/, DCI_Test/, DOCCI_Test/ (github.com/google/imageinwords, datasets/)",
    ),
    "xm3600": About(
        _LANGUAGES.format("Crossmodal-3600, 36 languages"),
        3600,
        None,
        "captions.jsonl (google.github.io/crossmodal-3600)",
    ),
    "xtd10": About(
        _LANGUAGES.format("XTD10, a caption an image"),
        1000,
        None,
        "folder with test_image_names.txt, test_1kcaptions_*.txt "
        "(github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10)",
    ),
    "multi30k": About(
        _LANGUAGES.format("Multi30k's test_2016, five captions an image"),
        1000,
        None,
        "folder with test_2016_images.txt, test_2016.*.gz (github.com/multi30k/dataset, data/task2/)",
    ),
    "coco-cn": About(
        _LANGUAGES.format("COCO-CN's test split"),
        1000,
        None,
        "folder with coco-cn_test.txt, imageid.human-written-caption.txt (github.com/li-xirong/coco-cn)",
    ),
    "flickr30k-cn": About(
        _LANGUAGES.format("Flickr30k-CN's test split"),
        1000,
        5000,
        "flickr30k_cn_test.txt, image#number and caption a line (Flickr30k-CNA, github.com/yuxie11/R2D2)",
    ),
    "rococo": About(
        "recall on MSCOCO's test split with altered captions in the gallery (RoCOCO), the false rate, and without them",
        5000,
        50010,
        "same_concept.json, diff_concept.json, rand_voca.json or danger.json (github.com/pseulki/rococo)",
    ),
    "rococo-images": About(
        "recall on MSCOCO's test split with an altered image beside each (RoCOCO), the false rate, and without them",
        10000,
        25010,
        "coco_karpathy_test.json (github.com/pseulki/rococo), altered images behind the others or by --ids",
    ),
    "winoground": About(
        "choice of a pair: text, image and group score of Winoground's 400 examples",
        800,
        800,
        "examples.jsonl (hf facebook/winoground)",
    ),
    "sugarcrepe": About(
        "choice of a pair: SugarCrepe's seven kinds of altered captions",
        1560,
        15022,
        "folder with add_obj.json, ... (github.com/RAIVNLab/sugar-crepe, data/), or one of the files",
    ),
    "sugarcrepe-pp": About(
        "choice of a pair: SugarCrepe++'s two captions against an altered one; with embeddings also of text alone",
        1542,
        14271,
        "folder with replace_obj.json, ... (github.com/Sri-Harsha/scpp, data/), or one of the files",
    ),
    "vidore": About(
        "nDCG@5 and recall of pages for questions, in folders such as ViDoRe's",
        None,
        None,
        "folder of queries, corpus and qrels as BEIR has them, parquet, .jsonl or .tsv (hf vidore/...)",
    ),
}


def run(args: Protocols) -> int:
    """Print them, and return the exit code."""
    names = sorted(ABOUT)
    if args.json:
        print_json({name: asdict(ABOUT[name]) for name in names})
        return 0
    print_entries({name: _texts(ABOUT[name]) for name in names})
    print("\nitm-fast evaluate --protocol NAME [--annotations FOLDER] evaluates by one; without one any sizes do")
    return 0


def _texts(about: About) -> list[str]:
    captions = "any number of" if about.n_captions is None else about.n_captions
    sizes = "any size" if about.n_images is None else f"{about.n_images} images x {captions} captions"
    needs = "; needs embeddings, similarities are not enough" if about.needs_embeddings else ""
    return [f"{about.evaluates}; {sizes}", f"annotations: {about.annotations or 'none'}{needs}"]
