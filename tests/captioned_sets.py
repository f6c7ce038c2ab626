"""Ten images with five captions each, written in every format that is read; each by the format's own library."""

import csv
import io
import json
import tarfile

import numpy as np
from PIL import Image

COLOURS = ("red", "green", "brown", "white", "black")
NAMES = [f"COCO_val2014_{key:012}.jpg" for key in range(41, 51)]
CAPTIONS = [
    [f"a {colour} {('dog', 'cat', 'man')[place % 3]} runs on {place} , grass" for colour in COLOURS]
    for place in range(10)
]
SPLIT = "test"


def jpeg(place):
    """The content of an image's file."""
    pixels = np.random.default_rng(place).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((24 + place, 20)).save(file, "JPEG")
    return file.getvalue()


IMAGES = [jpeg(place) for place in range(10)]
ROWS = [(name, content, texts) for name, content, texts in zip(NAMES, IMAGES, CAPTIONS, strict=True)]


def write_images(folder):
    folder.mkdir(exist_ok=True)
    for name, content, _ in ROWS:
        (folder / name).write_bytes(content)
    return folder


def _json(path, content):
    path.write_text(json.dumps(content))
    return path


def coco(folder):
    images = [{"id": 41 + place, "file_name": name} for place, name in enumerate(NAMES)]
    captions = [
        {"image_id": 41 + place, "id": 100 * place + n, "caption": CAPTIONS[place][n]}
        for n in range(5)
        for place in (3, 7, 0, 1, 2, 9, 8, 6, 5, 4)  # not by image
    ]
    order = [images[place] for place in (9, 0, 3, 1, 2, 8, 7, 4, 5, 6)]
    return _json(folder / "captions_val2014.json", {"info": {}, "images": order, "annotations": captions})


def _karpathy(place, split=SPLIT):
    sentences = [{"raw": text, "sentid": 10 * place + n, "tokens": []} for n, text in enumerate(CAPTIONS[place])]
    return {"filename": NAMES[place], "imgid": place, "split": split, "sentences": sentences}


def karpathy(folder):
    other = {"filename": "other.jpg", "split": "train", "sentences": [{"raw": "of another split", "sentid": 999}]}
    images = [{**_karpathy(place), "filepath": "val2014", "cocoid": 41 + place} for place in range(10)]
    return _json(folder / "dataset_coco.json", {"images": [other, *images], "dataset": "coco"})


def rsicd(folder):
    return _json(folder / "dataset_rsicd.json", {"images": list(map(_karpathy, range(10))), "dataset": "rsicd"})


def albef_lists(folder):
    return _json(folder / "coco_test.json", [{"image": f"images/{n}", "caption": t} for n, _, t in ROWS])


def albef_rows(folder):
    rows = [{"image": n, "caption": text, "image_id": f"coco_{n}"} for n, _, texts in ROWS for text in texts]
    return _json(folder / "coco_train.json", rows)


def caption_lists(folder):
    return _json(folder / "captions.json", dict(zip(NAMES, CAPTIONS, strict=True)))


def token(folder):
    path = folder / "results_20130124.token"
    path.write_text("".join(f"{n}#{i}\t{text}\n" for n, _, texts in ROWS for i, text in enumerate(texts)))
    return path


def kaggle(folder):
    lines = ["image_name| comment_number| comment"]
    lines += [f"{n}| {i}| {text}" for n, _, texts in ROWS for i, text in enumerate(texts)]
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    return folder / "results.csv"


def table(folder, delimiter=","):
    path = folder / ("table.csv" if delimiter == "," else "table.tsv")
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["image", "caption", "split", "language"])
        writer.writerow(["other.jpg", "of another split", "train", "en"])
        writer.writerows([n, text, SPLIT, "en"] for n, _, texts in ROWS for text in texts)
    return path


def tsv(folder):
    return table(folder, "\t")


def flickr_annotations(folder):
    path = folder / "flickr_annotations_30k.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["raw", "sentids", "split", "filename", "img_id"])
        writer.writerows([json.dumps(texts), "[]", SPLIT, n, i] for i, (n, _, texts) in enumerate(ROWS))
    return path


