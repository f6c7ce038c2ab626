"""Pages of documents as ViDoRe has them, through embed and evaluate, with one vector each and with a vector a token."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("transformers", reason="encoders need transformers, of the extra [text]")
pytest.importorskip("pyarrow", reason="parquet needs pyarrow, of the extra [parquet]")
import captioned_sets
import tiny_clip
import tiny_encoders

from itm_fast.cli import main as cli
from itm_fast.evaluation import read_embeddings

N_PAGES = 6
GRADES = {0: {0: 1, 1: 2}, 1: {1: 1}, 2: {2: 1, 5: 1}}  # of pages by question; nothing answers question 3


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """corpus/, queries/ and qrels/ of .parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("pages") / "docs"
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": content, "path": None} for content in captioned_sets.IMAGES[:N_PAGES]], kind)
    judged = [(query, page, grade) for query, of in GRADES.items() for page, grade in of.items()]
    tables = {
        "corpus": {"corpus-id": list(range(N_PAGES)), "image": images},
        "queries": {"query-id": list(range(4)), "query": ["a dog", "red grass", "two men sleep", "the cat"]},
        "qrels": dict(zip(("query-id", "corpus-id", "score"), map(list, zip(*judged, strict=True)), strict=True)),
    }
    for name, columns in tables.items():
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / name / "test-00000-of-00001.parquet")
    return folder


def ndcg(sims):
    """nDCG@5 of (questions, pages) similarities, by a sort."""
    found = []
    for query, grades in GRADES.items():
        order = sorted(range(N_PAGES), key=lambda page: (-sims[query][page], page))[:5]
        gain = sum(grades.get(page, 0) / math.log2(rank + 2) for rank, page in enumerate(order))
        ideal = sum(grade / math.log2(rank + 2) for rank, grade in enumerate(sorted(grades.values(), reverse=True)))
        found.append(gain / ideal)
    return 100 * np.mean(found)


@pytest.mark.parametrize("name", ["colpali", "clip"])
def test_page_sets_from_embed_to_ndcg(name, pages, tmp_path, capsys):
    (tmp_path / name).mkdir()
    (tiny_encoders.write_colpali if name == "colpali" else tiny_clip.write_clip)(tmp_path / name)
    out = tmp_path / "out"
    assert cli.main(["embed", str(tmp_path / name), str(out), "--captions", str(pages), "--workers", "1"]) == 0
    assert "protocol vidore takes all" in capsys.readouterr().out
    asked = ["--protocol", "vidore", "--annotations", str(pages), "--json"]
    assert cli.main(["evaluate", "--embeddings", str(out), *asked]) == 0
    report = json.loads(capsys.readouterr().out)
    found = read_embeddings(out)
    sides = found.captions, found.images
    texts, images = (
        np.split(side.vectors, np.cumsum(side.counts)[:-1]) if found.per_token else np.asarray(side)[:, None]
        for side in sides
    )
    late = [[(text.astype(np.float64) @ image.T.astype(np.float64)).max(1).sum() for image in images] for text in texts]
    sims = dict(zip(map(int, found.ids.captions), late, strict=True))
    assert sorted(sims) == [0, 1, 2]
    assert found.ids.images == [str(page) for page in range(N_PAGES)]
    assert report["t2i"]["nDCG@5"] == pytest.approx(ndcg(sims))
    assert report["t2i"]["n_queries"] == 3


def test_inspect_says_pages_and_captions_are_refused(pages, tmp_path, capsys):
    assert cli.main(["inspect", str(pages)]) == 0
    assert "pages of documents and what is asked of them, as of BEIR, MTEB or ViDoRe" in capsys.readouterr().out
    assert cli.main(["cider", str(pages), str(tmp_path / "phi.npy")]) == 2
    assert "text 0 is relevant to several images" in capsys.readouterr().err
