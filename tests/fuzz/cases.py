"""Every reader of files with a small file that it reads rightly: a table of name, files, call and what comes out."""

import gzip
import importlib.util
import io
import json
import pickle
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import original_files
import torch
from PIL import Image
from safetensors.torch import save
from small_runs import make_run

from itm_fast import Cider
from itm_fast.benchmark.bench import read_medians
from itm_fast.benchmark.settings import BenchSettings
from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.data import ImageDataset, PrecompDataset, Vocabulary
from itm_fast.data.readers.concept_files import read_arrays as read_pickled
from itm_fast.data.readers.concept_files import read_concepts, read_word_vectors
from itm_fast.data.readers.description import describe
from itm_fast.data.readers.fine_grained import read_fine_grained
from itm_fast.data.readers.formats import format_of, read_captioned_images
from itm_fast.data.readers.found_path import FoundPath
from itm_fast.data.readers.image_file import read_image
from itm_fast.data.readers.images import image_names
from itm_fast.data.readers.qrels import read_graded_pairs
from itm_fast.data.readers.reference_captions import read_names, read_references, read_texts
from itm_fast.data.readers.relevance_matrix import read_relevance
from itm_fast.data.text.caption_vocabulary import load_vocabulary
from itm_fast.evaluation.human_judgement import cider_of_pairs, read_judgements
from itm_fast.evaluation.protocols import cxc
from itm_fast.evaluation.protocols.eccv_caption import read_coco_test, read_positives, read_truth
from itm_fast.evaluation.protocols.relevant_pairs import read_relevant_pairs
from itm_fast.files.ids import Ids, read_id_lines, read_ids
from itm_fast.files.owners import read_owners
from itm_fast.files.trec import read_qrels, read_trec_run
from itm_fast.models import SCAN, SCANConfig, load_model, save_model
from itm_fast.nn.encoders.grid import _read_weights
from itm_fast.originals import load_original
from itm_fast.pretrained import read_config
from itm_fast.report.html import PageOptions, _boxes
from itm_fast.runs.folder import load_run, save_run
from itm_fast.sources.array_files import open_array
from itm_fast.sources.embedding_files import read_embeddings
from itm_fast.sources.extraction import _State
from itm_fast.training.log import _lines_until
from itm_fast.training.run import RunSettings
from itm_fast.training.state import load_checkpoint

Files = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A reader.

    Attributes:
        files: makes the content of its files, by name.
        read: reads them from their folder.
        right: what it must return for the files as they are, or a check of it.
        whole: names of files that are never damaged.
    """

    files: Callable[[], Files]
    read: Callable[[Path], Any]
    right: Any
    whole: tuple[str, ...] = field(default=())


def npy(values: Any, dtype: Any = None) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values, dtype))
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def js(content: Any) -> bytes:
    return json.dumps(content).encode()


def pt(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def image(mode: str, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    grey = (np.arange(144).reshape(12, 12) * 1.5).astype(np.uint16 if mode == "I;16" else np.uint8)
    picture = Image.fromarray(grey)
    (picture if mode == "I;16" else picture.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def written(write: Callable[[Path], Any]) -> Files:
    """What a function writes to a folder."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def at(name: str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: read(folder / name)


def of_file(name: str, content: bytes, read: Callable[[Path], Any], right: Any) -> Case:
    return Case(lambda: {name: content}, at(name, read), right)


# Text

