"""Tiny sets in the layouts of public releases: the files, their names and their keys are the releases' own."""

import gzip
import json

from captioned_sets import jpeg

TEXTS = {"en": "a dog runs", "de": "ein Hund rennt", "zh": "一只狗"}


def _lines(path, things):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(thing)}\n" for thing in things), encoding="utf-8")
    return path


def urban1k(folder, n=12):
    for name in ("image", "caption"):
        (folder / "Urban1k" / name).mkdir(parents=True)
    for number in range(1, n + 1):
        (folder / "Urban1k/image" / f"{number}.jpg").write_bytes(jpeg(number))
        (folder / "Urban1k/caption" / f"{number}.txt").write_text(f"A long caption of street {number}.\n")
    return folder / "Urban1k"


def docci(folder, n=12):
    things = [
        {
            "example_id": f"{split}_{i:05}",
            "split": split,
            "image_file": f"{split}_{i:05}.jpg",
            "description": f"It is {i}.",
        }
        for split in ("train", "test", "qual_dev")
        for i in range(n)
    ]
    return _lines(folder / "docci" / "docci_descriptions.jsonlines", things).parent


def dci(folder, n=12):
    place = folder / "densely_captioned_images"
    (place / "annotations").mkdir(parents=True)
    names = [f"{i:05}-data.json" for i in range(n)]
    for i, name in enumerate(names):
        thing = {
            "image": f"sa_{i}.jpg",
            "short_caption": f"Number {i}.",
            "extra_caption": "More of it.",
            "mask_data": {},
        }
        (place / "annotations" / name).write_text(json.dumps(thing))
    (place / "splits.json").write_text(json.dumps({"train": names[:8], "valid": names[8:10], "test": names[10:]}))
    return place


def iiw(folder, n=4):
    for name, key in (("IIW-400", "image/key"), ("DCI_Test", "image"), ("DOCCI_Test", "image")):
        things = [{"IIW": f"All of {name} {i}.", "metrics/x": 0, key: f"{name}_{i}"} for i in range(n)]
        _lines(folder / "datasets" / name / "data.jsonl", things)
    _lines(folder / "datasets/CM_3600/data.jsonl", [{"IIW-P5B": "by a model", "image/key": "x"}])
    return folder / "datasets"


def xm3600(folder, n=12):
    def captions(i):
        return {
            lang: {"caption": [f"{text} {i}"] * (1 + (lang == "de")), "caption/tokenized": ["x"]}
            for lang, text in TEXTS.items()
        }

    things = [{"image/key": f"{i:016x}", "image/locale": "en", **captions(i)} for i in range(n)]
    return _lines(folder / "captions.jsonl", things)


def xtd10(folder, n=12):
    for sub, lang in (("XTD10", "en"), ("XTD10", "zh"), ("MIC", "de")):
        (folder / "xtd" / sub).mkdir(parents=True, exist_ok=True)
        text = "".join(f"{TEXTS[lang]} {i}\n" for i in range(n))
        (folder / "xtd" / sub / f"test_1kcaptions_{lang}.txt").write_text(text, encoding="utf-8")
    names = "".join(f"COCO_val2014_{i:012}.jpg\n" for i in range(n))
    (folder / "xtd/XTD10/test_image_names.txt").write_text(names)
    return folder / "xtd"


def multi30k(folder, n=12):
    place = folder / "task2"
    place.mkdir()
    for split in ("val", "test_2016"):
        (place / f"{split}_images.txt").write_text("".join(f"{100 + i}.jpg\n" for i in range(n)))
        for number in range(1, 6):
            for lang in ("en", "de"):
                text = "".join(f"{TEXTS[lang]} {number} {split} {i}\n" for i in range(n))
                (place / f"{split}.{number}.{lang}.gz").write_bytes(gzip.compress(text.encode()))
    return place


