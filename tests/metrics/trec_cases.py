"""Random runs and qrels with many equal scores, as texts, for what is compared with pytrec_eval."""

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "pytrec_eval.npz"
KS = (1, 3, 5, 10, 100)


def made(seed, n_queries=8, n_items=30, depth=15):
    """{query: {item: score}} and {query: {item: grade}}; some judged items are in no run, some queries in neither."""
    rng = np.random.default_rng(seed)
    items = [f"{'dx'[n % 2]}{n}" for n in rng.permutation(n_items)]
    run, qrels = {}, {}
    for number in range(n_queries):
        listed = rng.choice(items, depth, replace=False)
        scores = rng.integers(0, 5, depth) + (1e-9 * rng.random(depth) if seed % 2 else 0)  # float32 ties too
        run[f"q{number}"] = dict(zip(listed.tolist(), scores.tolist(), strict=True))
        judged = rng.choice([*items, "nowhere"], 6, replace=False).tolist()
        qrels[f"q{number}"] = {item: int(grade) for item, grade in zip(judged, rng.integers(-1, 4, 6), strict=True)}
        qrels[f"q{number}"][judged[0]] = 2
    return run, qrels


def write(folder, run, qrels):
    """The two files."""
    lines = [f"{q} Q0 {item} 1 {score!r} mine\n" for q, of in run.items() for item, score in of.items()]
    (folder / "run.txt").write_text("".join(lines))
    lines = [f"{q} 0 {item} {grade}\n" for q, of in qrels.items() for item, grade in of.items()]
    (folder / "qrels.txt").write_text("".join(lines))
    return folder / "run.txt", folder / "qrels.txt"
