"""The result of an evaluation: a mapping that prints as a table and saves as JSON; computes no ranks."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from itm_fast.files.writing import written_aside
from itm_fast.runs.figure_tables import PARTS, figure_table, latex_table

_DIRECTIONS = {"i2t": "image -> caption", "t2i": "caption -> image"}
_DEFINITION = (
    "R@k: % of queries with at least one positive among the first k (R^V).  "
    "R_all@k: % of a query's positives among the first k, mean.\n"
    "medr, meanr: median and mean rank of the best positive, first = 1.  "
    "rsum: R@1 + R@5 + R@10 of both directions.\n"
    "Equal scores: lower index first."
)
_SEMANTIC_DEFINITIONS = {
    "NCS": "NCS@k: % of the largest sum of relevance that k items could have.",
    "SR": "SR@k: % of the most relevant items among the first k.",
    "nsum": "(N): the query's own captions or image left out.  nsum: NCS@1 + NCS@5 + NCS@10 of both directions.",
}
_SET_DEFINITIONS = {
    "coarse": "coarse stage: the fast model alone; its R@k at the number of candidates bounds all after re-ranking.",
    "eccv": "mAP@R, R-Precision: over the first R retrieved, R = all positives of a query, in the gallery or not.",
    "judged": "nDCG@k: gain the grade, discount log2(rank + 1).  MAP: over the whole gallery.  MRR: 1 / first rank.",
    "pmrp": "PMRP: R-Precision with plausible matches as positives; PMRP@50: of the first 50 at most.",
    "altered": "false rate: % of queries whose first result is an altered one, which is nobody's.",
    "t2t": "t2t, i2i: captions for captions and images for images; unless self_score says, a query is no result.",
}
_EXTRAS = {**PARTS, "t2t": "CxC t2t", "i2i": "CxC i2i"}
_SAMPLED = (
    "Correlation with human scores: Spearman over half of the queries with one pair each, mean and std of samples;\n"
    "it depends on which column is the query: compare like with like."
)
_CORRELATIONS = {"sts": "STS", "sis": "SIS", "sits": "SITS"}
_TEXT_SCORE = "each image scores its own captions above the wrong ones."
_IMAGE_SCORE = "each caption scores its own image above the other."
_GROUP_SCORE = "both."
_TEXT_ALONE = "the two captions of the image are nearer each other than either is to the wrong one."
_WIDE_BOUNDS = 0.1  # points of R@k between the tie bounds from which the figures should not be trusted


class Report(Mapping[str, Any]):
    """Figures of an evaluation; percentages are 0 to 100, ranks start at 1.

    Keys:
        i2t, t2i: the figures of image and of caption queries, as ``headline`` says: "R@1", ... (any positive),
            "R_all@1", ... (share of the positives), "medr", "meanr"; "optimistic" and "pessimistic" with "R@1", ...
            under the best and the worst order of equal scores; "n_queries"; "n_tied", the queries whose best positive
            has the score of a non-positive; "n_undefined", those whose positives all have the score -inf, of pairs that
            were no candidates, beside others: if there are any, "medr" and "meanr" are None.
        rsum: R@1 + R@5 + R@10 of both directions; not where a query has fewer than 10 candidates.
        nsum, nsum(N): likewise of NCS and NCS(N); only with φ. Then i2t and t2i also hold "NCS@1", "NCS(N)@1", ... and,
            where m is given, "SR@1", "SR(N)@1", ...
        headline: "full", "fold_mean", "language_mean" or "choices".
        full: {"i2t", "t2i", "rsum"} over the whole gallery.
        fold_mean, folds: only with folds: the mean over the folds, and a list with one {"i2t", "t2i", "rsum"} a fold.
        coarse: {"i2t", "t2i"} of ``rerank``'s first stage: "R@1", ..., and R@k, which re-ranking cannot exceed.
        members: of an ensemble: a list of {"name", "weight", "min", "max", "mean", "std", "seconds"}.
        cxc, eccv, pmrp, originals: {"i2t", "t2i"} with other positives or another gallery, as the protocol says:
            "R@1", "mAP@R", "R-Precision", "PMRP", "n_queries", ...
        languages, language_mean: of a protocol by language, {language: {"i2t", "t2i", "rsum"}} and their mean; "full"
            is then the gallery of all languages together.
        altered: {"i2t" or "t2i": {"false rate"}}: % of queries whose first result is an altered one.
        chance: {"i2t", "t2i"}, "R@1", ... of a random order; of protocols that compare pairs, by score.
        choices: of these, instead of i2t, t2i and rsum: {"all", file, ..., "mean"}, each with the shares of examples
            that are right, "text", "image", "group", ..., "n_examples", "n_tied".
        t2t, i2i: figures of text-text and image-image retrieval.
        sts, sis, sits: {"spearman", "std", "query_column", "n_queries", ...}, sampled correlation x 100.
        search: of ``itm-fast rerank`` and ``ensemble``: what was tried on the validation set, and the best.
        conditions: n_images, n_captions, protocol, folds, ks, m, dtype, seconds, notes.
    """

    def __init__(self, results: Mapping[str, Any]) -> None:
        """Keep the figures; ``evaluate`` makes them."""
        self._results = dict(results)

    def __getitem__(self, key: str) -> Any:
        """One of the keys above."""
        return self._results[key]

    def __iter__(self) -> Iterator[str]:
        """The keys."""
        return iter(self._results)

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._results)

    def to_dict(self) -> dict[str, Any]:
        """A copy of everything as plain dictionaries, lists, numbers and strings."""
        copy: dict[str, Any] = json.loads(json.dumps(self._results))
        return copy

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON; a file of that name is replaced only once the new one is complete.

        Args:
            path: the file to write.

        Raises:
            OSError: the folder does not exist or can not be written.
        """
        with written_aside(path) as aside:
            aside.write_text(json.dumps(self._results, indent=2) + "\n", encoding="utf-8")

    def to_pandas(self) -> Any:
        """Every figure as a data frame; `pandas.concat({"SCAN": a.to_pandas(), "SGR": b.to_pandas()})` compares.

        Returns:
            A `pandas.DataFrame` with a row a gallery, fold or set of positives ("whole gallery", "fold 1", "mean of
            folds", "ECCV Caption", ...) and a column a figure ("i2t R@1", ..., "rsum"); NaN where a row has none.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ImportError("Report.to_pandas needs pandas, an optional library: pip install pandas") from error
        table = figure_table({"": self})
        return pandas.DataFrame.from_records(table.rows, columns=table.names, index="part")

    def to_latex(self, name: str = "") -> str:
        """The figures that papers print, as a LaTeX table: I2T R@1 R@5 R@10, T2I R@1 R@5 R@10, rsum.

        Args:
            name: stands in the first column; "" has the gallery there. `itm_fast.runs.latex_table` puts several reports
                into one table.

        Returns:
            A tabular; needs the package booktabs.
        """
        return latex_table({name: self})

    def __str__(self) -> str:
        """A table, its definitions, and the conditions."""
        if "choices" in self:
            return "\n".join([*self._choice_lines(), *self["conditions"].get("notes", []), self._conditions()])
        ks = self["conditions"]["ks"]
        recall = [*(f"R@{k}" for k in ks), "medr", "meanr", *(f"R_all@{k}" for k in ks), "mAP@R", "R-Precision"]
        recall += [*(f"nDCG@{k}" for k in ks), "MAP", "MRR"]
        recall = [name for name in recall if name in self["i2t"]]  # re-ranked lists have no medr, meanr
        parts = [self._title(), *_table(self._rows(recall, [name for name in ("rsum",) if name in self]))]
        parts += self._extra_tables()
        parts += self._member_table()
        names = [f"{name}@{k}" for name in ("NCS", "NCS(N)", "SR", "SR(N)") for k in ks]
        shown = [name for name in names if name in self["i2t"]]
        if shown:
            parts += ["", *_table(self._rows(shown, [name for name in ("nsum", "nsum(N)") if name in self])), ""]
            known = _SEMANTIC_DEFINITIONS.items()
            parts += [text for key, text in known if key != "SR" or self["conditions"]["m"] is not None]
        parts += [*self._tie_lines(), _DEFINITION]
        keys = {*self, *(("eccv",) if "mAP@R" in self["i2t"] else ()), *(("judged",) if "MAP" in self["i2t"] else ())}
        parts += [text for key, text in _SET_DEFINITIONS.items() if key in keys]
        parts += [*self["conditions"].get("notes", []), self._conditions()]
        return "\n".join(parts)

    def __repr__(self) -> str:
        """The headline in one line."""
        if "choices" in self:
            return f"Report({', '.join(f'{name}={self[name]:.2f}' for name in self['chance'])})"
        rsum = f"rsum={self['rsum']:.2f}, " if "rsum" in self else ""
        first = (f"{name} R@1={_number('R@1', self[name].get('R@1'))}" for name in _DIRECTIONS)
        return f"Report({rsum}{', '.join(first)})"

    def _title(self) -> str:
        conditions = self["conditions"]
        what = {"full": "whole gallery", "fold_mean": f"mean of {conditions['folds']} folds"}.get(
            self["headline"], f"mean of {len(self.get('languages', ()))} languages"
        )
        nsum = f", nsum {self['nsum']:.1f}" if "nsum" in self else ""
        rsum = f", rsum {self['rsum']:.1f}" if "rsum" in self else ""
        return f"{conditions['protocol'] or 'retrieval'}: {what}{rsum}{nsum}"

    def _rows(self, columns: list[str], sums: list[str]) -> list[list[str]]:
        rows = [["", *columns, *sums]]
        sections = list(self.get("languages", {}).items())
        if sections:
            sections += [("mean of languages", self["language_mean"]), ("all languages together", self["full"])]
        elif "full" in self:
            sections = [("whole gallery", self["full"])]
        if "folds" in self:
            sections += [(f"fold {number}", fold) for number, fold in enumerate(self["folds"], start=1)]
            sections.append(("mean of folds", self["fold_mean"]))
        for name, section in sections:
            for direction in _DIRECTIONS:
                figures = [_number(column, section[direction][column]) for column in columns]
                both = [f"{section[total]:.1f}" if direction == "i2t" else "" for total in sums]
                rows.append([f"{name} {direction}", *figures, *both])
        return rows

    def _extra_tables(self) -> list[str]:
        """Tables of what a protocol reports beside the retrieval of the first table."""
        found = {}
        for key, title in _EXTRAS.items():
            if key in ("t2t", "i2i") and key in self:
                found[title] = self[key]
            elif key in self:
                found |= {f"{title} {name}": self[key][name] for name in _DIRECTIONS if name in self[key]}
        lines = []
        if found:
            ks = self["conditions"]["ks"]
            depth = self["conditions"].get("k", ks[0])
            known = [*(f"R@{k}" for k in dict.fromkeys((*ks, depth)))]
            known += ["medr", "meanr", "mAP@R", "R-Precision", "PMRP", "PMRP@50", "false rate"]
            columns = [name for name in known if any(name in figures for figures in found.values())]
            rows = [["", *columns, "queries"]]
            for title, figures in found.items():
                cells = [_number(name, figures[name]) if name in figures else "" for name in columns]
                rows.append([title, *cells, str(figures["n_queries"])])
            lines += ["", *_table(rows), ""]
        rated = {title: self[key] for key, title in _CORRELATIONS.items() if key in self}
        if rated:
            rows = [["", "spearman x 100", "std", "query", "queries", "sampled", "pairs"]]
            for title, one in rated.items():
                figures = [f"{one['spearman']:.1f}", f"{one['std']:.1f}", one["query_column"]]
                rows.append([title, *figures, *(str(one[name]) for name in ("n_queries", "n_sampled", "n_pairs"))])
            lines += [*_table(rows), _SAMPLED, ""]
        return lines

    def _choice_lines(self) -> list[str]:
        """The table of a protocol that compares pairs, and what its columns are."""
        names = list(self["chance"])
        rows = [["", *names, "examples", "tied"]]
        for part, figures in self["choices"].items():
            shares = [f"{figures[name]:.1f}" for name in names]
            rows.append([part, *shares, str(figures["n_examples"]), str(figures["n_tied"])])
        rows.append(["chance", *(f"{self['chance'][name]:.1f}" for name in names), "", ""])
        known = {"text": _TEXT_SCORE, "image": _IMAGE_SCORE, "group": _GROUP_SCORE, "text alone": _TEXT_ALONE}
        title = f"{self['conditions']['protocol']}: % of examples whose right pairs score above the wrong ones"
        return [title, *_table(rows), *(f"{name}: {known[name]}" for name in names)]

    def _member_table(self) -> list[str]:
        """What an ensemble is made of."""
        if "members" not in self:
            return []
        numbers = ("weight", "min", "max", "mean", "std", "seconds")
        rows = [["member", *numbers]]
        rows += [[one["name"], *(f"{one[name]:.4g}" for name in numbers)] for one in self["members"]]
        return ["", *_table(rows), ""]

    def _tie_lines(self) -> list[str]:
        lines = []
        for direction, words in _DIRECTIONS.items():
            figures = self[direction]
            if figures["n_undefined"]:
                lines.append(
                    f"{words}: the positives of {figures['n_undefined']} of {figures['n_queries']} queries were no "
                    "candidates (-inf), so that medr and meanr are not defined"
                )
            if not figures["n_tied"]:
                continue
            low, high = figures["pessimistic"], figures["optimistic"]
            bounds = ", ".join(f"{key} {low[key]:.1f} to {high[key]:.1f}" for key in low)
            wide = any(high[key] - low[key] > _WIDE_BOUNDS for key in low)
            warning = "WARNING: the order of equal scores decides. " if wide else ""
            queries = f"{figures['n_tied']} of {figures['n_queries']} queries"
            lines.append(
                f"{warning}ties, {words}: {queries} have a non-positive equal to their best positive; {bounds}"
            )
        return lines

    def _conditions(self) -> str:
        conditions = self["conditions"]
        if "choices" in self:
            return (
                f"{conditions['n_pairs']} pairs of {conditions['n_images']} images and {conditions['n_captions']} "
                f"captions, compared in {conditions['dtype']}, {conditions['seconds']:.2f} s"
            )
        return (
            f"{conditions['n_images']} images x {conditions['n_captions']} captions, "
            f"{self['i2t']['n_queries']} image queries, compared in {conditions['dtype']}, "
            f"{conditions['seconds']:.2f} s"
        )


def _number(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if column == "meanr" else f"{value:.1f}"


def _table(rows: list[list[str]]) -> list[str]:
    """Columns padded to their widest entry: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines
