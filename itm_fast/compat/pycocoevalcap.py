"""Drop-in for pycocoevalcap's CIDEr, without Java: same class, same method, same numbers.

from pycocoevalcap.cider.cider import Cider  ->  from itm_fast.compat.pycocoevalcap import Cider
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from itm_fast.relevance import Cider as _Cider


class Cider:
    """CIDEr-D of one hypothesis an image, with document frequencies from the references that are handed in.

    Source:
        salaniz/pycocoevalcap, cider/cider.py.

    Example:
        >>> gts = {7: ["a dog runs", "the dog is running"], 8: ["a red bus", "one red bus on a street"]}
        >>> mean, scores = Cider().compute_score(gts, {7: ["a dog runs"], 8: ["the red bus"]})
        >>> round(mean, 4), scores.round(4)
        (3.375, array([4.1858, 2.5641]))
    """

    def __init__(self, test: object = None, refs: object = None, n: int = 4, sigma: float = 6.0) -> None:
        """Keep the options.

        Args:
            test: not used, as in the original.
            refs: not used, as in the original.
            n: longest n-gram, in words.
            sigma: of the length penalty, in bigrams.
        """
        self._n, self._sigma = n, sigma

    def compute_score(
        self, gts: Mapping[Hashable, Sequence[str]], res: Mapping[Hashable, Sequence[str]]
    ) -> tuple[float, npt.NDArray[np.float64]]:
        """Score every image's hypothesis.

        Args:
            gts: image id -> reference captions, already tokenised: words between white space, compared as they are.
            res: image id -> [hypothesis], for the same ids.

        Returns:
            The mean, and the scores in the order of ``gts``.

        Raises:
            ValueError: the ids differ, an image has no reference or not one hypothesis.
            TypeError: a caption that is not a string.
        """
        if gts.keys() != res.keys():
            odd = next(iter(gts.keys() ^ res.keys()))
            raise ValueError(f"gts and res must have the same image ids, but {odd!r} is in one of them only")
        for image, hypotheses in res.items():
            if isinstance(hypotheses, str) or len(hypotheses) != 1:
                raise ValueError(f"res[{image!r}] is {hypotheses!r:.60}, expected a list of one caption")
        single = next((image for image, captions in gts.items() if isinstance(captions, str)), None)
        if single is not None:
            raise TypeError(f"gts[{single!r}] is the string {gts[single]!r:.60}, expected a list of captions")
        references = [gts[image] for image in gts]
        cider = _Cider(n=self._n, sigma=self._sigma, tokenizer=str.split).fit(references)
        scores = cider.score(references, [res[image][0] for image in gts]).numpy()
        return float(scores.mean()), scores

    def method(self) -> str:
        """The metric's name, as in the original."""
        return "CIDEr"
