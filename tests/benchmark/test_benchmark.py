"""Benches of tiny shapes: what is timed, checked, left out and compared; no figure of speed is asserted."""

import json

import pytest
import torch
from memory_apart import apart, needed_and_taken, peak_of_ones

from itm_fast import reference
from itm_fast.benchmark import OPERATORS, BenchSettings, bench, cases, read_medians, run_bench
from itm_fast.benchmark.inputs import packed, scan_batch
from itm_fast.benchmark.memory import available_mb
from itm_fast.benchmark.timing import time_interleaved
from itm_fast.cli.main import main
from itm_fast.errors import DataError

TINY = {
    "cross-attention": {"n_images": 4, "n_captions": 8, "dim": 16, "max_regions": 5, "max_words": 6, "mean_words": 4},
    "late-interaction": {"n_images": 4, "n_captions": 8, "dim": 16, "max_regions": 5, "max_words": 6, "mean_words": 4},
    "triplet": {"n_images": 6, "dim": 16},
    "semantic-margin": {"n_images": 6, "dim": 16},
    "ranking": {"n_images": 12, "dim": 16},
}
LOSSES = ("triplet", "semantic-margin")
BOTH_WAYS = [
    (name, backward) for name in OPERATORS for backward in (False, True) if (name, backward) != ("ranking", True)
]


def tiny(operator, **options):
    return BenchSettings(operator=operator, repeats=2, **{**TINY[operator], **options})


