"""A data set in SCAN's layout whose captions and region features share meaning, made without any download.

Holds features and files; what the captions say is in `scenes`. It is for trying out training and evaluation at any
size; recall on it says nothing about photographs.
"""

import errno
import hashlib
import itertools
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from itm_fast.data.made.scenes import Words, draw_scene, pick, scene_captions
from itm_fast.data.readers.caption_lines import read_captions
from itm_fast.data.readers.precomp import CAPTIONS_PER_IMAGE
from itm_fast.data.readers.reference_captions import read_references
from itm_fast.data.text.tokenizers import Tokenizer, resolve_tokenizer
from itm_fast.data.text.vocabulary import Vocabulary
from itm_fast.errors import DataError
from itm_fast.files.writing import written_aside

SPLITS = ("train", "dev", "test")

Draw = Callable[[int, int, np.random.Generator], tuple[Sequence[str], Sequence[Words]]]
"""(split index, image index, generator) -> five captions and the image's elements, each a few concept names."""

_BACKGROUNDS = 64  # kinds of region that no caption speaks of

# In captions of people's own, these say nothing that a region could show.
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the and or but of to in on at by for with from into onto over under up down out off near next is are was "
        "were be been being has have had do does did it its he his him she her hers they their them this that these "
        "those there here some someone something who which what while as than then so not no one other another each",
    )
)


def _scene_image(split: int, image: int, rng: np.random.Generator) -> tuple[Sequence[str], Sequence[Words]]:
    scene = draw_scene(split, rng)
    return scene_captions(scene, rng), scene.elements()


def _content_words(captions: Sequence[str]) -> list[str]:
    """Content words of one image's captions, those that most captions use first."""
    counts = Counter(
        word
        for caption in captions
        for word in sorted(set(re.findall(r"[^\W_]+", caption.lower())))
        if word not in _STOP_WORDS and len(word) > 1
    )
    return [word for word, _ in counts.most_common()]


def _given_image(
    captions: Sequence[str], firsts: Sequence[int], split: int, image: int, rng: np.random.Generator
) -> tuple[Sequence[str], Sequence[Words]]:
    """Captions of people's own: each content word is seen, together with one other word of the same image."""
    start = (firsts[split] + image) * CAPTIONS_PER_IMAGE
    five = captions[start : start + CAPTIONS_PER_IMAGE]
    words = _content_words(five)
    return five, [(word, words[int(rng.integers(len(words)))]) for word in words]


