"""CIDEr and CIDEr-D: tokens, document frequencies, encoding. φ of encoded captions is in corpus.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from itm_fast.choices import perhaps
from itm_fast.data.text.tokenizers import CaptionTokenizer, resolve_tokenizer
from itm_fast.errors import warn
from itm_fast.ops import _library
from itm_fast.ops.cider import EncodedText
from itm_fast.relevance import frequency_file
from itm_fast.relevance.characters import character_tokens
from itm_fast.relevance.corpus import Corpus
from itm_fast.relevance.meaning import ONE_IMAGE, SplitCaptions, zero_note
from itm_fast.relevance.ptb import ptb_tokens
from itm_fast.shown import named_options, plain

_C = _library.load()

Variant: TypeAlias = Literal["cider_d", "cider"]
TokenizerName: TypeAlias = Literal["split", "ptb", "characters"]
Tokenizer: TypeAlias = TokenizerName | Callable[[str], list[str]]
References: TypeAlias = Sequence[Sequence[str]]
Progress: TypeAlias = Callable[[int, int], None]
Item = TypeVar("Item")

MAX_N = 16
_CHUNK = 4096  # captions whose tokens exist as Python strings at a time


class Cider:
    """Consensus of a caption with an image's references: φ(G, c), 0 ... 10.

    φ = 10 mean_n mean_{r in G} s_n(c, r), where s_n is the cosine of the tf-idf vectors of n-grams; in CIDEr-D the
    candidate's counts are clipped to the reference's, and the cosine is damped by exp(-(l_c - l_r)² / 2σ²), where l is
    the number of bigrams. idf = log(images) - log(images that have the n-gram); an n-gram that no image has counts as
    if one had it. A caption shorter than n words scores 0 at order n; an empty caption scores 0.

    A Cider, and the corpus that `encode` returns, can be copied and pickled: workers of a DataLoader take them,
    torch.save writes them. A file of that kind runs code when it is read: `torch.load(path, weights_only=False)` is for
    files of your own, `save` and `load` are for those of others.

    Args:
        variant: "cider_d", which is what pycocoevalcap and the codes of NCS and SAM compute under the name CIDEr, or
            "cider" without clipping and penalty.
        n: longest n-gram, in words.
        sigma: σ of the length penalty of CIDEr-D, in bigrams.
        tokenizer: "split": lower-case, then white space (NCS and, without the lower-casing, SAM); "ptb": the rules of
            pycocoevalcap's PTBTokenizer, without Java; "characters": for scripts without blanks between words, such as
            Chinese, Japanese and Thai, their characters, and the words of other scripts as "split" has them; or a
            callable from a caption to its list of tokens; pickled, it must be a function of a module.

    Raises:
        ValueError: an unknown variant or tokenizer, n outside 1 ... 16, sigma not above 0.

    Warns:
        DataWarning: φ says nothing: it is 0 everywhere, as from the document frequencies of one image; or captions of a
            script without blanks were not split. Once an object; ``Corpus.notes`` has it too.

    Source:
        Vedantam, Zitnick, Parikh, CIDEr, CVPR 2015, equations 1-4; tylin/coco-caption, cider_scorer.py (CIDEr-D).

    Example:
        >>> references = [["a dog runs on the grass", "a brown dog outside"], ["a red bus in the city", "the red bus"]]
        >>> cider = Cider().fit(references)
        >>> cider.relevance(references, ["a dog runs on the grass", "the red bus"])
        tensor([[5.3413, 0.0000],
                [0.0000, 4.8789]])
    """

    def __init__(
        self, variant: Variant = "cider_d", n: int = 4, sigma: float = 6.0, tokenizer: Tokenizer = "split"
    ) -> None:
        """Check the options; nothing is fitted yet."""
        if variant not in ("cider_d", "cider"):
            near = perhaps(variant, ("cider", "cider_d"))
            raise ValueError(f'variant is {variant!r}, expected "cider" or "cider_d"{near}')
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_N:
            raise ValueError(f"n is {n!r}, expected an integer from 1 to {MAX_N}")
        if not isinstance(sigma, (int, float)) or not math.isfinite(sigma) or sigma <= 0:
            raise ValueError(f"sigma is {sigma!r}, expected a number above 0")
        self.variant, self.n, self.sigma = variant, n, float(sigma)
        self._tokenizer = _resolve(tokenizer)
        self._frequencies: Any = None
        self._log_n_images = 0.0
        self._said: set[str] = set()

    def __repr__(self) -> str:
        fitted = "not fitted" if self._frequencies is None else f"fitted on {self.n_images} images"
        return f"Cider({self.variant}, {named_options(self, 'n', 'sigma')}, tokenizer={self._tokenizer.name}, {fitted})"

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and copy keep: of the document frequencies the tables, as `save` does."""
        frequencies = None if self._frequencies is None else (self.n_images, self._frequencies.tables())
        return {**vars(self), "_frequencies": frequencies, "_said": set(self._said)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The inverse of `__getstate__`: scores of the copy are equal to the last bit."""
        vars(self).update(state)
        if self._frequencies is not None:
            n_images, tables = self._frequencies
            self._frequencies = _C.DocumentFrequencies.from_tables(self.n, n_images, **tables)

    @property
    def n_images(self) -> int:
        """Images of the corpus that the document frequencies were fitted on; 0 before."""
        return 0 if self._frequencies is None else int(self._frequencies.n_images)

    def fit(
        self, references: References, *, log_n_images: float | None = None, progress: Progress | None = None
    ) -> Cider:
        """Count, for every n-gram, the images with it in at least one reference.

        Args:
            references: captions of every image. For NCS: of the split that is scored; for SAM: of the training split.
            log_n_images: what stands for log(images) in the idf; None: that logarithm. SAM's scorer reads it from a
                file that may hold the number itself; pass that number to compute what it did.
            progress: called with (images done, images in all).

        Returns:
            self.

        Raises:
            ValueError: no images, an image without captions, a log_n_images that would make an idf negative.
            TypeError: a caption that is not a string.
        """
        _check_references(references)
        frequencies = _C.DocumentFrequencies(self.n)
        done = 0
        counted = SplitCaptions(self._tokenizer.name)
        for images in _chunks(references, max(1, _CHUNK // 5)):
            frequencies.add_images([self._tokens(captions, counted) for captions in images])
            done += len(images)
            if progress is not None:
                progress(done, len(references))
        self._said.clear()
        self._keep(frequencies, math.log(frequencies.n_images) if log_n_images is None else log_n_images)
        self._say("script", counted.note())
        return self

    def encode(
        self, references: References, candidates: Sequence[str] | None = None, *, progress: Progress | None = None
    ) -> Corpus:
        """Encode captions once, so that φ of any pair of them costs no text.

        Args:
            references: captions of every image, at least one each; numbered in order.
            candidates: captions to be scored instead of the references, numbered from 0.
            progress: called with (captions done, captions in all).

        Returns:
            The corpus: ``relevance``, ``pairs``, and a tile scorer for ``evaluate``.

        Raises:
            ValueError: not fitted, an image without references.
            TypeError: a caption that is not a string.
        """
        frequencies = self._fitted()
        _check_references(references)
        if isinstance(candidates, str):
            raise TypeError("candidates is a string, expected a list of captions")
        sizes = torch.tensor([0, *map(len, references)]).cumsum(0)
        n_texts = int(sizes[-1]) + len(candidates or ())
        encoder = _C.Encoder(frequencies, self._log_n_images, self.variant == "cider_d")
        flat = (caption for captions in references for caption in captions)
        done = 0
        counted = SplitCaptions(self._tokenizer.name)
        for texts in (flat, candidates or ()):
            for chunk in _chunks(texts, _CHUNK):
                encoder.add(self._tokens(chunk, counted))
                done += len(chunk)
                if progress is not None:
                    progress(done, n_texts)
        arrays = {name: torch.from_numpy(array) for name, array in encoder.finish().items()}
        arrays["inverse_norms"] = arrays["inverse_norms"].reshape(-1, self.n)
        of_zero = zero_note(arrays["inverse_norms"][: int(sizes[-1])], self.n_images, self._log_n_images)
        notes = {"zero": of_zero, "script": counted.note()}
        for kind, note in notes.items():
            self._say(kind, note)
        return Corpus(
            EncodedText(**arrays, references=sizes),
            None if candidates is None else len(candidates),
            unary=self.variant == "cider_d",
            sigma=self.sigma if self.variant == "cider_d" else 0.0,
            is_zero=of_zero is not None,
            notes=[note for note in notes.values() if note is not None],
        )

    def relevance(
        self, references: References, candidates: Sequence[str], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """φ of every image and every candidate.

        Args:
            references: captions of every image.
            candidates: captions to be scored.
            dtype: float32 or float64 of the result; sums are float64 in either case.

        Returns:
            (n_images, n_candidates) φ, 0 ... 10.

        Raises:
            ValueError: not fitted, an image without references, a wrong dtype.
            TypeError: a caption that is not a string.
        """
        return self.encode(references, candidates).relevance(dtype=dtype)

    def score(self, references: References, candidates: Sequence[str]) -> Tensor:
        """φ of image i and candidate i: what pycocoevalcap returns for each image, its mean being the corpus score.

        Args:
            references: captions of every image.
            candidates: one caption an image.

        Returns:
            (n_images,) float64 φ.

        Raises:
            ValueError: not fitted, an image without references, not one candidate an image.
            TypeError: a caption that is not a string.

        Source: salaniz/pycocoevalcap, cider/cider.py (its factor 10 is in φ).
        """
        if len(candidates) != len(references):
            raise ValueError(f"candidates has {len(candidates)} captions, expected one an image: {len(references)}")
        ids = range(len(references))
        return self.encode(references, candidates).pairs(ids, ids, torch.float64)

    def save(self, path: str | Path) -> None:
        """Write the options and the document frequencies as safetensors, aside and then renamed.

        Args:
            path: the file; its folder must exist.

        Raises:
            ValueError: not fitted.
            FileNotFoundError: the folder does not exist.
        """
        header = frequency_file.Header(
            self.variant, self.n, self.sigma, self._tokenizer.name, self.n_images, self._log_n_images
        )
        frequency_file.write(path, header, self._fitted().tables())

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        variant: Variant | None = None,
        n: int | None = None,
        sigma: float | None = None,
        tokenizer: Tokenizer | None = None,
        n_images: int | None = None,
    ) -> Cider:
        """Read what ``save`` wrote; nothing is unpickled.

        Args:
            path: the file.
            variant: what the file must have been written for; None takes what it says.
            n: likewise.
            sigma: likewise.
            tokenizer: likewise; needed if the file was made with a callable, which is not stored.
            n_images: images of the corpus that it must have been fitted on; None: any.

        Returns:
            The fitted scorer.

        Raises:
            FileNotFoundError: there is no such file.
            DataError: not such a file, damaged, or of another variant, tokenizer or corpus than asked for.
        """
        header, tables = frequency_file.read(path)
        wanted = {
            "variant": variant,
            "n": n,
            "sigma": sigma,
            "tokenizer": None if tokenizer is None else _resolve(tokenizer).name,
            "n_images": n_images,
        }
        header.check(path, wanted)
        if tokenizer is None:
            tokenizer = frequency_file.stored_tokenizer(path, header)
        stored = tokenizer

        def build() -> Cider:
            loaded = cls(header.variant, header.n, header.sigma, stored)
            frequencies = _C.DocumentFrequencies.from_tables(header.n, header.n_images, **tables)
            loaded._keep(frequencies, header.log_n_images)
            return loaded

        return frequency_file.checked(path, build)

    def _keep(self, frequencies: Any, log_n_images: float) -> None:
        most = math.log(max(1, frequencies.most_images))
        if not math.isfinite(log_n_images) or log_n_images < most:
            raise ValueError(
                f"log_n_images is {plain(log_n_images)}, expected a number of at least {most:.4f}: the commonest "
                f"n-gram is in {frequencies.most_images} images, and its idf must not be negative"
            )
        self._frequencies, self._log_n_images = frequencies, log_n_images
        self._say("zero", ONE_IMAGE if log_n_images == 0 else None)

    def _say(self, kind: str, note: str | None) -> None:
        if note is not None and kind not in self._said:
            self._said.add(kind)
            warn(note)

    def _fitted(self) -> Any:
        if self._frequencies is None:
            raise ValueError("this Cider is not fitted: call fit(references) first, or Cider.load(path)")
        return self._frequencies

    def _tokens(self, captions: Iterable[str], counted: SplitCaptions) -> list[list[str]]:
        split = self._tokenizer if self._tokenizer.name == "callable" else self._tokenizer.split
        found = []
        for caption in captions:
            if not isinstance(caption, str):
                raise TypeError(f"a caption is {type(caption).__name__} ({caption!r:.40}), expected str")
            found.append(split(caption))
            counted.add(caption, found[-1])
        return found


def _resolve(tokenizer: Tokenizer) -> CaptionTokenizer:
    if tokenizer == "ptb":
        return CaptionTokenizer("ptb", ptb_tokens, finds_sentences=True)
    if tokenizer == "characters":
        return CaptionTokenizer("characters", character_tokens, finds_sentences=True)
    if tokenizer != "split" and not callable(tokenizer):
        near = perhaps(tokenizer, ("characters", "ptb", "split"))
        raise ValueError(f'tokenizer is {tokenizer!r}; expected "characters", "ptb", "split" or a callable{near}')
    return resolve_tokenizer(tokenizer)


def _check_references(references: References) -> None:
    if isinstance(references, str) or not isinstance(references, Sequence):
        raise TypeError(f"references is {type(references).__name__}, expected a list (per image) of lists of captions")
    if not references:
        raise ValueError("references is empty, expected the captions of at least one image")
    for image, captions in enumerate(references):
        if isinstance(captions, str) or not isinstance(captions, Sequence):
            raise TypeError(
                f"references[{image}] is {type(captions).__name__}, expected the list of an image's captions"
            )
        if not captions:
            raise ValueError(f"references[{image}] is empty, expected at least one caption an image")


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
