"""`itm-fast demo`: data, training, evaluation, and the fused operator beside its reference, in about a minute."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from itm_fast.cli.console import print_error, print_json, progress_bar, show_moment
from itm_fast.cli.demo_report import DIRECTIONS, KS, markdown, show
from itm_fast.files.writing import written_aside

if TYPE_CHECKING:
    from torch import Tensor

    from itm_fast.data import CaptionTokens, PrecompDataset
    from itm_fast.evaluation import Run
    from itm_fast.models import SCAN

    Similarity = Callable[[Tensor, Tensor, Tensor], Tensor]

T = TypeVar("T")

_STAGES = {"data": 4, "training": 25, "retrieval": 5, "comparison": 15}  # seconds at the default sizes, on two cores
_MAX_DIFFERENCE = 1e-4  # of two scores; float32 explains about 1e-6


@dataclass(frozen=True)
class DataFlags:
    """Data."""

    n_train: int = 400
    """Training images, five captions each."""
    n_test: int = 200
    """Test images, five captions each."""
    max_regions: int = 36
    """Regions an image."""
    dim: int = 256
    """Width of a region's feature."""


@dataclass(frozen=True)
class TrainingFlags:
    """Model and training."""

    embed_size: int = 256
    """Width of a region's and a word's embedding."""
    num_epochs: int = 8
    """Passes over the training captions."""
    warmup_epochs: int = 6
    """First passes with all negatives instead of the hardest: training from scratch on the hardest collapses."""
    batch_size: int = 64
    """Pairs of image and caption a step."""
    learning_rate: float = 4e-3
    """Of Adam; a tenth of it after lr_update epochs."""
    lr_update: int = 6
    """Epochs after which the learning rate falls to a tenth."""
    seed: int = 0
    """Fixes data, initialisation and order."""


@dataclass(frozen=True)
class OutputFlags:
    """Output."""

    folder: Path = Path("runs/demo")
    """Where data, model and reports go; those of an earlier demo are replaced."""
    repeats: int = 2
    """Timed runs of each side of the comparison; medians are shown."""
    json: bool = False
    """Print one JSON object instead of text."""


@dataclass(frozen=True)
class Demo(DataFlags, TrainingFlags, OutputFlags):
    """Make a small data set, train a small SCAN on it, evaluate it, and compare the fused operator with plain PyTorch.

    Nothing is downloaded; about a minute on two cores.
    """


def run(args: Demo) -> int:
    """Run the demo: progress to standard error, results to standard output and into the folder.

    Args:
        args: The command line.

    Returns:
        0, or 1 after a message where fused and reference scores differ by more than rounding.

    Raises:
        ValueError: A size or number is out of range.
        OSError: The folder cannot be written.
    """
    if args.repeats < 1:
        raise ValueError(f"repeats is {args.repeats}; expected at least 1")
    started = time.perf_counter()
    _say(  # before torch is imported
        f"itm-fast demo: data, training, evaluation and a comparison, into {args.folder}{_duration(args, *_STAGES)}"
    )
    results: dict[str, Any] = {}

    def report(name: str, section: dict[str, Any]) -> None:
        results[name] = section
        if not args.json:
            show(name, section)

    report("conditions", _conditions())
    _say(f"1 of 4: making the data{_duration(args, 'data')}")
    report("data", _make_data(args))
    model, dataset, tokens = _untrained(args)
    _say(f"2 of 4: training{_duration(args, 'training')}")
    report("training", _train(args, model, dataset, tokens))
    _say(f"3 of 4: evaluating{_duration(args, 'retrieval')}")
    retrieval, kept = _evaluate(args, model)
    report("retrieval", retrieval)
    _say(f"4 of 4: comparing with plain PyTorch{_duration(args, 'comparison')}")
    report("comparison", _compare(args, model, dataset, tokens))
    results["seconds"] = time.perf_counter() - started
    page = _write_page(args.folder, kept)
    _write(args.folder / "report.json", json.dumps(results, indent=2) + "\n")
    _write(args.folder / "report.md", markdown(results))
    if args.json:
        print_json(results)
    else:
        print(f"\n{results['seconds']:.0f} s in all. Data, model, report.json and report.md: {args.folder}. Next:")
        print(f"   itm-fast evaluate --model {args.folder}/model --data {args.folder}/data")
        print(f"A page with every query, for a browser: {page}")
    return _exit_code(results["comparison"]["largest_difference"])


def _duration(args: Demo, *stages: str) -> str:
    """How long stages take, where somebody has measured it."""
    sizes = (field.name for field in dataclasses.fields(args) if field.name not in ("folder", "json", "seed"))
    if any(getattr(args, name) != getattr(Demo, name) for name in sizes):
        return ""
    return f"; about {sum(_STAGES[stage] for stage in stages)} s on two cores"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _exit_code(difference: float) -> int:
    if difference <= _MAX_DIFFERENCE:  # False for NaN
        return 0
    print_error(f"fused and reference scores differ by {difference:.1e}, which rounding does not explain")
    return 1


