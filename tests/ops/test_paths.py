"""Every instruction set and both kinds of product, each in a process of its own: the choice is made once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import HANG_SECONDS
from tile_products import ask_for_brgemm

from itm_fast import build_info

HERE = Path(__file__).parent
# Paths of the CPU's kernels: other backends have none of them, and torch's compiler sees none of them.
NOT_OF_PATHS = ("emulated", "batched", "by_the_reference", "opcheck", "graph_breaks", "compiled_under")
RUN = [
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-x",
    "-p",
    "no:cacheprovider",
    "-k",
    " and ".join(f"not {name}" for name in NOT_OF_PATHS),
]
# What multiplies tiles; then what does not, and knows nothing of ITM_FAST_GEMM.
OF_PRODUCTS = [
    f"{HERE / 'test_cross_attention.py'}::{name}"
    for name in (
        "test_scores_and_gradients_equal_the_reference",
        "test_golden_vectors_of_the_original",
        "test_nan_reaches_its_image_and_caption_and_no_other",
        "test_error_is_at_most_twice_that_of_plain_torch",
    )
] + [
    str(HERE / "test_tile_product.py"),
    str(HERE / "test_max_similarity.py"),
    str(HERE / "test_level_attention.py"),
    str(HERE / "test_patch_word_similarity.py"),
    f"{HERE.parent / 'nn' / 'test_esl_similarity.py'}::test_golden_vectors_of_the_original",
    str(HERE / "test_attended_similarity.py"),
    str(HERE / "test_graph_reasoning.py"),
    f"{HERE.parent / 'metrics' / 'test_retrieval.py'}::test_dot_products",
]
OF_OTHERS = [
    str(HERE / "test_generalised_pooling.py"),
    str(HERE / "test_ranking.py"),
    f"{HERE.parent / 'metrics' / 'test_retrieval.py'}::test_topk_equals_a_stable_sort",
    f"{HERE.parent / 'metrics' / 'test_ranks.py'}",
    f"{HERE.parent / 'relevance' / 'test_cider.py'}::test_blocks_of_any_size",
]


def available(isa):
    features = build_info()["cpu_features"]
    return isa == "base" or isa in " ".join(str(feature).lower() for feature in features)


@pytest.mark.parametrize(
    "forced",
    [
        # Small work on threads too, which wait for each other without burning the core that another test needs.
        {
            "ITM_FAST_CPU": "base",
            "ITM_FAST_GEMM": "own",
            "ITM_FAST_GRAIN": "1",
            "OMP_NUM_THREADS": "2",
            "OMP_WAIT_POLICY": "passive",
        },
        {"ITM_FAST_CPU": "avx2", "ITM_FAST_GEMM": "own"},
        {"ITM_FAST_CPU": "avx512", "ITM_FAST_GEMM": "own"},
        {"ITM_FAST_GEMM": "brgemm"},
    ],
    ids=lambda forced: "-".join(list(forced.values())[:2]),
)
def test_the_operator_tests_pass_on_every_path(forced, monkeypatch):
    isa, product = forced.get("ITM_FAST_CPU"), forced["ITM_FAST_GEMM"]
    if isa is not None and isa not in build_info()["cpu_isas"]:
        pytest.skip("this binary is for another kind of processor")
    if isa is not None and not available(isa):
        pytest.skip(f"this processor has no {isa}")
    products = {build_info()[f"gemm_{dtype}"] for dtype in ("float32", "bfloat16")}
    as_here = isa == build_info()["cpu_isa"] and "brgemm" not in products
    if as_here and forced.keys() == {"ITM_FAST_CPU", "ITM_FAST_GEMM"}:
        pytest.skip(f"{isa} and {product} are what the operators' own tests run on here")
    if product == "brgemm":
        ask_for_brgemm(monkeypatch)
    result = subprocess.run(
        [*RUN, *OF_PRODUCTS, *(OF_OTHERS if isa is not None else ())],
        env={**os.environ, **forced},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        ({"ITM_FAST_CPU": "sse9"}, "ITM_FAST_CPU must be base, avx2 or avx512, got sse9"),
        ({"ITM_FAST_GEMM": "fast"}, "ITM_FAST_GEMM must be own or brgemm, got fast"),
        ({"ITM_FAST_GRAIN": "few"}, "ITM_FAST_GRAIN must be a number of multiply-adds from 1 on, got few"),
    ],
)
def test_an_unknown_path_is_an_error(forced, message):
    code = "import itm_fast, torch; itm_fast.cross_attention_similarity(torch.ones(1, 1, 1), torch.ones(1, 1, 1))"
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **forced}, capture_output=True, text=True, check=False
    )
    assert "ValueError" in result.stderr
    assert message in result.stderr
