"""The concepts that people speak of: the most frequent content words of the training captions, and which go together.

Files of concepts are read in `concept_files`.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from itm_fast.data.text.caption_tokens import CaptionTokens
from itm_fast.data.text.vocabulary import SPECIALS, Vocabulary
from itm_fast.indices import IndexLike, as_indices, distinct_numbers

Doubles = npt.NDArray[np.float64]

# Words that say how other words hang together. CVSE's authors took the most frequent objects, properties and motions;
# whatever is frequent and not listed here comes close, without a tagger.
_LISTED = """
a an the this that these those some any no each every either neither both all another such same own
i you he she it we they me him her us them my your his its our their who whom whose which what there here
am is are was were be been being do does did done has have had having can could will would shall should may might
must and or but nor so yet if then than as because while when where why how though although until unless whether
of in on at by to from with without for into onto over under above below up down out off through across along
around about between among behind beside besides near next against toward towards during before after inside
outside within upon past via per like amid among amongst away back not n't 's very too also just only more most
much many few several less least one two three four five six seven eight nine ten other others it's
"""
_FUNCTION_WORDS = frozenset(_LISTED.split())
# Endings of plurals, the longest singular first.
_PLURALS = (
    ("s", ""),
    ("ies", "y"),
    ("ves", "f"),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
)
# What these do not make, and what is no plural, or not of a noun.
_IRREGULAR = {
    "buss": "bus",
    "busses": "bus",
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "knives": "knife",
    "lives": "life",
    "mice": "mouse",
    "teeth": "tooth",
    "wives": "wife",
    **{word: word for word in ("bus", "grass", "is", "men", "others", "outdoors", "sits", "vases")},
}
_BLOCK = 1 << 15  # captions whose concepts are multiplied at a time; float32 counts stay exact


@dataclass(frozen=True, eq=False)
class Concepts:
    """Concepts in the order of their numbers.

    Attributes:
        words: One word each.
        counts: float64 (n_concepts,), captions that hold the concept, above 0.
        together: float64 (n_concepts, n_concepts), captions that hold both; symmetric, 0 on the diagonal.
        vectors: float64 (n_concepts, dim), what the concept graph begins from.

    Raises:
        ValueError: The shapes do not fit each other, or a number is out of range.
    """

    words: tuple[str, ...]
    counts: Doubles
    together: Doubles
    vectors: Doubles

    def __post_init__(self) -> None:
        n = len(self.words)
        if self.counts.shape != (n,) or self.together.shape != (n, n) or self.vectors.shape[:1] != (n,):
            raise ValueError(
                f"{n} concepts, but counts has shape {self.counts.shape}, together {self.together.shape}, vectors "
                f"{self.vectors.shape}; expected ({n},), ({n}, {n}) and ({n}, dim)"
            )
        if not (np.isfinite(self.counts).all() and (self.counts > 0).all()):
            raise ValueError("counts holds a number that is not above 0; every concept must occur")
        if not (np.isfinite(self.together).all() and (self.together >= 0).all()):
            raise ValueError("together holds a number that is below 0 or not finite; expected counts of captions")
        if self.vectors.ndim != 2 or not np.isfinite(self.vectors).all():
            raise ValueError(f"vectors has shape {self.vectors.shape} or holds a number that is not finite")

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of_captions(
        cls, tokens: CaptionTokens, captions: IndexLike, vocabulary: Vocabulary, n_concepts: int, dim: int
    ) -> Concepts:
        """The most frequent content words of some captions, equally frequent ones in the vocabulary's order.

        Vectors come from what the captions hold together, so that no file is needed: the positive pointwise mutual
        information of all pairs, a concept with itself included, factorised to `dim` numbers.

        Args:
            tokens: Captions as encoded by `vocabulary`.
            captions: Which of them to read.
            vocabulary: Says which words the ids are.
            n_concepts: How many concepts.
            dim: Numbers per vector.

        Returns:
            The concepts.

        Raises:
            ValueError: The captions hold fewer content words.

        Source:
            Wang et al., ECCV 2020, section 3.3, for counts; Levy and Goldberg, NIPS 2014, for the vectors: GloVe's and
            word2vec's factorise nearly this matrix.
        """
        indices = as_indices(captions, len(tokens), "captions")
        is_content = np.array([_is_content(vocabulary.idx2word[index]) for index in range(len(vocabulary))])
        pairs = _words_of_captions(tokens, indices, len(vocabulary))  # (n_pairs, 2): caption, word
        pairs = pairs[is_content[pairs[:, 1]]]
        counts = np.bincount(pairs[:, 1], minlength=len(vocabulary))
        n_found = int((counts > 0).sum())
        if n_found < n_concepts:
            raise ValueError(
                f"n_concepts is {n_concepts}, but the training captions hold only {n_found} different content words; "
                f"give --n-concepts {n_found} or fewer"
            )
        chosen = np.argsort(-counts, kind="stable")[:n_concepts]
        number = np.full(len(vocabulary), -1)
        number[chosen] = np.arange(n_concepts)
        held = number[pairs[:, 1]]
        together = _counted_together(pairs[held >= 0, 0], held[held >= 0], n_concepts)
        kept = counts[chosen].astype(np.float64)
        vectors = _factorised(kept, together, len(indices), dim)
        return cls(tuple(vocabulary.idx2word[int(index)] for index in chosen), kept, together, vectors)

    def adjacency(self) -> Doubles:
        """The concept graph's edges, (n_concepts, n_concepts): every concept to itself, and to those it calls up.

        P = E / n, rescaled to 5^(p - 0.02) - 5^(-0.02) against the long tail; those of at least 0.3 are edges of weight
        0.25 / (edges that end in the concept).

        Source:
            Wang et al., ECCV 2020, equations 1 to 3; BruceW91/CVSE, util_C_GCN.py, its mode "Complex".
        """
        p = self.together / self.counts[:, None]
        edges = (np.power(5.0, p - 0.02) - 5.0**-0.02 >= 0.3).astype(np.float64)
        found: Doubles = edges * 0.25 / (edges.sum(0) + 1e-6) + np.eye(len(self))
        return found

    def numbers_of(self, vocabulary: Vocabulary, *, lemmatise: bool = True) -> npt.NDArray[np.int64]:
        """int64 (len(vocabulary),): the number of each word's concept plus 1, 0 where it has none.

        Args:
            vocabulary: The words.
            lemmatise: Compare words and concepts by their lemmas, so that "women" and "woman" share a number, the first
                of the two concepts; otherwise as they are written.

        Source:
            BruceW91/CVSE, data.py: lemmas for a caption's own labels (nltk's WordNetLemmatizer, as nouns), words as
            they are written in its files of images' labels.
        """
        known = {*vocabulary.word2idx, *self.words}

        def form(word: str) -> str:
            return singular(word, known) if lemmatise else word

        numbers = {form(word): number for number, word in reversed(list(enumerate(self.words, 1)))}  # the first wins
        found = np.zeros(len(vocabulary), dtype=np.int64)
        for word, index in vocabulary.word2idx.items():
            if index and word not in SPECIALS:  # id 0 fills captions up
                found[index] = numbers.get(form(word), 0)
        return found


def singular(word: str, known: Container[str]) -> str:
    """The lemma of a word as a noun, as WordNet's morphology makes it; `known` stands for its list of nouns.

    The same as WordNet's for all words of the published vocabularies of Flickr30K and MSCOCO that are a concept of
    CVSE's, or one's plural.
    """
    irregular = _IRREGULAR.get(word)
    if irregular is not None and (irregular == word or irregular in known):
        return irregular
    for ending, more in _PLURALS:
        form = word.removesuffix(ending) + more
        if word.endswith(ending) and form in known:
            return form
    return word


def _is_content(word: str) -> bool:
    return word not in SPECIALS and word not in _FUNCTION_WORDS and len(word) > 1 and word.replace("-", "").isalpha()


def _words_of_captions(tokens: CaptionTokens, indices: npt.NDArray[np.int64], n_words: int) -> npt.NDArray[np.int64]:
    """(n_pairs, 2) caption and word, each word once a caption, in order."""
    wanted = np.zeros(len(tokens), dtype=bool)
    wanted[indices] = True
    caption = np.repeat(np.arange(len(tokens)), np.diff(tokens.offsets))
    is_wanted = wanted[caption]
    keys = distinct_numbers(caption[is_wanted] * n_words + tokens.flat[is_wanted])
    return np.stack(np.divmod(keys, n_words), axis=1)


def _counted_together(captions: npt.NDArray[np.int64], held: npt.NDArray[np.int64], n_concepts: int) -> Doubles:
    total = np.zeros((n_concepts, n_concepts))
    if not len(captions):
        return total
    for first in range(int(captions[0]), int(captions[-1]) + 1, _BLOCK):
        start, stop = np.searchsorted(captions, (first, first + _BLOCK))
        holds = np.zeros((_BLOCK, n_concepts), dtype=np.float32)
        holds[captions[start:stop] - first, held[start:stop]] = 1
        total += holds.T @ holds
    np.fill_diagonal(total, 0)
    return total


def _factorised(counts: Doubles, together: Doubles, n_captions: int, dim: int) -> Doubles:
    """Vectors (n_concepts, dim) whose products come closest to the positive pointwise mutual information."""
    joint = together + np.diag(counts)
    with np.errstate(divide="ignore"):
        information = np.maximum(np.log(joint * n_captions / np.outer(counts, counts)), 0)
    values, directions = np.linalg.eigh(information)
    largest = np.argsort(-values)[:dim]
    found = directions[:, largest] * np.sqrt(np.maximum(values[largest], 0))
    return np.pad(found, ((0, 0), (0, dim - found.shape[1])))