_TOKEN = b"".join(b"%d.jpg#%d\ta dog %d\n" % (n // 2, n % 2, n) for n in range(4))
_KAGGLE = b"image_name| comment_number| comment\n" + b"".join(
    b"%d.jpg| %d| a dog %d\n" % (n // 2, n % 2, n) for n in range(4)
)
_ALBEF = [{"image": "a.jpg", "caption": ["x", "y"]}, {"image": "b.jpg", "caption": "z"}]
_KARPATHY = {
    "images": [
        {"filename": "a.jpg", "filepath": "f", "cocoid": 3, "split": "test", "sentences": [{"raw": "x", "sentid": 1}]},
        {"filename": "b.jpg", "filepath": "f", "cocoid": 4, "split": "test", "sentences": [{"raw": "y", "sentid": 2}]},
    ]
}
_LINES = b"a dog\na cat\nthe sea\r\na caf\xc3\xa9\n"
_CAPTIONS = ["a dog", "a cat", "the sea", "a café"]
_SITS = b"caption,image,agg_score,sampling_method\n1,a.jpg,4.5,c2i_original\n2,b.jpg,0.5,x\n"


def _cxc(task: str) -> bytes:
    row = {"sts": "1,2", "sis": "COCO_val2014_000000000003.jpg,4.jpg", "sits": "1,COCO_val2014_000000000003.jpg"}
    return f"{','.join(cxc.COLUMNS[task])},agg_score,sampling_method\n{row[task]},4.5,x\n".encode()


TEXT = {
    "captions of lines": of_file("a.txt", _LINES, read_texts, _CAPTIONS),
    "captions of .gz": of_file("a.txt.gz", gzip.compress(_LINES, mtime=0), read_texts, _CAPTIONS),
    "references of lines": of_file("a.txt", _LINES, lambda path: read_references(path, 2), lambda r: len(r) == 2),
    "references of .token": of_file(
        "a.token", _TOKEN, read_references, [["a dog 0", "a dog 1"], ["a dog 2", "a dog 3"]]
    ),
    "references of Kaggle": of_file("a.csv", _KAGGLE, read_references, lambda r: r[1] == ["a dog 2", "a dog 3"]),
    "references of ALBEF": of_file("a.json", js(_ALBEF), read_references, [["x", "y"], ["z"]]),
    "texts of JSON": of_file("a.json", js(["x", "y"]), read_texts, ["x", "y"]),
    "texts of lists": of_file("a.json", js([["x"], ["y", "z"]]), read_texts, ["x", "y", "z"]),
    "texts of .jsonl": of_file("a.jsonl", b"\n".join(map(js, _ALBEF)), read_texts, ["x", "y", "z"]),
    "names of JSON": of_file("a.json", js({"1": ["x"], "2": ["y"]}), read_names, ["1", "2"]),
    "names of ALBEF": of_file("a.json", js(_ALBEF), read_names, ["a.jpg", "b.jpg"]),
    "names of lines": of_file("a.txt", b"1.jpg\n2.jpg\n", read_names, ["1.jpg", "2.jpg"]),
    "captioned images of .token": of_file("a.token", _TOKEN, read_captioned_images, lambda r: len(r.captions) == 4),
    "captioned images of ALBEF": of_file("a.json", js(_ALBEF), read_captioned_images, lambda r: len(r.captions) == 3),
    "captioned images of Karpathy": of_file(
        "a.json", js(_KARPATHY), read_captioned_images, lambda r: r.caption_ids == [1, 2] and r.image_ids == [3, 4]
    ),
    "captioned images of a dict": Case(
        lambda: {"a.json": js({"1": ["x"], "2": ["y"]}), "n.npy": npy(["2.jpg", "1.jpg", "3.jpg"])},
        lambda folder: read_captioned_images(folder / "a.json", image_list=folder / "n.npy"),
        lambda r: r.caption_to_image.tolist() == [1, 0],
    ),
    "fine-grained": Case(
        lambda: {
            "MSCOCO_FG_ann.json": js({"1": ["x", "y"], "2": ["z"]}),
            "MSCOCO_FG_img_filenames.npy": npy(["1.jpg", "2.jpg", "3.jpg"]),
        },
        lambda folder: (found := read_fine_grained(folder, "coco-fg")).caption_to_image(found.originals),
        lambda r: r.tolist() == [0, 0, 1],
    ),
    "judgements": of_file("a.csv", _SITS, read_judgements, lambda r: r.scores.tolist() == [4.5, 0.5]),
    "judged pairs of Karpathy": Case(
        lambda: {"a.csv": _SITS, "k.json": js(_KARPATHY)},
        lambda folder: cider_of_pairs(read_judgements(folder / "a.csv"), folder / "k.json"),
        lambda r: r.shape == (2,),
        whole=("a.csv",),
    ),
    **{
        f"rated pairs, {task}": Case(
            lambda task=task: {f"{task}_test.csv": _cxc(task)},
            lambda folder, task=task: cxc.read_rated(folder, task),
            lambda r: r.scores.tolist() == [4.5],
        )
        for task in cxc.COLUMNS
    },
    "relevance of .csv": of_file(
        "a.csv",
        b"0.5,1\n2,3\n0,1e-3\n",
        lambda path: read_relevance(path, 2, 3),
        lambda r: r[1].tolist() == [1, 3, 1e-3],
    ),
    "word vectors": of_file(
        "g.txt",
        b"a 1 2\nb 3 4\n",
        lambda path: read_word_vectors(path, {"a", "b"}, 2),
        lambda r: r["b"].tolist() == [3, 4],
    ),
    "log of a run": of_file(
        "log.jsonl", b'{"step": 1}\n{"step": 9}\n', lambda p: _lines_until(p, 5), ['{"step": 1}\n']
    ),
}

# Ids, owners, positives

_PAIRS = {"image_ids": [1.0, 2], "caption_ids": [1, 2, 3], "image_to_captions": {"1": [1, 2], "2": [3]}}
_OWNERS = lambda path: read_owners(path, 2, 3).tolist()  # noqa: E731
_COCO = [{"original_caption_to_image.json": js({str(n): [n // 5 + 50] for n in range(10)})}, npy(np.arange(10))]
IDS = {
    "ids of lines": of_file(
        "a.txt", b"391895\n000007.jpg\n5.0\n", read_ids, lambda r: r.images == [391895, "000007.jpg", 5]
    ),
    "integer ids of lines": of_file(
        "a.txt", b"391895\n000007.jpg\n5.0\n", read_id_lines, lambda r: r.tolist() == [391895, 7, 5]
    ),
    "ids of .json": of_file("a.json", js(_PAIRS), read_ids, lambda r: r.images == [1, 2] and r.captions == [1, 2, 3]),
    "ids of .npy": of_file("a.npy", npy(np.arange(3.0)), read_ids, lambda r: r.images == [0, 1, 2]),
    "ids of .npz": of_file(
        "a.npz",
        npz(image_ids=np.arange(3.0), caption_ids=np.array(["a", "b"])),
        read_ids,
        lambda r: r.captions == ["a", "b"],
    ),
    "owners of lines": of_file("a.txt", b"0\n0\n1\n", _OWNERS, [0, 0, 1]),
    "owners of a list": of_file("a.json", js([0, 0, 1]), _OWNERS, [0, 0, 1]),
    "owners of txt2img": of_file("a.json", js({"0": 0, "1": 0, "2": 1}), _OWNERS, [0, 0, 1]),
    "owners of img2txt": of_file("a.json", js({"0": [0, 1], "1": [2]}), _OWNERS, [0, 0, 1]),
    "owners of lists": of_file("a.json", js([[0, 1], [2]]), _OWNERS, [0, 0, 1]),
    "owners of .npy": of_file("a.npy", npy([0, 0, 1]), _OWNERS, [0, 0, 1]),
    "owners of .npz": of_file("a.npz", npz(x=np.array([0, 0, 1])), _OWNERS, [0, 0, 1]),
    "positives of .json": of_file(
        "a.json", js(_PAIRS), read_relevant_pairs, lambda r: r.caption_to_images == {1: [1], 2: [1], 3: [2]}
    ),
    "positives of .npz": of_file(
        "a.npz",
        npz(image_ids=np.arange(2), caption_ids=np.arange(2), caption_to_images=np.array([[0, 1], [1, 1]])),
        read_relevant_pairs,
        lambda r: r.image_to_captions == {1: [0, 1]},
    ),
    "positives with grades": of_file(
        "a.json",
        js({**_PAIRS, "image_to_captions": {"1": {"1": 2, "3": 1}}}),
        read_relevant_pairs,
        lambda r: r.image_to_captions == {1: {1: 2, 3: 1}},
    ),
    "qrels": of_file(
        "a.txt", b"q1 0 d1 2\nq1 0 d2 0\nq2 0 d1 1\n", read_qrels, {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
    ),
    "qrels of BEIR": of_file("a.tsv", b"query-id\tcorpus-id\tscore\nq1\td1\t2\n", read_qrels, {"q1": {"d1": 2}}),
    "qrels as positives": of_file(
        "a.qrels",
        b"1 0 2 1\n2 0 3 2\n",
        lambda path: read_relevant_pairs(path, Ids([1, 2], [1, 2, 3])),
        lambda r: r.image_to_captions == {1: {2: 1}, 2: {3: 2}},
    ),
    "run": of_file(
        "a.trec",
        b"q1 Q0 d1 1 0.5 me\nq1 Q0 d2 2 0.25 me\n",
        read_trec_run,
        lambda r: (r.items, r.scores.tolist()) == (["d1", "d2"], [0.5, 0.25]),
    ),
    "positives of ECCV": of_file("a.json", js({"7": [1, 2]}), read_positives, {7: [1, 2]}),
    "truth of ECCV": Case(
        lambda: {"eccv_image_to_caption.json": js({"7": [1]}), "eccv_caption_to_image.json": js({"1": [7]})},
        lambda folder: read_truth(folder, "eccv"),
        lambda r: r.caption_to_images == {1: [7]},
    ),
    "test ids of ECCV": Case(
        lambda: {**_COCO[0], "coco_test_ids.npy": _COCO[1]}, read_coco_test, lambda r: r.image_ids == [50, 51]
    ),
    "id of an image file": Case(
        lambda: {
            "train_caps.txt": _LINES,
            "train_ids.txt": b"3\n4\n",
            "id_mapping.json": js({"3": "3.png", "000004": "4.png"}),
            "3.png": image("RGB", "PNG"),
            "4.png": image("L", "PNG"),
        },
        lambda folder: _image_data(folder),
        lambda r: r[0] == ["3.png", "4.png"] and r[1].shape == (2, 3, 8, 8),
    ),
}


def _image_data(folder: Path) -> Any:
    (folder / "images").mkdir(exist_ok=True)
    for name in ("3.png", "4.png"):
        (folder / "images" / name).write_bytes((folder / name).read_bytes())
    data = ImageDataset(folder, "train", 8)
    return image_names(data), data.regions(range(data.n_images))


# Arrays

_ROWS = np.arange(6.0).reshape(2, 3)
_SIMS = lambda **options: lambda path: np.asarray(open_array(path, 2, **options)).tolist()  # noqa: E731
_REGIONS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def _precomp(**others: bytes) -> Files:
    return {"test_ims.npy": npy(_REGIONS), "test_caps.txt": _LINES, **others}


def _whole_split(folder: Path) -> Any:
    data = PrecompDataset(folder, "test")
    data.look()
    return data.caption_to_image.tolist(), data.counted_regions(range(data.n_images))


_PRECOMP_RIGHT = lambda r: r[0] == [0, 0, 1, 1] and r[1][0].shape == (2, 3, 4)  # noqa: E731
_BOXES = lambda path: _boxes(PageOptions(images_folder="x", boxes=path), 2)  # noqa: E731


def _npts() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array({"npts": 2, "sims": _ROWS}, dtype=object), allow_pickle=True)
    return file.getvalue()


ARRAYS = {
    "array of .npy": of_file("a.npy", npy(_ROWS), _SIMS(), _ROWS.tolist()),
    "array of a pickled .npy": of_file("a.npy", _npts(), _SIMS(pickled=True), _ROWS.tolist()),
    "array of .npz": of_file("a.npz", npz(sims=_ROWS, n=np.arange(2)), _SIMS(), _ROWS.tolist()),
    "array of .json": of_file("a.json", js(_ROWS.tolist()), _SIMS(), _ROWS.tolist()),
    "array of a dict": of_file("a.json", js({"sims": _ROWS.tolist(), "n": [2]}), _SIMS(), _ROWS.tolist()),
    "array of .txt": of_file("a.txt", b"0 1 2\n3,4,5\n", _SIMS(), _ROWS.tolist()),
    "array of .pt": of_file("a.pt", pt({"sims": torch.from_numpy(_ROWS), "n": 2}), _SIMS(), _ROWS.tolist()),
    "array of an old .pth": of_file(
        "a.pth", pt(torch.from_numpy(_ROWS), _use_new_zipfile_serialization=False), _SIMS(), _ROWS.tolist()
    ),
    "array of .safetensors": of_file("a.safetensors", save({"sims": torch.from_numpy(_ROWS)}), _SIMS(), _ROWS.tolist()),
    "relevance of .npy": of_file("a.npy", npy(_ROWS), lambda path: read_relevance(path, 2, 3), lambda r: r[1, 2] == 5),
    "precomputed features": Case(_precomp, _whole_split, _PRECOMP_RIGHT),
    "precomputed features with counts": Case(
        lambda: _precomp(**{"test_counts.npy": npy([3, 2]), "test_ids.txt": b"7\n9\n"}), _whole_split, _PRECOMP_RIGHT
    ),
    "precomputed features with owners": Case(
        lambda: _precomp(**{"test_owners.txt": b"0\n0\n1\n1\n"}), _whole_split, _PRECOMP_RIGHT
    ),
    "precomputed vectors": Case(
        lambda: {"test_ims.npy": npy(_ROWS), "test_caps.txt": _LINES},
        _whole_split,
        lambda r: r[1][0].shape == (2, 1, 3),
    ),
    "boxes": of_file("a.npy", npy(_REGIONS[:, :, :4]), _BOXES, lambda r: r.shape == (2, 3, 4)),
    "concepts": Case(
        lambda: {
            "category_concepts.json": js({"man": 0, "dog": 1}),
            "f30k_adj_concepts.pkl": pickle.dumps({"nums": np.array([1, 2]), "adj_all": np.array([[0, 1], [1, 0]])}, 3),
            "f30k_concepts_glove_word2vec.pkl": pickle.dumps(_ROWS, 3),
        },
        read_concepts,
        lambda r: r.words == ("man", "dog") and r.vectors.shape == (2, 3),
    ),
    "pickled arrays": of_file("a.pkl", pickle.dumps(_ROWS, 3), read_pickled, lambda r: r.tolist() == _ROWS.tolist()),
}

# Vocabularies

_WORDS = ["<pad>", "<start>", "<end>", "<unk>", "a"]
_FIELDS = {"word2idx": {word: n for n, word in enumerate(_WORDS)}, "idx2word": dict(enumerate(_WORDS)), "idx": 5}
_OLD = (
    b"ccopy_reg\n_reconstructor\np0\n(cvocab\nVocabulary\np1\nc__builtin__\nobject\np2\nNtp3\nRp4\n"
    + pickle.dumps(_FIELDS, 0)[:-1]
    + b"b."
)
_BYTE_PAIRS = {
    "version": "1.0",
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {
        **{"type": "BPE", "unk_token": "</s>", "end_of_word_suffix": "</w>", "fuse_unk": False},
        **{"vocab": {"<s>": 0, "</s>": 1, "a": 2, "b</w>": 3, "ab</w>": 4}, "merges": [["a", "b</w>"]]},
    },
}
_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
_TOKENIZER = {
    "model": {"type": "WordPiece", "vocab": {piece: n for n, piece in enumerate(_PIECES)}},
    "normalizer": {"type": "BertNormalizer", "lowercase": True},
}
_HELD = lambda words: lambda vocabulary: len(vocabulary) == words  # noqa: E731
VOCABULARIES = {
    "vocabulary of JSON": of_file("v.json", js(_FIELDS), Vocabulary.load, _HELD(5)),
    "vocabulary of either kind": of_file("v.json", js(_FIELDS), load_vocabulary, _HELD(5)),
    **{
        f"vocabulary pickled by protocol {protocol}": of_file(
            "v.pkl", pickle.dumps(_FIELDS, protocol), Vocabulary.load, _HELD(5)
        )
        for protocol in (0, 1, 2, 4)
    },
    "vocabulary of Python 2": of_file("v.pkl", _OLD, Vocabulary.load, _HELD(5)),
    "word pieces of lines": Case(
        lambda: {"vocab.txt": "\n".join(_PIECES).encode(), "tokenizer_config.json": js({"do_lower_case": True})},
        load_vocabulary,
        _HELD(7),
    ),
    "word pieces of tokenizer.json": of_file("tokenizer.json", js(_TOKENIZER), load_vocabulary, _HELD(7)),
    "word pieces as saved": of_file(
        "v.json", js({"word_pieces": _PIECES, "lower_case": True}), load_vocabulary, _HELD(7)
    ),
    "subwords as saved": of_file(
        "v.json",
        js({"subwords": _BYTE_PAIRS, "start_id": 0, "end_id": 1, "unknown_id": 1, "mask_id": 1}),
        load_vocabulary,
        _HELD(5),
    ),
}

# Images

_KINDS = [("RGB", "PNG", {}), ("I;16", "PNG", {}), ("LA", "PNG", {}), ("P", "PNG", {}), ("P", "GIF", {})]
_KINDS += [("CMYK", "TIFF", {}), ("F", "TIFF", {}), ("I;16", "TIFF", {"compression": "tiff_deflate"})]
_KINDS += [("RGB", "JPEG", {}), ("CMYK", "JPEG", {}), ("RGB", "WEBP", {}), ("RGB", "BMP", {}), ("1", "BMP", {})]
IMAGES = {
    f"image {mode} {kind}": of_file(
        f"p.{kind.lower()}", image(mode, kind, **options), read_image, lambda r: r.shape == (3, 12, 12)
    )
    for mode, kind, options in _KINDS
}

# Models and runs

_SMALL = SCANConfig(img_dim=4, word_dim=3, embed_size=2)


@cache
def _model_folder() -> Files:
    torch.manual_seed(0)
    files = written(lambda folder: save_model(SCAN(_SMALL, Vocabulary(_WORDS)), folder))
    return {name: content for name, content in files.items() if name != "README.md"}


@cache
def _original(name: str, old: bool = False) -> bytes:
    return pt(original_files.content_of(original_files.made(name)), _use_new_zipfile_serialization=not old)


@cache
def _run_folder() -> Files:
    def write(folder: Path) -> None:
        run = make_run("a", 0.5)
        save_run(replace(run, attention=run.attention[:1]), folder)

    return written(write)


def _load_run(folder: Path) -> Any:
    """A run whose digests are those of its damaged files: a folder that somebody made."""
    import hashlib

    try:
        card = json.loads((folder / "run.json").read_bytes())
        card["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in card["files"]}
        (folder / "run.json").write_text(json.dumps(card))
    except Exception:
        pass
    return load_run(folder)


def _embeddings() -> Files:
    items = {"image_ids": [1, 2], "caption_ids": [1, 2, 3], "image_names": ["a", "b"], "image_paths": ["a", "b"]}
    return {
        "images.npy": npy(_ROWS, np.float32),
        "captions.npy": npy(np.ones((3, 3)), np.float32),
        "caption_to_image.npy": npy([0, 0, 1]),
        "items.json": js({**items, "captions": ["x", "y", "z"]}),
        "embeddings.json": js({"model": "clip", "notes": ["n"]}),
    }


def _settings() -> RunSettings:
    return RunSettings("scan", _SMALL, DataConfig(data_path=Path("data")), TrainingConfig(), SAMConfig())


_PROGRESS = {"rows": {"images": 1, "captions": 3}, "conditions": {"model": "m"}, "sizes": "s"}


def _progress(folder: Path) -> Any:
    state = _State(folder, {"model": "m"}, np.zeros(2, dtype=np.int64), False)
    return state.rows


_BENCH = BenchSettings(operator="triplet", n_images=8, dim=16, repeats=2)
_BENCHED = {
    "operator": "triplet",
    "settings": {name: value for name, value in asdict(_BENCH).items() if value is not None and name != "operator"},
    "calls": [{"name": "fused", "median_ms": 0.5}],
}
_STATE = {"format": "itm-fast training state 1", "settings": {"seed": 1}, "state": {"step": 3, "w": torch.ones(2)}}
MODELS = {
    "model folder": Case(_model_folder, load_model, lambda r: r.config == _SMALL),
    **{
        f"checkpoint of {name}": Case(
            lambda name=name: {"a.pth.tar": _original(name)},
            at("a.pth.tar", lambda path: load_original(path, original_files.VOCABULARY)),
            lambda r, name=name: r.name == name,
        )
        for name in ("scan", "vsepp", "sgraf", "vse_infty", "chan")
    },
    "old checkpoint of scan": Case(
        lambda: {"a.pth.tar": _original("scan", old=True)},
        at("a.pth.tar", lambda path: load_original(path, original_files.VOCABULARY)),
        lambda r: r.name == "scan",
    ),
    "backbone": Case(
        lambda: {"a.pth": pt({"base": {"0.w": torch.ones(2)}, "top": {"0.b": torch.ones(2)}})},
        at("a.pth", lambda path: _read_weights(str(path), "detector")),
        lambda r: len(r) == 2,
    ),
    "run": Case(_run_folder, _load_run, lambda r: r.name == "a"),
    "embeddings": Case(_embeddings, read_embeddings, lambda r: r.images.shape == (2, 3)),
    "progress of embeddings": Case(
        lambda: {"progress.json": js(_PROGRESS)},
        _progress,
        None,
    ),
    "document frequencies": Case(
        lambda: written(lambda folder: Cider().fit([["a dog", "a cat"], ["the sea"]]).save(folder / "f.safetensors")),
        at("f.safetensors", Cider.load),
        lambda r: r.n_images == 2,
    ),
    "training state": of_file(
        "checkpoint.pt", pt(_STATE), lambda path: load_checkpoint(path, {"seed": 1}), lambda r: r["step"] == 3
    ),
    "settings of a run": Case(
        lambda: written(lambda folder: _settings().save(folder / "train.json")),
        at("train.json", RunSettings.load),
        lambda r: r == _settings(),
    ),
    "configuration of a transformer": of_file(
        "config.json",
        js({"model_type": "bert", "hidden_size": 4}),
        lambda p: read_config(p.parent),
        lambda r: len(r) == 2,
    ),
    "earlier bench": of_file("b.json", js(_BENCHED), lambda path: read_medians(path, _BENCH), {"fused": 0.5}),
}

# Captioned images


def _read_set(path: Path) -> Any:
    """A set with all its images, read as `inspect` does and as `embed`."""
    found = FoundPath(path)
    form = format_of(found)
    if form is not None:
        describe(found, form)
    items = read_captioned_images(path)
    for file in items.packed or ():
        file.read_bytes()
    return items


def _set(name: str, content: Callable[[], bytes]) -> Case:
    return Case(lambda: {name: content()}, at(name, _read_set), lambda r: len(r.captions) == 4)


_COCO_SET = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [{"id": n, "image_id": 1 + n // 2, "caption": f"a dog {n}"} for n in range(4)],
}
_TABLE = b"image,caption,split,language\n" + b"".join(b"%d.jpg,a dog %d,test,en\n" % (n // 2, n) for n in range(4))
_BEIR = {
    "corpus.jsonl": b'{"_id": "d0", "image": "a.jpg"}\n{"_id": "d1", "image": "b.jpg"}',
    "queries.jsonl": b"\n".join(js({"_id": f"q{n}", "text": f"a dog {n}"}) for n in range(4)),
    "qrels.tsv": b"query-id\tcorpus-id\tscore\n" + b"".join(b"q%d\td%d\t1\n" % (n, n // 2) for n in range(4)),
}


def _tar(form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in (
            ("a.jpg", b"\xff\xd8x"),
            ("a.txt", b"x\ny"),
            ("b.jpg", b"y"),
            ("b.json", js({"caption": ["z", "w"]})),
        ):
            entry = tarfile.TarInfo("long/" * (30 * (form != tarfile.USTAR_FORMAT)) + name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def _parquet(**options: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"image": {"bytes": b"\xff\xd8" * 9, "path": f"{n}.jpg"}, "caption": ["x", f"y{n}"]} for n in range(2)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, **options)
    return file.getvalue()


SETS = {
    "set of COCO": _set("a.json", lambda: js(_COCO_SET)),
    "set of RSICD": of_file(
        "a.json", js({**_KARPATHY, "dataset": "rsicd"}), _read_set, lambda r: r.format.startswith("RSICD")
    ),
    "set of a table": _set("a.csv", lambda: _TABLE),
    "set of tar": _set("a.tar", lambda: _tar(tarfile.USTAR_FORMAT)),
    "set of tar with long names": _set("a.tar", lambda: _tar(tarfile.PAX_FORMAT)),
    "set of tar of GNU": _set("a.tar", lambda: _tar(tarfile.GNU_FORMAT)),
    "set of BEIR": Case(lambda: dict(_BEIR), _read_set, lambda r: len(r.captions) == 4),
    "graded pairs": of_file("a.txt", b"1 0 a 2\n1 0 b 0\n", read_graded_pairs, lambda r: len(r) == 2),
}
if importlib.util.find_spec("pyarrow") is not None:
    SETS["set of parquet"] = _set("a.parquet", _parquet)
    SETS["set of parquet, unpacked"] = _set("a.parquet", lambda: _parquet(compression="none", use_dictionary=False))

CASES: dict[str, Case] = {**SETS, **TEXT, **IDS, **ARRAYS, **VOCABULARIES, **IMAGES, **MODELS}
