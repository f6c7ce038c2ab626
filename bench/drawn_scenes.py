"""Every model with each encoder and each loss on drawn scenes: recall in units of chance, as a table in Markdown.

Images are drawings of three of 24 things, or region features of the same; captions name them in any order. The ViT and
the BERT have one layer and random weights; the BERT trains, the ViT if it is asked to: otherwise its tokens are cached.
A class token of random weights says the same of every image: where each word is aligned with its best region all would
take that one and learn nothing from it, so it is dropped. What is shown is the smaller R@1 of both directions over that
of chance.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from itm_fast.cli.console import progress_bar
from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.data import make_data, open_split
from itm_fast.evaluation import evaluate
from itm_fast.models import load_model, model_class
from itm_fast.registry import MODELS
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.run import RunSettings, run_training

SIDE, N_REGIONS, DIM, N_TEST = 32, 4, 16, 100
NAMES = "ant ape bat bee bug cat cod cow dog eel elk emu ewe fox gnu hen jay kid owl pig ram rat sow yak"
LAYERS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
OPTIONS = {
    "sgraf": {"n_regions": N_REGIONS, "sim_dim": 32, "dropout": 0.0},
    "vsrn": {"dim_hidden": 32, "dim_word": 16},
    "esl": {"embed_size": 256},
    "cvse": {"n_regions": N_REGIONS, "n_concepts": 16, "input_channel": 32, "dropout_rate": 0.0},
    "chan": {"margin": 0.5},  # its similarities are not cosines: the LSE of ten times those
    "laps": {"num_patches": 16, "imagenet_pixels": False},
}
COLUMNS = [
    (image, text, sam) for image in ("regions", "patches") for text in ("bigru", "bert") for sam in (False, True)
]


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, help="rows of the table")
    parser.add_argument("--columns", type=int, nargs="+", default=range(len(COLUMNS)), help="columns, counted from 0")
    parser.add_argument("--n-train", type=int, default=200, help="training images of the generated set")
    parser.add_argument("--num-epochs", type=int, default=5, help="SCAN begins to learn from patches after 5")
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--backbone-lr-factor", type=float, default=0.0, help="share of it that the ViT has")
    parser.add_argument("--json", type=Path, help="write all figures to this file, and take those that are in it")
    return parser.parse_args(argv)


def write_data(folder, n_train):
    """Images of three names each, five captions an image."""
    rng = np.random.default_rng(0)
    counts = {"n_train": n_train, "n_dev": 20, "n_test": N_TEST}
    images = [rng.choice(NAMES.split(), 3, replace=False) for _ in range(sum(counts.values()))]
    captions = [" ".join(rng.permutation(names)) for names in images for _ in range(5)]
    make_data(folder, captions=captions, **counts, max_regions=N_REGIONS, dim=DIM, picture_size=SIDE)


def write_encoders(folder):
    """A ViT, and a BERT whose pieces are the words of the captions, as folders like those of published ones."""
    from transformers import AutoConfig, AutoModel

    vit, bert = folder / "vit", folder / "bert"
    torch.manual_seed(0)
    config = AutoConfig.for_model("vit", **LAYERS, image_size=SIDE, patch_size=8)
    AutoModel.from_config(config).save_pretrained(vit)
    size = {"height": SIDE, "width": SIDE}
    processor = {"image_processor_type": "ViTImageProcessor", "size": size, "resample": 2}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (vit / "preprocessor_config.json").write_text(json.dumps(processor))
    lines = [line for path in folder.glob("*_caps.txt") for line in path.read_text(encoding="utf-8").splitlines()]
    words = dict.fromkeys(word for line in lines for word in line.lower().split())
    pieces = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    config = AutoConfig.for_model("bert", **LAYERS, vocab_size=len(pieces), max_position_embeddings=64)
    AutoModel.from_config(config).save_pretrained(bert)
    (bert / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (bert / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))


def times_chance(args, data, run, name, image, text, sam):
    """The smaller R@1 of both directions over chance, which is one image in all there are; None where it cannot be."""
    axes = {
        "image_encoder": image,
        "text_encoder": text,
        "class_token": "kept" if name == "laps" else "dropped",  # which LAPS sets apart
        "backbone_path": str(data / "vit"),
        "bert_path": str(data / "bert"),
    }
    factors = {"backbone_lr_factor": args.backbone_lr_factor, "bert_lr_factor": 1.0, "embedding_warmup_epochs": 0}
    sizes = {"img_dim": DIM, "word_dim": 32, "embed_size": 64, "max_violation": True}
    try:
        config = model_class(name).config_class(**{**axes, **factors, **sizes, **OPTIONS.get(name, {})})
    except ValueError:
        return None
    n = args.num_epochs
    training = TrainingConfig(
        batch_size=50,
        num_epochs=n,
        learning_rate=args.learning_rate,
        lr_update=max(1, n - 1),
        vse_mean_warmup_epochs=n,
        val_step=10**6,
        trackers=(),
    )
    is_fixed = image == "patches" and args.backbone_lr_factor == 0
    cache = data / f"tokens-{config.class_token}" if is_fixed else None
    of_data = DataConfig(data, tokenizer="split", cache_tokens=cache)
    run_training(RunSettings(name, config, of_data, training, SAMConfig(sam=sam)), run)
    model = load_model(run / "best")
    dataset = open_split(data, "test", model.config.image_size, resampling=model.config.resampling)
    report = evaluate(ModelScorer(model, dataset))
    return min(report["i2t"]["R@1"], report["t2i"]["R@1"]) / (100 / N_TEST)


def main(argv=None):
    args = arguments(argv)
    found = json.loads(args.json.read_text()) if args.json is not None and args.json.is_file() else {}
    with tempfile.TemporaryDirectory() as folder, progress_bar("runs") as progress:
        data = Path(folder) / "data"
        write_data(data, args.n_train)
        write_encoders(data)
        runs = [(name, COLUMNS[column]) for name in args.models for column in args.columns]
        for number, (name, column) in enumerate(runs):
            key = f"{name} {' '.join(map(str, column))}"
            if key not in found:
                started = time.process_time()
                times = times_chance(args, data, Path(folder) / f"{number}", name, *column)
                found[key] = {"times_chance": times, "cpu_seconds": time.process_time() - started}
                print(key, found[key], flush=True)
                if args.json is not None:
                    args.json.write_text(json.dumps(found, indent=2) + "\n")
            progress(number + 1, len(runs))
    heads = [f"{image}, {text}{', SAM' if sam else ''}" for image, text, sam in (COLUMNS[c] for c in args.columns)]
    print(f"| model | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for name in args.models:
        keys = [f"{name} {' '.join(map(str, COLUMNS[column]))}" for column in args.columns]
        cells = [found[key]["times_chance"] for key in keys]
        print(f"| `{name}` | {' | '.join('–' if cell is None else f'{cell:.0f}' for cell in cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