@pytest.mark.parametrize(("operator", "backward"), BOTH_WAYS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_times_everything_in_turn(operator, backward, dtype):
    result = run_bench(tiny(operator, backward=backward, dtype=dtype))
    names = ["fused", "three bare GEMMs" if backward else "bare GEMM", "plain torch", "reference"]
    if operator in LOSSES:
        names.remove("reference")  # it is the plain torch
    assert [call["name"] for call in result.calls] == names
    assert result.calls[0]["to_fused"] == 1
    for call in result.calls:
        assert 0 < call["min_ms"] <= call["median_ms"]
        assert call["n_timed"] == 2
    assert result.is_right
    gradients = [name for name in result.differences if name.startswith("gradient")]
    assert bool(gradients) == backward
    assert result.skipped == []
    json.loads(json.dumps(result.to_dict(), allow_nan=False))


@pytest.mark.parametrize("cross_attn", ["t2i", "i2t"])
@pytest.mark.parametrize("agg_func", ["LogSumExp", "Mean", "Sum", "Max"])
def test_options_reach_the_operators(cross_attn, agg_func):
    """The plain-torch late interaction is the reference's; and every call of a case computes the same."""
    regions, words, word_counts = scan_batch(3, 5, max_words=6, mean_words=4, max_regions=4, dim=8)
    options = {"cross_attn": cross_attn, "agg_func": agg_func, "lambda_lse": 3.0}
    got, want = (
        function(regions, words, word_counts, **options)
        for function in (cases._plain_max_similarity, reference.max_similarity)
    )
    torch.testing.assert_close(got, want)
    for operator in ("cross-attention", "late-interaction"):
        calls = cases.build_case(tiny(operator, **options)).calls
        torch.testing.assert_close(calls["fused"](), calls["reference"](), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(calls["plain torch"](), calls["reference"](), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampling", ["random", "mixed", "all"])
def test_drawn_negatives_are_checked_with_the_same_draws(sampling):
    variant = {"variant": "released"} if sampling == "mixed" else {}
    assert run_bench(tiny("semantic-margin", sampling=sampling, backward=True, **variant)).is_right


def test_a_wrong_operator_is_not_timed(monkeypatch, capsys):
    fused, *others = cases._SIMILARITIES["late-interaction"]
    wrong = lambda *args, **options: fused(*args, **options) + 0.01  # noqa: E731
    monkeypatch.setitem(cases._SIMILARITIES, "late-interaction", (wrong, *others))
    result = run_bench(tiny("late-interaction"))
    assert not result.is_right
    assert result.calls == []
    assert main(["bench", "late-interaction", "--n-images", "3", "--dim", "8", "--repeats", "1"]) == 1
    assert "the fused result is wrong, nothing was timed: scores" in capsys.readouterr().err


def test_what_does_not_fit_is_left_out(monkeypatch):
    monkeypatch.setattr(bench, "available_mb", lambda _: 0.001)
    result = run_bench(tiny("cross-attention"))
    assert [call["name"] for call in result.calls] == ["fused", "bare GEMM"]
    assert [call["name"] for call in result.skipped] == ["plain torch", "reference"]
    assert all("would take about" in call["reason"] for call in result.skipped)


def test_without_the_reference():
    result = run_bench(tiny("cross-attention"), with_reference=False)
    assert [call["name"] for call in result.calls] == ["fused", "bare GEMM", "plain torch"]
    assert result.skipped == [{"name": "reference", "reason": "not asked for"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"operator": "cross-attention", "n_images": 300, "n_captions": 12, "dim": 256},
        {"operator": "cross-attention", "n_images": 24, "dim": 256, "backward": True},
        {"operator": "cross-attention", "n_images": 16, "dim": 256, "backward": True, "cross_attn": "i2t"},
        {"operator": "late-interaction", "n_images": 100, "dim": 16, "cross_attn": "i2t"},
        {"operator": "late-interaction", "n_images": 64, "dim": 16, "backward": True},
        {"operator": "triplet", "n_images": 800, "dim": 16, "backward": True},
        {"operator": "ranking", "n_images": 700, "dim": 16},
    ],
)
def test_needed_memory_is_about_what_is_taken(options):
    for name, (needed, taken) in apart(needed_and_taken, options).items():
        if taken is None:
            pytest.skip("peaks of memory can be read on Linux only")
        if (name, options["operator"]) != ("reference", "late-interaction"):
            assert taken / 3 - 10 < needed < 3 * taken + 10, name


def test_slow_calls_are_timed_twice():
    counts = dict.fromkeys(("quick", "slow"), 0)

    def counted(name):
        counts[name] += 1

    done = []
    calls = {name: lambda name=name: counted(name) for name in counts}
    seconds = time_interleaved(calls, 4, twice=["slow"], progress=lambda *of: done.append(of))
    assert counts == {"quick": 5, "slow": 2}
    assert {name: len(times) for name, times in seconds.items()} == {"quick": 4, "slow": 2}
    assert done == [(n, 6) for n in range(1, 7)]


@pytest.mark.slow
def test_peak_memory_of_a_call():
    taken = apart(peak_of_ones, 8 << 20)
    if taken is None:
        pytest.skip("peaks of memory can be read on Linux only")
    assert 30 < taken < 60
    assert available_mb(torch.device("cpu")) > 0


def test_batches():
    state = torch.random.get_rng_state()
    regions, words, word_counts = scan_batch(3, 200, max_words=9, mean_words=7, dim=4, max_regions=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert regions.shape == (3, 2, 4)
    assert words.shape == (200, int(word_counts.max()), 4)
    assert 3 <= word_counts.min() < word_counts.max() == 9
    torch.testing.assert_close(words.norm(dim=2), torch.ones(words.shape[:2]))
    assert len(packed(words, word_counts)) == word_counts.sum()
    assert scan_batch(1, 4, max_words=2, dim=4)[2].tolist() == [2, 2, 2, 2]


def test_compare(tmp_path):
    result = run_bench(tiny("triplet"))
    path = tmp_path / "old.json"
    result.to_json(path)
    assert result.faster_than(read_medians(path, result.settings)) == dict.fromkeys(
        ("fused", "bare GEMM", "plain torch"), 1.0
    )
    old = json.loads(path.read_text(encoding="utf-8"))
    old["calls"][0]["median_ms"] *= 3
    old["settings"]["threads"] = 99
    path.write_text(json.dumps(old), encoding="utf-8")
    assert result.faster_than(read_medians(path, result.settings))["fused"] == pytest.approx(3)
    for change, fragment in (
        ({"settings": {**old["settings"], "dim": 5}}, "its bench had dim 5, not 16; only equal shapes"),
        ({"operator": "ranking"}, "operator ranking, not triplet"),
        ({"calls": 1}, "not a file of itm-fast bench --output: TypeError"),
        ({"settings": None}, "not a file of itm-fast bench --output"),
    ):
        path.write_text(json.dumps({**old, **change}), encoding="utf-8")
        with pytest.raises(DataError) as caught:
            read_medians(path, result.settings)
        assert fragment in str(caught.value)
    path.write_text("[", encoding="utf-8")
    with pytest.raises(DataError, match="not a file of itm-fast bench"):
        read_medians(path, result.settings)
    with pytest.raises(FileNotFoundError):
        read_medians(tmp_path / "none.json", result.settings)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"operator": "scan"}, "operator is 'scan'; expected one of cross-attention, "),
        ({"operator": "triplet", "n_images": 0}, "n_images is 0, expected at least 1"),
        ({"operator": "triplet", "n_images": 4, "n_captions": 5}, "triplet takes as many captions as images"),
        ({"operator": "triplet", "max_words": 5}, "max_words is no option of triplet, which has margin"),
        ({"operator": "ranking", "n_images": 4, "n_captions": 9}, "expected a multiple of the 4 images"),
        ({"operator": "ranking", "backward": True}, "ranking has no gradient"),
        ({"operator": "ranking", "n_images": 4}, "k is 10, but there are only 4 items"),
        ({"operator": "cross-attention", "mean_words": 0}, "mean_words is 0"),
        ({"operator": "cross-attention", "threads": 0}, "threads is 0"),
        ({"operator": "cross-attention", "device": "tpu"}, "device is 'tpu', expected \"cpu\""),
        ({"operator": "cross-attention", "device": "mps"}, "device is 'mps'"),
        ({"operator": "cross-attention", "device": "cuda:99"}, "CUDA devices"),
    ],
)
def test_bad_settings(options, fragment):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the fragment is compared below
        BenchSettings(**options)
    assert fragment in str(caught.value)