def parquet_lists(folder, row_group_size=4):
    """A folder of shards, images as structs, all captions of one in a row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "parquet" / "data").mkdir(parents=True)
    for shard, rows in enumerate((ROWS[:6], ROWS[6:])):
        rows = [{"image": {"bytes": c, "path": n}, "caption": t, "cocoid": 41 + NAMES.index(n)} for n, c, t in rows]
        path = folder / "parquet" / "data" / f"test-{shard:05}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return folder / "parquet"


def parquet_rows(folder):
    """One file, images as bytes, a caption a row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"filename": n, "image": c, "text": t, "split": SPLIT} for n, c, texts in ROWS for t in texts]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=7)
    return folder / "rows.parquet"


def _members(place, kind):
    stem = NAMES[place].removesuffix(".jpg")
    yield f"{stem}.jpg", IMAGES[place]
    if kind == "txt":
        yield f"{stem}.txt", "\n".join(CAPTIONS[place]).encode()
    else:
        yield f"{stem}.json", json.dumps({"caption": CAPTIONS[place], "url": "x"}).encode()


def write_tar(path, members):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def tar_lines(folder):
    """Shards in a folder of the split, as CLIP_benchmark has them."""
    (folder / "shards" / "test").mkdir(parents=True)
    for place in range(10):  # shard 10 comes behind shard 9
        write_tar(folder / "shards" / "test" / f"{5 + place}.tar", _members(place, "txt"))
    return folder / "shards"


def tar_json(folder):
    return write_tar(folder / "all.tar", [member for place in range(10) for member in _members(place, "json")])


def beir(folder):
    """Queries and qrels as text, the corpus as parquet with images, as MTEB's sets have it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = folder / "mteb"
    for part in ("corpus", "queries", "qrels"):
        (place / part).mkdir(parents=True)
    corpus = [{"id": n, "modality": "image", "image": {"bytes": c, "path": None}} for n, c, _ in ROWS]
    pq.write_table(pa.Table.from_pylist(corpus), place / "corpus" / "test-00000-of-00001.parquet")
    queries = [{"_id": f"q{i}-{k}", "text": text} for i, texts in enumerate(CAPTIONS) for k, text in enumerate(texts)]
    (place / "queries" / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}-{k}\t{n}\t1" for i, n in enumerate(NAMES) for k in range(5))]
    (place / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return place


def beir_text(folder):
    """Without parquet: the corpus names the images, the qrels are TREC's."""
    place = folder / "beir"
    (place / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "image_path": n} for i, n in enumerate(NAMES)]
    (place / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    lines = [f"{i}{k}\t{text}" for i, texts in enumerate(CAPTIONS) for k, text in enumerate(texts)]
    (place / "queries.tsv").write_text("_id\ttext\n" + "\n".join(lines) + "\n")
    judged = [f"{i}{k} 0 d{i} 1\n{i}{k} 0 d{(i + 1) % 10} 0\n" for i in range(10) for k in range(5)]
    (place / "qrels" / "test.trec").write_text("".join(judged))
    return place


JSON = (coco, karpathy, rsicd, albef_lists, albef_rows, caption_lists)
NAMED = (*JSON, token, kaggle, table, tsv, flickr_annotations, beir_text)
IN_PARQUET = (parquet_lists, parquet_rows, beir)
IN_TAR = (tar_lines, tar_json)
EVERY = (*NAMED, *IN_TAR, *IN_PARQUET)
FORMAT = {  # the name of each as the package has it
    "coco": "COCO's captions_*.json",
    "karpathy": "Karpathy's dataset_*.json",
    "rsicd": "RSICD's or RSITMD's dataset_*.json",
    "albef_lists": 'list of {"image", "caption"} as of ALBEF and BLIP',
    "albef_rows": 'list of {"image", "caption"} as of ALBEF and BLIP',
    "caption_lists": "{image: [captions]}",
    "token": "lines of a name and a caption (.token, results.csv, CSV, TSV)",
    "kaggle": "lines of a name and a caption (.token, results.csv, CSV, TSV)",
    "table": "table with headings (CSV, TSV)",
    "tsv": "table with headings (CSV, TSV)",
    "flickr_annotations": "table with headings (CSV, TSV)",
    "tar_lines": "web-dataset .tar",
    "tar_json": "web-dataset .tar",
    "parquet_lists": "Hugging Face parquet",
    "parquet_rows": "Hugging Face parquet",
    "beir": "MTEB's, MIEB's or BEIR's queries, corpus and qrels",
    "beir_text": "MTEB's, MIEB's or BEIR's queries, corpus and qrels",
}
