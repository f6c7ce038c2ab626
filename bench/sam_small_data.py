"""The SAM paper's claim about little data: a model with the fixed margin and with SAM, over seeds, R@k and NCS@k.

Without --data-path on a generated set, whose recall says nothing about photographs. Each margin sees the same captions
in the same order; what differs between seeds is the initialisation, the order and SAM's random choices.
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

from itm_fast import Cider
from itm_fast.cli.console import print_table, progress_bar
from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.data import PrecompDataset, make_data
from itm_fast.evaluation import evaluate
from itm_fast.models import load_model, model_class
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.run import RunSettings, run_training

# Student's t of a 95 % interval by degrees of freedom, 1 to 9
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
METRICS = [(way, name) for way in ("i2t", "t2i") for name in ("R@1", "R@5", "R@10", "NCS@1", "NCS@5", "NCS@10")]
SUMS = ("rsum", "nsum")


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--model", default="scan", help="name in the registry")
    add("--seeds", type=int, default=5, help="runs of each margin, 2 to 10")
    add("--data-path", type=Path, help="data set in SCAN's layout; generated unless given")
    add("--data-percent", type=float, default=10.0, help="share of the training captions")
    add("--n-train", type=int, default=3000, help="training images of the generated set")
    add("--n-test", type=int, default=300, help="test images of the generated set")
    add("--dim", type=int, default=256, help="width of its region features")
    add("--embed-size", type=int, default=256, help="width of the model's embeddings")
    add("--n-concepts", type=int, default=60, help="concepts of CVSE; a generated set has few content words")
    add("--num-epochs", type=int, default=30)
    add("--warmup-epochs", type=int, default=0, help="first epochs with all negatives")
    add("--batch-size", type=int, default=64)
    add("--learning-rate", type=float, default=2e-3)
    add("--sam-temperature", type=float, default=10.0)
    add("--sam-weight", type=float, default=5.0)
    add("--sam-sampling", default="random", help="hardest, easiest or random")
    add("--sam-triplet-weight", type=float, default=1.0, help="of the fixed margin beside SAM")
    add("--json", type=Path, help="write all figures to this file")
    add("--plot", type=Path, help="write a plot of the sums to this file; needs matplotlib")
    return parser.parse_args(argv)


def settings_of(args, data, dim, seed, sam):
    training = TrainingConfig(
        num_epochs=args.num_epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        lr_update=max(1, args.num_epochs * 2 // 3),
        vse_mean_warmup_epochs=args.warmup_epochs,
        val_step=10**9,
        select="nsum",
        trackers=(),
        seed=seed,
    )
    margin = SAMConfig(
        sam=sam,
        sam_temperature=args.sam_temperature,
        sam_weight=args.sam_weight,
        sam_sampling=args.sam_sampling,
        sam_triplet_weight=args.sam_triplet_weight,
    )
    sizes = {"img_dim": dim, "embed_size": args.embed_size, "word_dim": 64, "max_violation": True}
    default = model_class(args.model).config_class()
    if hasattr(default, "n_concepts"):
        sizes |= {"n_concepts": args.n_concepts, "input_channel": 64}
    config = dataclasses.replace(default, **sizes)
    given = DataConfig(data, tokenizer="split", data_percent=args.data_percent)
    return RunSettings(args.model, config, given, training, margin)


def run(args, data, seed, sam, progress):
    test = PrecompDataset(data, "test")
    references = test.captions_by_image()
    with tempfile.TemporaryDirectory() as folder:
        run_training(settings_of(args, data, test.dim, seed, sam), Path(folder), progress=progress)
        scorer = ModelScorer(load_model(Path(folder) / "best"), test, tokenizer="split")
        report = evaluate(scorer, Cider().fit(references).encode(references))
    found = {f"{way} {name}": report[way][name] for way, name in METRICS}
    return {**found, **{name: report[name] for name in SUMS}}


def interval(values):
    """Half the width of the 95 % interval of the mean."""
    return T_95[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))


def plot(path, results):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(SUMS), figsize=(7, 3), layout="constrained")
    for axis, name in zip(axes, SUMS, strict=True):
        for place, runs in enumerate(results.values()):
            values = [found[name] for found in runs]
            axis.bar(place, statistics.mean(values), yerr=interval(values), capsize=6, width=0.6, alpha=0.6)
            axis.plot([place] * len(values), values, "k.", markersize=4)
        axis.set_xticks(range(len(results)), list(results))
        axis.set_title(f"{name}, mean of {len(runs)} seeds, 95 % interval", fontsize=9)
    figure.savefig(path)


def main(argv=None):
    args = arguments(argv)
    if not 2 <= args.seeds <= 10:
        raise SystemExit(f"--seeds is {args.seeds}; expected 2 to 10")
    with tempfile.TemporaryDirectory() as folder:
        data = args.data_path
        if data is None:
            data = Path(folder)
            make_data(data, n_train=args.n_train, n_dev=max(args.n_test // 3, 2), n_test=args.n_test, dim=args.dim)
        results = {"fixed": [], "SAM": []}
        for seed in range(args.seeds):
            for margin, runs in results.items():
                with progress_bar(f"{margin}, seed {seed}") as progress:
                    runs.append(run(args, data, seed, margin == "SAM", progress))
    rows = []
    for name in results["fixed"][0]:
        fixed, sam = ([found[name] for found in runs] for runs in results.values())
        gains = [b - a for a, b in zip(fixed, sam, strict=True)]
        cells = [f"{statistics.mean(values):.1f} ± {interval(values):.1f}" for values in (fixed, sam, gains)]
        rows.append([name, *cells])
    title = (
        f"{args.model}, {args.data_percent:g} % of the training captions, {args.num_epochs} epochs "
        f"({args.warmup_epochs} on all negatives), SAM {args.sam_sampling}, temperature {args.sam_temperature:g}, "
        f"weight {args.sam_weight:g}; {args.seeds} seeds, mean ± 95 % interval"
    )
    print_table(["", "fixed", "SAM", "SAM - fixed, by seed"], rows, title)
    if args.json is not None:
        record = {"arguments": vars(args), "results": results}
        args.json.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    if args.plot is not None:
        plot(args.plot, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