COMMAND = ["bench", "late-interaction", "--n-images", "3", "--dim", "8", "--max-regions", "4", "--repeats", "2"]


def test_command(tmp_path, capsys):
    threads = torch.get_num_threads()
    output = tmp_path / "bench.json"
    assert main([*COMMAND, "--threads", str(threads + 1), "--json", "--output", str(output)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(output.read_text(encoding="utf-8"))
    assert set(printed) == {
        *("operator", "settings", "shape", "machine", "differences", "tolerance", "calls", "skipped"),
    }
    assert set(printed["machine"]) == {"processor", "device", "threads", "torch", "cpu_isa", "gemm_float32"}
    assert set(printed["calls"][0]) == {"name", "median_ms", "min_ms", "n_timed", "extra_mb", "to_fused"}
    assert printed["machine"]["threads"] == printed["settings"]["threads"] == threads + 1
    assert printed["settings"]["agg_func"] == "Sum"
    assert torch.get_num_threads() == threads
    assert main([*COMMAND, "--compare", str(output), "--output", str(output), "--no-reference"]) == 0
    text = capsys.readouterr().out
    assert "faster by" in text
    assert "reference: left out, not asked for" in text
    assert "3 images x 3 captions, 4 regions" in text
    assert main([*COMMAND, "--compare", str(output), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["faster"]) == {"fused", "bare GEMM", "plain torch"}


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["bench", "ranking", "--backward"], "ranking has no gradient"),
        ([*COMMAND, "--output", "no/such/folder.json"], "no such folder"),
        ([*COMMAND, "--compare", "none.json"], "none.json"),
        (["bench", "fast"], "fast"),
    ],
)
def test_command_with_bad_input(arguments, fragment, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("itm-fast: error:")
    assert fragment in error