# The stages: each does its part and returns what is reported of it.


def _conditions() -> dict[str, Any]:
    import torch

    from itm_fast.ops._devices import processor_name
    from itm_fast.ops._library import build_info

    info = build_info()
    return {
        "version": info["version"],
        "processor": processor_name(),
        "kernels": info["cpu_isa"],
        "threads": torch.get_num_threads(),
        "torch": info["torch"],
        "dtype": "float32",
        "evidence": "measured in this run",
    }


def _make_data(args: Demo) -> dict[str, Any]:
    from itm_fast.data import PrecompDataset, make_data

    with progress_bar("1 data") as progress:
        made = make_data(
            args.folder / "data",
            n_train=args.n_train,
            n_dev=max(1, args.n_test // 10),
            n_test=args.n_test,
            max_regions=args.max_regions,
            dim=args.dim,
            seed=args.seed,
            overwrite=True,
            progress=progress,
        )
    test = PrecompDataset(made.folder, "test")
    return {
        "n_images": made.n_images,
        "captions_per_image": len(test.captions_by_image()[0]),
        "max_regions": args.max_regions,
        "dim": args.dim,
        "n_words": made.n_words,
        "bytes": sum(made.files.values()),
        "example": min(test.captions_by_image()[0], key=len),
    }


def _untrained(args: Demo) -> tuple[SCAN, PrecompDataset, CaptionTokens]:
    import torch

    from itm_fast.data import CaptionTokens, PrecompDataset, Vocabulary
    from itm_fast.models import SCAN, SCANConfig

    dataset = PrecompDataset(args.folder / "data", "train")
    vocabulary = Vocabulary.load(args.folder / "data" / "vocab.json")
    tokens = CaptionTokens.from_captions(dataset.captions, vocabulary, "split")
    torch.manual_seed(args.seed)
    config = SCANConfig(img_dim=args.dim, word_dim=64, embed_size=args.embed_size, max_violation=True)
    return SCAN(config, vocabulary), dataset, tokens


def _train(args: Demo, model: SCAN, dataset: PrecompDataset, tokens: CaptionTokens) -> dict[str, Any]:
    from itm_fast.config import TrainingConfig
    from itm_fast.data import BatchPlan, Collator
    from itm_fast.models import save_model
    from itm_fast.training.loop import train

    config = TrainingConfig(
        num_epochs=args.num_epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        lr_update=args.lr_update,
        vse_mean_warmup_epochs=args.warmup_epochs,
        seed=args.seed,
    )
    plan = BatchPlan(Collator(dataset, tokens), args.batch_size, args.num_epochs, seed=args.seed)
    started = time.perf_counter()
    with progress_bar("2 train") as progress:
        losses = train(model, plan, config, watch=lambda moment: show_moment(moment, progress)).losses
    seconds = time.perf_counter() - started
    save_model(model, args.folder / "model")
    n_steps = len(losses) // args.num_epochs
    return {
        "model": "SCAN",
        "cross_attn": model.config.cross_attn,
        "raw_feature_norm": model.config.raw_feature_norm,
        "agg_func": model.config.agg_func,
        "embed_size": args.embed_size,
        "batch_size": args.batch_size,
        "steps": len(losses),
        "seconds": seconds,
        "warmup_epochs": min(args.warmup_epochs, args.num_epochs),
        "epoch_losses": [statistics.mean(losses[n : n + n_steps]) for n in range(0, len(losses), n_steps)],
    }


def _evaluate(args: Demo, model: SCAN) -> tuple[dict[str, Any], Run]:
    from itm_fast import Cider
    from itm_fast.data import PrecompDataset
    from itm_fast.evaluation import RunKeeper, evaluate
    from itm_fast.sources.trained_model import ModelScorer

    test = PrecompDataset(args.folder / "data", "test")
    references = test.captions_by_image()
    step = len(references[0])
    scorer, keep = ModelScorer(model.eval(), test, tokenizer="split"), RunKeeper()
    with progress_bar("3 evaluate") as progress:
        relevance = Cider().fit(references).encode(references)
        report = evaluate(scorer, relevance, ks=KS, m=2 * step, keep=keep, progress=progress)
    source = {"kind": "demo", "model": "scan", "data": str(test.folder), "split": "test", "generated": True}
    kept = keep.run(report, name="demo", captions=test.captions, scorer=scorer, source=source)
    return {**report.to_dict(), "chance": _chance(test.n_images, step)}, kept


def _write_page(folder: Path, kept: Run) -> str:
    """Save the run and its page; where the page is, or why there is none."""
    from itm_fast.evaluation import save_run

    save_run(kept, folder / "run")
    try:
        from itm_fast.report import write_page

        write_page([kept], folder / "report.html")
    except ImportError as error:
        return f"left out, {error}"
    return (folder / "report.html").resolve().as_uri()


def _chance(n_images: int, captions_per_image: int) -> dict[str, dict[str, float]]:
    """R@k of a random order, in percent: at least one of the positives among the first k."""

    def recall(n_items: int, n_positives: int, k: int) -> float:
        k = min(k, n_items)
        return 100 * (1 - math.comb(n_items - n_positives, k) / math.comb(n_items, k))

    n_captions = n_images * captions_per_image
    return {
        "i2t": {f"R@{k}": recall(n_captions, captions_per_image, k) for k in KS},
        "t2i": {f"R@{k}": recall(n_images, 1, k) for k in KS},
    }


def _compare(args: Demo, model: SCAN, dataset: PrecompDataset, tokens: CaptionTokens) -> dict[str, Any]:
    """Fused operator and reference on the same numbers: all scores of the test set, and a training step."""
    import torch

    from itm_fast.data import Collator

    similarities = {"fused": model.similarity, "reference": _reference_of(model)}
    regions, words, word_counts = _embedded_test_set(args, model)

    @torch.inference_mode()
    def score(name: str) -> Tensor:
        return similarities[name](regions, words, word_counts)

    order = torch.randperm(dataset.n_captions, generator=torch.Generator().manual_seed(args.seed))
    batch = Collator(dataset, tokens)(order[: args.batch_size])
    trained = copy.deepcopy(model)  # the timed steps train a copy
    optimizer = torch.optim.Adam(trained.parameters(), args.learning_rate)

    def step(name: str) -> None:
        queries = trained.encode_captions(batch.tokens, batch.word_counts)
        sims = similarities[name](trained.encode_images(batch.regions), queries, batch.word_counts)
        optimizer.zero_grad()
        trained.loss(sims, batch.image_ids).backward()
        optimizer.step()

    with progress_bar("4 score") as progress:
        sims, score_seconds = _taking_turns(score, similarities, args.repeats, progress)
    with progress_bar("4 step") as progress:
        _, step_seconds = _taking_turns(step, similarities, args.repeats, progress)
    return {
        "n_images": len(regions),
        "n_captions": len(words),
        "max_regions": regions.shape[1],
        "max_words": words.shape[1],
        "dim": regions.shape[2],
        "batch_size": len(batch),
        "repeats": args.repeats,
        "score_seconds": score_seconds,
        "step_seconds": step_seconds,
        "largest_score": sims["reference"].abs().max().item(),
        "largest_difference": (sims["fused"] - sims["reference"]).abs().max().item(),
        "recalls": {name: _recalls(sims[name]) for name in sims},
    }


def _reference_of(model: SCAN) -> Similarity:
    from itm_fast import reference

    flags = model.config
    return partial(
        reference.cross_attention_similarity,
        cross_attn=flags.cross_attn,
        raw_feature_norm=flags.raw_feature_norm,
        agg_func=flags.agg_func,
        lambda_softmax=flags.lambda_softmax,
        lambda_lse=flags.lambda_lse,
    )


def _embedded_test_set(args: Demo, model: SCAN) -> tuple[Tensor, Tensor, Tensor]:
    """Regions (n_images, max_regions, dim), words (n_captions, max_words, dim), word_counts (n_captions,)."""
    import torch

    from itm_fast.data import CaptionTokens, PrecompDataset

    test = PrecompDataset(args.folder / "data", "test")
    captions = CaptionTokens.from_captions(test.captions, model.vocabulary, "split")
    tokens, word_counts = captions.pad(range(test.n_captions))
    with torch.inference_mode():
        regions = model.encode_images(test.regions(range(test.n_images)))
        return regions, model.encode_captions(tokens, word_counts), word_counts


def _taking_turns(
    call: Callable[[str], T], names: Iterable[str], repeats: int, progress: Callable[[int, int], None]
) -> tuple[dict[str, T], dict[str, float]]:
    """Results of `call(name)` and its median seconds; the names alternate, so that a busy machine is unfair to none."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    results = {name: call(name) for name in seconds}  # the warm-up
    for number in range(repeats):
        progress(number + 1, repeats + 1)
        for name, times in seconds.items():
            started = time.perf_counter()
            call(name)
            times.append(time.perf_counter() - started)
    return results, {name: statistics.median(times) for name, times in seconds.items()}


def _recalls(sims: Tensor) -> dict[str, dict[str, float]]:
    from itm_fast.evaluation import evaluate

    report = evaluate(sims, ks=KS)
    return {direction: {f"R@{k}": report[direction][f"R@{k}"] for k in KS} for direction in DIRECTIONS}


def _write(path: Path, text: str) -> None:
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