class _Features:
    """Region features of an image from its elements; a concept has one direction in all images and splits."""

    def __init__(self, max_regions: int, dim: int, noise: float, seed: int) -> None:
        self.max_regions, self.dim, self.noise, self.seed = max_regions, dim, noise, seed
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def direction(self, concept: str) -> npt.NDArray[np.float32]:
        """The unit vector of a concept, float32 (dim,); depends on its name and the seed only."""
        if concept not in self._known:
            code = int.from_bytes(hashlib.blake2b(concept.encode(), digest_size=8).digest(), "little")
            vector = np.random.default_rng([self.seed, code]).standard_normal(self.dim)
            self._known[concept] = (vector / np.linalg.norm(vector)).astype(np.float32)
        return self._known[concept]

    def image(self, elements: Sequence[Words], rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Features of one image, float32 (max_regions, dim), root mean square √(1 + noise²) in every dimension.

        About the magnitude of bottom-up features, so that usual learning rates fit.
        """
        regions = self._regions(elements, rng)
        concepts = list(dict.fromkeys(itertools.chain.from_iterable(regions)))
        column = {concept: index for index, concept in enumerate(concepts)}
        weights = np.zeros((self.max_regions, len(concepts)), dtype=np.float32)
        for row, region in enumerate(regions):
            for concept, weight in zip(region, (1.0, *rng.uniform(0.5, 0.9, len(region) - 1)), strict=True):
                weights[row, column[concept]] += weight
        signal = weights @ np.stack([self.direction(concept) for concept in concepts])  # (max_regions, dim)
        signal *= math.sqrt(self.dim) / np.linalg.norm(signal, axis=1, keepdims=True)
        signal += np.float32(self.noise) * rng.standard_normal(signal.shape, dtype=np.float32)
        return np.asarray(signal[rng.permutation(self.max_regions)])

    def _regions(self, elements: Sequence[Words], rng: np.random.Generator) -> list[Words]:
        """What each region shows: every element once if there is room, some again, one region in six background."""
        n_foreground = self.max_regions - self.max_regions // 6 if elements else 0
        shown = list(elements[:n_foreground])
        shown += [pick(rng, elements) for _ in range(n_foreground - len(shown))]
        background = rng.integers(_BACKGROUNDS, size=self.max_regions - n_foreground)
        return shown + [(f"background {int(kind)}",) for kind in background]


@dataclass(frozen=True)
class MadeData:
    """What `make_data` wrote.

    Attributes:
        folder: Where.
        files: File name -> bytes.
        n_images: Split -> images; five captions each.
        n_words: Words of vocab.json, specials included.
    """

    folder: Path
    files: dict[str, int]
    n_images: dict[str, int]
    n_words: int


def estimate_bytes(n_images: int, *, max_regions: int = 36, dim: int = 256) -> int:
    """Disk space that a generated folder will take.

    Args:
        n_images: Images of all splits together.
        max_regions: Regions an image.
        dim: Width of a region's feature.

    Returns:
        Bytes: float32 features exactly, text at 400 bytes an image, 64 KiB for the rest.
    """
    return n_images * (max_regions * dim * 4 + 400) + 2**16


def make_data(
    folder: str | Path,
    *,
    n_train: int = 2000,
    n_dev: int = 200,
    n_test: int = 1000,
    max_regions: int = 36,
    dim: int = 256,
    seed: int = 0,
    noise: float = 1.0,
    captions: str | Path | Sequence[str] | None = None,
    tokenizer: Tokenizer = "split",
    overwrite: bool = False,
    chunk_images: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> MadeData:
    """Write a folder in SCAN's layout: train, dev and test features, captions and ids, vocab.json, README.txt.

    Each image is a scene of an actor, things, a place and more; its five captions each speak of a part of it, and
    each region is the sum of the directions of one part's concepts plus noise. The same seed gives the same data,
    whatever `chunk_images` is. Test and dev hold combinations of actor, action, thing and place that train lacks.

    Args:
        folder: Where; made if need be.
        n_train: Images of split train; with `captions`, shares of the images that the captions have, in file order.
        n_dev: The same for dev.
        n_test: The same for test.
        max_regions: Regions an image.
        dim: Width of a region's feature.
        seed: Not negative; fixes everything.
        noise: Standard deviation of the noise, in units of a region's signal (both per dimension).
        captions: Captions of your own, five consecutive lines an image, as a file's path or a sequence of lines;
            the features are then made from their content words. None makes captions too.
        tokenizer: Makes vocab.json's words of the train and dev captions, and is kept there where it has a name.
        overwrite: Allow a folder that holds something; this function's files in it are replaced, others stay.
        chunk_images: Images in memory at a time.
        progress: Called with (images done, images in all), first with 0 done.

    Returns:
        The files with their sizes.

    Raises:
        ValueError: A size is out of range, or there are too few captions for the three splits.
        DataError: The captions file is not five UTF-8 lines an image.
        FileExistsError: The folder holds something and overwrite is False.
        FileNotFoundError: There is no such captions file.
        OSError: The disk has too little room (checked first: a memory-mapped write would end in a bus error).
        ImportError: tokenizer is "nltk" and nltk is not installed.
    """
    counts = (n_train, n_dev, n_test)
    least_one = {"max_regions": max_regions, "dim": dim, "chunk_images": chunk_images}
    _check_integers(1, n_train=n_train, n_dev=n_dev, n_test=n_test, **least_one)
    _check_integers(0, seed=seed)
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise is {noise!r}; expected a finite number, at least 0")
    ready = resolve_tokenizer(tokenizer)
    draw: Draw = _scene_image
    if captions is not None:
        lines = _given_captions(captions)
        counts = _shares(counts, len(lines) // CAPTIONS_PER_IMAGE)
        draw = partial(_given_image, lines, (0, counts[0], counts[0] + counts[1]))
    total, done = sum(counts), 0
    folder = _prepared(Path(folder), estimate_bytes(total, max_regions=max_regions, dim=dim), overwrite)
    report = progress or (lambda done, total: None)
    report(0, total)
    features = _Features(max_regions, dim, noise, seed)
    for split in range(len(SPLITS)):
        for written in _write_split(folder, split, counts, draw, features, chunk_images):
            done += written
            report(done, total)
    # Generated words are few and all meant; rare words of people's captions are mostly misspelt.
    vocabulary = Vocabulary.build(
        map(ready, _known_captions(folder)),
        threshold=1 if captions is None else 4,
        tokenizer=None if callable(tokenizer) else tokenizer,
    )
    vocabulary.save(folder / "vocab.json")
    made_from = "scenes and sentences of a small world" if captions is None else "given captions and their words"
    _write_readme(folder, counts, f"{made_from}, seed {seed}, noise {noise}", ready.name)
    files = {name: (folder / name).stat().st_size for name in _file_names()}
    return MadeData(folder, files, dict(zip(SPLITS, counts, strict=True)), len(vocabulary))


def _check_integers(least: int, **values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}")


def _given_captions(captions: str | Path | Sequence[str]) -> list[str]:
    if isinstance(captions, (str, Path)):
        if not Path(captions).is_file():
            raise FileNotFoundError(f"{captions}: no such captions file; expected UTF-8, five lines an image")
        images = read_references(captions)
        odd = next((place for place, texts in enumerate(images) if len(texts) != CAPTIONS_PER_IMAGE), None)
        if odd is not None:
            raise DataError(f"{captions}: image {odd} has {len(images[odd])} captions; expected five an image")
        return [" ".join(caption.split()) for texts in images for caption in texts]
    lines, where = [" ".join(caption.split()) for caption in captions], "captions"
    if "" in lines:
        raise DataError(f"captions[{lines.index('')}] is blank; expected text")
    if len(lines) % CAPTIONS_PER_IMAGE:
        raise DataError(f"{where}: {len(lines)} captions; expected five an image")
    return lines


def _shares(parts: tuple[int, int, int], n_images: int) -> tuple[int, int, int]:
    """Divide the images in the proportion of the parts; each border is rounded down, so that all images are used."""
    first, second = (n_images * sum(parts[:count]) // sum(parts) for count in (1, 2))
    counts = (first, second - first, n_images - second)
    if min(counts) < 1:
        raise ValueError(
            f"captions has {n_images} images, which n_train : n_dev : n_test = {' : '.join(map(str, parts))} divides "
            f"into {counts}; expected at least one image a split"
        )
    return counts


def _file_names() -> list[str]:
    layout = [f"{split}_{suffix}" for split in SPLITS for suffix in ("ims.npy", "caps.txt", "ids.txt")]
    return [*layout, "vocab.json", "README.txt"]


def _prepared(folder: Path, n_bytes: int, overwrite: bool) -> Path:
    """Make the folder ready: empty of our files, on a disk with room."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not overwrite:
        raise FileExistsError(f"{folder}: not empty; choose another folder, or overwrite=True to replace its data")
    ours = [folder / name for name in _file_names() if (folder / name).exists()]
    free = shutil.disk_usage(folder).free + sum(path.stat().st_size for path in ours)
    if free < n_bytes:
        raise OSError(errno.ENOSPC, f"{n_bytes} bytes to write, {free} free", str(folder))
    for path in ours:  # before any is written: an interrupted run must not leave old captions with new features
        path.unlink()
    return folder


def _write_split(
    folder: Path, split: int, counts: Sequence[int], draw: Draw, features: _Features, chunk_images: int
) -> Iterator[int]:
    """Write one split's three files; yields the number of images after each chunk."""
    n_images, first_id, name = counts[split], sum(counts[:split]), SPLITS[split]
    with ExitStack() as stack:
        caps, ids, ims = (
            stack.enter_context(written_aside(folder / f"{name}_{suffix}"))
            for suffix in ("caps.txt", "ids.txt", "ims.npy")  # the last is named if the disk is full: the largest
        )
        shape = (n_images, features.max_regions, features.dim)
        images = np.lib.format.open_memmap(ims, mode="w+", dtype=np.float32, shape=shape)
        ids.write_text("".join(f"{first_id + image}\n" for image in range(n_images)), encoding="ascii")
        with caps.open("w", encoding="utf-8", newline="\n") as lines:
            for start in range(0, n_images, chunk_images):
                stop = min(start + chunk_images, n_images)
                for image in range(start, stop):
                    # A generator of its own for each image: the data does not depend on the chunks.
                    rng = np.random.default_rng([features.seed, split, image])
                    five, elements = draw(split, image, rng)
                    images[image] = features.image(elements, rng)
                    lines.writelines(f"{caption}\n" for caption in five)
                images.flush()
                yield stop - start
        del images  # closes the map before the rename


def _known_captions(folder: Path) -> Iterable[str]:
    """Captions that a vocabulary may be made from: SCAN's are of train and dev."""
    return itertools.chain.from_iterable(read_captions(folder / f"{split}_caps.txt") for split in SPLITS[:2])


def _write_readme(folder: Path, counts: Sequence[int], made_from: str, tokenizer_name: str) -> None:
    sizes = ", ".join(f"{split} {count}" for split, count in zip(SPLITS, counts, strict=True))
    text = (
        "Generated by `itm-fast make-data`: the features come from no photograph, and recall on them is no result.\n"
        f"Made from {made_from}.\n"
        f"Images: {sizes}; five captions each.\n"
        "Layout: SCAN's. {split}_ims.npy float32 (images, regions, dim), {split}_caps.txt, {split}_ids.txt.\n"
        f'vocab.json: words of the train and dev captions, tokenizer "{tokenizer_name}".\n'
    )
    with written_aside(folder / "README.txt") as temporary:
        temporary.write_text(text, encoding="utf-8")
