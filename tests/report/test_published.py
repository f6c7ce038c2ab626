"""Published results against the sources' own sums, and against the text they were taken from."""

import re
from collections import Counter

import pytest
from golden_files import SHARED

from itm_fast.report.published import published_results

TEXT = SHARED / "spec" / "published_results.md"
ROWS = published_results()


def test_how_many():
    assert Counter(re.search(r"Table \d|(?<=github\.com/)[\w-]+/[\w-]+", row.source)[0] for row in ROWS) == {
        "Table 2": 16,
        "Table 3": 18,
        "Table 4": 12,
        "Table 5": 12,
        "CrossmodalGroup/ESL": 6,
        "BruceW91/CVSE": 2,
        "mlfoundations/open_clip": 24,
        "google-research/big_vision": 15,
        "360CVGroup/FG-CLIP": 10,
        "woodfrog/vse_infty": 8,
        "ppanzx/CHAN": 4,
        "CrossmodalGroup/LAPS": 4,
        "CrossmodalGroup/HREM": 3,
        "salesforce/LAVIS": 3,
        "CrossmodalGroup/NAAF": 1,
    }
    assert Counter(row.test for row in ROWS) == {"flickr30k-1k": 35 + 28, "coco-1k": 23 + 6, "coco-5k": 8 + 38}
    assert Counter(row.training_percent for row in ROWS) == {100: 50 + 72, 10: 4, 25: 4, 3: 4, 5: 4}
    assert all("://" in row.source or "arXiv" in row.source or "README" in row.source for row in ROWS)
    assert len(set((row.method, row.test, row.training_percent, row.source) for row in ROWS)) == len(ROWS)


def test_printed_sums_add_up_or_are_flagged():
    wrong = [(row.method, row.test, name) for row in ROWS for name in row.misprinted]
    assert wrong == [("CVSE+SAM", "flickr30k-1k", "nsum")]
    (row,) = (row for row in ROWS if row.misprinted)
    assert (row.nsum, row.added_up["nsum"]) == (387.9, 369.0)
    assert "add up to 369.0" in row.notes
    for row in ROWS:
        for name, value in row.added_up.items():
            printed = getattr(row, name)
            assert printed is None or name in row.misprinted or printed == pytest.approx(value, abs=0.351)


def test_figures_are_percentages():
    for row in ROWS:
        for side in (row.i2t, row.t2i):
            names = [name for name in side if name.startswith("R@")]
            assert names == ["R@1", "R@5", "R@10"][: len(names)]
            assert set(side) - set(names) in (set(), {"NCS@1", "NCS@5", "NCS@10"})
            assert all(0 <= value <= 100 for value in side.values())
            assert [side[name] for name in names] == sorted(side[name] for name in names)
        assert ("R@10" in row.i2t or not row.i2t) or "is not printed" in row.notes or "alone is printed" in row.notes


def test_every_figure_stands_in_the_text():
    if not TEXT.is_file():
        pytest.skip("the text that the results were taken from is not beside this checkout")
    lines = [re.sub(r"\s*\(!\)", "", line) for line in TEXT.read_text(encoding="utf-8").splitlines()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    printed = [tuple(float(cell) for cell in row if re.fullmatch(r"[\d.]+", cell)) for row in cells]
    for row in ROWS:
        if "://" in row.source:  # read where they are published, and not copied into that text
            continue
        figures = [*row.i2t.values(), *row.t2i.values(), row.rsum, row.nsum, row.nsum_n]
        wanted = Counter(value for value in figures if value is not None)
        assert any(not wanted - Counter(numbers) for numbers in printed), row


def test_caveats():
    for row in ROWS:
        if row.nsum is not None:
            assert "SPICE" in row.notes
            assert ("one fold" in row.notes) == (row.test == "coco-1k")
        if "Table 2" in row.source or "Table 3" in row.source:
            assert ("trained by the authors of the source" in row.notes) == (not row.method.endswith("+SAM"))
        assert ("trained on" in row.notes) == (row.training_percent < 100)


@pytest.mark.parametrize(
    ("protocol", "n_rows"),
    [("coco-5k", 46), ("eccv", 46), ("coco-all", 46), ("cxc", 46), ("coco-1k", 29), ("coco-fg", 0)],
)
def test_by_protocol(protocol, n_rows):
    assert len(published_results(protocol)) == n_rows


def test_unknown_protocol():
    with pytest.raises(ValueError, match="protocol is 'flickr'; perhaps you meant flickr30k-") as raised:
        published_results("flickr")
    assert "; expected one of coco-1k, " in str(raised.value)
