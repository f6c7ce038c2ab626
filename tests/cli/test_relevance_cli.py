"""itm-fast cider, itm-fast correlate, and itm-fast evaluate with φ."""

import json

import numpy as np
import pytest

from itm_fast import Cider
from itm_fast.cli import main as cli
from itm_fast.evaluation import evaluate

WORDS = ["dog", "cat", "bus", "red", "runs", "on", "grass", "a", "Snow"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    references = [[" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(5)] for _ in range(12)]
    (tmp_path / "caps.txt").write_text("".join(f"{caption}\n" for image in references for caption in image))
    (tmp_path / "caps.json").write_text(json.dumps({f"image{i}": image for i, image in enumerate(references)}))
    (tmp_path / "list.json").write_text(json.dumps(references))
    (tmp_path / "candidates.txt").write_text("a dog\na red bus\nsnow\n")
    np.save(tmp_path / "sims.npy", rng.standard_normal((12, 60)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def references(folder):
    return json.loads((folder / "list.json").read_text())


def run(capsys, *argv):
    code = cli.main([*argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("source", ["caps.txt", "caps.json", "list.json"])
def test_cider_writes_phi(folder, references, capsys, source):
    code, out, _ = run(capsys, "cider", source, "phi.npy")
    assert code == 0
    assert out.startswith("phi.npy: 12 images x 60 captions, float32")
    phi = np.load("phi.npy")
    expected = Cider().fit(references).encode(references).relevance()
    np.testing.assert_allclose(phi, expected.numpy(), atol=1e-6)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_cider_flags(folder, references, capsys):
    flags = ["--variant", "cider", "--n", "2", "--tokenizer", "ptb", "--dtype", "float64", "--json"]
    code, out, _ = run(
        capsys, "cider", "caps.txt", "phi.npy", *flags, "--candidates", "candidates.txt", "--save-frequencies", "df"
    )
    assert code == 0
    assert json.loads(out)["n_captions"] == 3
    cider = Cider("cider", n=2, tokenizer="ptb").fit(references)
    expected = cider.relevance(references, ["a dog", "a red bus", "snow"]).double()
    np.testing.assert_allclose(np.load("phi.npy"), expected.numpy(), atol=1e-6)
    code, _, err = run(capsys, "cider", "caps.txt", "again.npy", "--frequencies", "df")
    assert code == 2
    assert "of another variant" in err
    assert not (folder / "again.npy").exists()
    code, _, _ = run(capsys, "cider", "caps.txt", "again.npy", *flags[:-1], "--frequencies", "df")
    assert code == 0


def test_evaluate_with_a_matrix_or_captions(folder, references, capsys):
    run(capsys, "cider", "caps.txt", "phi.npy", "--dtype", "float64")
    phi = np.load("phi.npy")
    np.save("turned.npy", phi.T)
    np.savetxt("spice.csv", np.hstack([phi.T, np.zeros((60, 2))]), delimiter=",", fmt="%.17g")
    expected = evaluate(np.load("sims.npy"), phi).to_dict()
    for relevance in ("phi.npy", "turned.npy", "spice.csv", "caps.txt", "caps.json"):
        code, out, err = run(capsys, "evaluate", "--sims", "sims.npy", "--relevance", relevance, "--ncs", "--json")
        assert code == 0, err
        found = json.loads(out)
        assert found["nsum"] == pytest.approx(expected["nsum"], rel=1e-9), relevance
        assert found["t2i"]["NCS(N)@5"] == pytest.approx(expected["t2i"]["NCS(N)@5"], rel=1e-9)
    _, out, _ = run(capsys, "evaluate", "--sims", "sims.npy", "--relevance", "phi.npy", "--m", "3")
    assert "SR(N)@10" in out


@pytest.mark.parametrize(
    ("argv", "fragment"),
    [
        (["evaluate", "--sims", "sims.npy", "--ncs"], "--ncs needs --relevance"),
        (["evaluate", "--sims", "sims.npy", "--m", "3"], "there is no relevance"),
        (["evaluate", "--sims", "sims.npy", "--relevance", "none.npy"], "none.npy: no such file"),
        (
            ["evaluate", "--sims", "sims.npy", "--relevance", "small.npy"],
            "small.npy: float64 of shape (3, 3)",
        ),
        (["evaluate", "--sims", "sims.npy", "--relevance", "text.npy"], "not a plain .npy array"),
        (["evaluate", "--sims", "sims.npy", "--relevance", "words.csv"], "words.csv: lines 1 ... 60"),
        (["evaluate", "--sims", "sims.npy", "--relevance", "short.csv"], "short.csv: 59 lines, expected one a caption"),
        (["evaluate", "--sims", "sims.npy", "--relevance", "long.csv"], "long.csv: more than 60 lines"),
        (["evaluate", "--sims", "sims.npy", "--relevance", "narrow.csv"], "expected 12 numbers a line"),
        (["evaluate", "--sims", "sims.npy", "--relevance", "few.txt"], "few.txt: 7 lines, no multiple of 5"),
        (["evaluate", "--sims", "sims.npy", "--relevance", "half.json"], "relevance is 6 x 30, but sims is 12 x 60"),
        (["cider", "few.txt", "few.txt"], "output is few.txt, expected the name of a .npy file, such as phi.npy"),
        (["cider", "few.txt", "small.npy", "--candidates", "small.npy"], "output is small.npy, which candidates reads"),
        (["cider", "few.txt", "a.npy", "--sigma", "3", "--variant", "cider"], "--sigma goes with --variant cider_d"),
        (
            ["evaluate", "--sims", "sims.npy", "--save-results", "./sims.npy"],
            "save-results is sims.npy, which sims reads",
        ),
        (
            ["evaluate", "--sims", "short.csv", "--export", "short.csv"],
            "export is short.csv, which sims reads: give another",
        ),
        (["ensemble", "small.npy", "small.npy", "--output", "small.npy"], "output is small.npy, which members reads"),
        (["cider", "none.txt", "phi.npy"], "none.txt: no such file"),
        (["cider", "few.txt", "phi.npy"], "no multiple of 5"),
        (["cider", "bad.json", "phi.npy"], "bad.json: not JSON"),
        (["cider", "numbers.json", "phi.npy"], "image 'b' has [1]"),
        (["cider", "empty.json", "phi.npy"], "holds no images"),
        (["cider", "string.json", "phi.npy"], "holds a str"),
        (["cider", "caps.txt", "no/phi.npy"], "no: no such folder"),
        (["cider", "caps.txt"], "The .npy file to write"),
        (["correlate", "caps.txt"], "expected the columns"),
        (["correlate", "none.csv"], "none.csv: No such file"),
    ],
)
def test_bad_input_is_one_line_and_code_2(folder, references, capsys, argv, fragment):
    np.save("small.npy", np.ones((3, 3)))
    (folder / "text.npy").write_text("no array")
    row = ",".join(["1.0"] * 12)
    (folder / "words.csv").write_text("\n".join(["a,b,c"] * 60))
    (folder / "short.csv").write_text("\n".join([row] * 59))
    (folder / "long.csv").write_text("\n".join([row] * 61))
    (folder / "narrow.csv").write_text("\n".join(["1.0,2.0"] * 60))
    (folder / "few.txt").write_text("a\n" * 7)
    (folder / "half.json").write_text(json.dumps(references[:6]))
    (folder / "bad.json").write_text("{")
    (folder / "numbers.json").write_text('{"a": ["a"], "b": [1]}')
    (folder / "empty.json").write_text("[]")
    (folder / "string.json").write_text('"a"')
    before = sorted(path.name for path in folder.iterdir())
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert fragment in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before


def test_correlate(folder, capsys):
    rows = "".join(f"c:{i},x.jpg,{i},{'c2i_original' if i > 2 else 'c2i_intrasim'}\n" for i in range(5))
    (folder / "sits.csv").write_text(f"caption,image,agg_score,sampling_method\n{rows}")
    code, out, _ = run(capsys, "correlate", "sits.csv", "--json")
    assert code == 0
    found = json.loads(out)
    expected = np.corrcoef([0, 0, 0, 1, 1], range(5))[0, 1]
    assert found["pearson"]["binary"] == {"all": pytest.approx(expected), "non-gt": None}
    _, out, _ = run(capsys, "correlate", "sits.csv")
    assert f"{expected:.4f}" in out