def coco_cn(folder, n=12):
    place = folder / "coco-cn-version1805v1.1"
    place.mkdir()
    names = [f"COCO_val2014_{i:012}" for i in range(n)]
    lines = [f"{name}#{k}\t{TEXTS['zh']} {i} {k}\n" for i, name in enumerate(names) for k in range(1 + i % 2)]
    (place / "imageid.human-written-caption.txt").write_text("".join(lines), encoding="utf-8")
    for split, some in (("train", names[:2]), ("test", names[2:])):
        (place / f"coco-cn_{split}.txt").write_text("".join(f"{name}\n" for name in some))
    return place


def flickr30k_cn(folder, n=12):
    lines = [f"{100 + i}#{k}\t{TEXTS['zh']} {i} {k}\n" for i in range(n) for k in range(5)]
    (folder / "flickr30k_cn_test.txt").write_text("".join(lines), encoding="utf-8")
    return folder / "flickr30k_cn_test.txt"


def rococo(folder, n=12):
    def captions(i):
        own = [f"a dog {i} {k}" for k in range(6 if i == 3 else 5)]
        return own + [f"a five {i} {k}" for k in range(5)]

    path = folder / "rand_voca.json"
    path.write_text(
        json.dumps([{"image": f"val2014/COCO_val2014_{i:012}.jpg", "caption": captions(i)} for i in range(n)])
    )
    return path


def rococo_images(folder, n=12):
    entries = [
        {"image": f"val2014/COCO_val2014_{i:012}.jpg", "caption": [f"a dog {i} {k}" for k in range(6 if i == 3 else 5)]}
        for i in range(n)
    ]
    (folder / "coco_karpathy_test.json").write_text(json.dumps(entries))
    return folder / "coco_karpathy_test.json"


def winoground(folder, n=4):
    things = [
        {"id": i, "tag": "Noun", "num_main_preds": 1}
        | {f"image_{k}": f"ex_{i}_img_{k}" for k in (0, 1)}
        | {f"caption_{k}": f"order {k} of {i}" for k in (0, 1)}
        for i in range(n)
    ]
    return _lines(folder / "examples.jsonl", things)


def sugarcrepe(folder, n=4):
    place = folder / "data"
    place.mkdir()
    for name in ("swap_obj", "add_att"):
        things = {
            str(i): {"filename": f"{i:012}.jpg", "caption": f"{name} {i}", "negative_caption": f"not {name} {i}"}
            for i in range(n)
        }
        (place / f"{name}.json").write_text(json.dumps(things))
    return place


def sugarcrepe_pp(folder, n=4):
    place = folder / "data"
    place.mkdir()
    things = [
        {
            "id": i,
            "filename": f"{i % 3:012}.jpg",
            "caption": f"a {i}",
            "caption2": f"b {i}",
            "negative_caption": f"c {i}",
        }
        for i in range(n)
    ]
    (place / "swap_att.json").write_text(json.dumps(things))
    return place


def vidore(folder, n=12):
    """Pages and questions; a question has two pages, of grades 2 and 1."""
    place = folder / "docs_beir"
    (place / "qrels").mkdir(parents=True)
    _lines(place / "corpus.jsonl", [{"_id": f"p{i}", "image_path": f"{i}.png"} for i in range(n)])
    _lines(place / "queries.jsonl", [{"_id": f"q{i}", "text": f"what of {i}?"} for i in range(n - 1)])
    rows = [f"q{i}\tp{i + more}\t{2 - more}" for i in range(n - 1) for more in (0, 1)]
    (place / "qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return place


SETS = {
    "urban1k": urban1k,
    "docci": docci,
    "dci": dci,
    "iiw": iiw,
    "xm3600": xm3600,
    "xtd10": xtd10,
    "multi30k": multi30k,
    "coco-cn": coco_cn,
    "flickr30k-cn": flickr30k_cn,
    "rococo": rococo,
    "rococo-images": rococo_images,
}
CHOICES = {"winoground": winoground, "sugarcrepe": sugarcrepe, "sugarcrepe-pp": sugarcrepe_pp}
EVERY = {**SETS, **CHOICES, "vidore": vidore}
