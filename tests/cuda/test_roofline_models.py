"""Counts of the models' operators and of attention beyond 128 regions: what they are at least, and what they say."""

import json

import roofline_models
import torch


def test_counts_of_sgr_hold_its_products():
    n, dim, width = 3, 64, 16
    counts = roofline_models.sgr_training(n, torch.float32, dim, width)
    n_words = int(roofline_models.scan_batch(n, n, dim=1)[2].sum())
    of_vectors = 2 * n * n_words * dim * width  # each of a product forward and two backward
    assert counts["tensor FLOP"] > 3 * of_vectors
    assert counts["memory bytes"] > 4 * 3 * n * n_words * (dim + width)


def test_what_binds_attention_to_patches():
    counts = roofline_models.patches_scoring(577, 40, 8, 8, 1024)
    assert counts["tensor FLOP"] == 2 * 1024 * 8 * (580 * 40 * 8 + 580 * 580)
    assert counts["launches"] == 2 + 3  # 6 MB of S: a round
    counts = roofline_models.patches_scoring(577, 40, 128, 128, 1024)
    assert counts["launches"] == 2 + 3 * 64
    times = roofline_models.predicted_ms(counts, "H100 SXM", "bfloat16")
    assert times["tensor cores"] == counts["tensor FLOP"] / 989 / 1e9
    assert max(times, key=times.get) == "float32 FMAs"


def test_says_that_nothing_was_measured(capsys, monkeypatch):
    few = ("a case", roofline_models.patches_scoring(197, 40, 2, 2, 64), "bfloat16")
    monkeypatch.setattr(roofline_models, "cases", lambda _: [few])
    assert roofline_models.main([]) == 0
    assert "not measured: nobody has run this on a GPU" in capsys.readouterr().out
    assert roofline_models.main(["--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["measured"] is False
    assert record["cases"][0]["dtype"] == "bfloat16"
