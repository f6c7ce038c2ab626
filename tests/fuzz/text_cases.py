"""Captions, references, names, judgements, ratings and word vectors."""

import gzip

from fuzz.case import Case, js, npy, of_file

from itm_fast.data.readers.concept_files import read_word_vectors
from itm_fast.data.readers.fine_grained import read_fine_grained
from itm_fast.data.readers.formats import read_captioned_images
from itm_fast.data.readers.reference_captions import read_names, read_references, read_texts
from itm_fast.data.readers.relevance_matrix import read_relevance
from itm_fast.evaluation.human_judgement import cider_of_pairs, read_judgements
from itm_fast.evaluation.protocols import cxc
from itm_fast.training.log import _lines_until

_TOKEN = b"".join(b"%d.jpg#%d\ta dog %d\n" % (n // 2, n % 2, n) for n in range(4))
_KAGGLE = b"image_name| comment_number| comment\n" + b"".join(
    b"%d.jpg| %d| a dog %d\n" % (n // 2, n % 2, n) for n in range(4)
)
_ALBEF = [{"image": "a.jpg", "caption": ["x", "y"]}, {"image": "b.jpg", "caption": "z"}]
KARPATHY = {
    "images": [
        {"filename": "a.jpg", "filepath": "f", "cocoid": 3, "split": "test", "sentences": [{"raw": "x", "sentid": 1}]},
        {"filename": "b.jpg", "filepath": "f", "cocoid": 4, "split": "test", "sentences": [{"raw": "y", "sentid": 2}]},
    ]
}
LINES = b"a dog\na cat\nthe sea\r\na caf\xc3\xa9\n"
_CAPTIONS = ["a dog", "a cat", "the sea", "a café"]
_SITS = b"caption,image,agg_score,sampling_method\n1,a.jpg,4.5,c2i_original\n2,b.jpg,0.5,x\n"


def _cxc(task: str) -> bytes:
    row = {"sts": "1,2", "sis": "COCO_val2014_000000000003.jpg,4.jpg", "sits": "1,COCO_val2014_000000000003.jpg"}
    return f"{','.join(cxc.COLUMNS[task])},agg_score,sampling_method\n{row[task]},4.5,x\n".encode()


TEXT = {
    "captions of lines": of_file("a.txt", LINES, read_texts, _CAPTIONS),
    "captions of .gz": of_file("a.txt.gz", gzip.compress(LINES, mtime=0), read_texts, _CAPTIONS),
    "references of lines": of_file("a.txt", LINES, lambda path: read_references(path, 2), lambda r: len(r) == 2),
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
        "a.json", js(KARPATHY), read_captioned_images, lambda r: r.caption_ids == [1, 2] and r.image_ids == [3, 4]
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
        lambda: {"a.csv": _SITS, "k.json": js(KARPATHY)},
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
