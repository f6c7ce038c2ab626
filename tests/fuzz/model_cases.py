"""Models, checkpoints, runs, embeddings, and the settings and states of training."""

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import original_files
import torch
from fuzz.array_cases import ROWS
from fuzz.case import Case, Files, at, js, npy, of_file, pt, written
from fuzz.vocabulary_cases import WORDS
from small_runs import make_run

from itm_fast import Cider
from itm_fast.benchmark.bench import read_medians
from itm_fast.benchmark.settings import BenchSettings
from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.data import Vocabulary
from itm_fast.models import SCAN, SCANConfig, load_model, save_model
from itm_fast.nn.encoders.grid import _read_weights
from itm_fast.originals import load_original
from itm_fast.pretrained import read_config
from itm_fast.runs.folder import load_run, save_run
from itm_fast.sources.embedding_files import read_embeddings
from itm_fast.sources.extraction import _State
from itm_fast.training.run import RunSettings
from itm_fast.training.state import load_checkpoint

_SMALL = SCANConfig(img_dim=4, word_dim=3, embed_size=2)


@cache
def _model_folder() -> Files:
    torch.manual_seed(0)
    files = written(lambda folder: save_model(SCAN(_SMALL, Vocabulary(WORDS)), folder))
    return {name: content for name, content in files.items() if name != "README.md"}


@cache
def _original(name: str, old: bool = False) -> bytes:
    return pt(original_files.content_of(original_files.made(name)), _use_new_zipfile_serialization=not old)


@cache
def _run_folder() -> Files:
    def write(folder: Path) -> None:
        run = make_run("a", 0.5)
        save_run(replace(run, attention=run.attention[:1]), folder)

    return written(write)


def _load_run(folder: Path) -> Any:
    """A run whose digests are those of its damaged files: a folder that somebody made."""
    import hashlib

    try:
        card = json.loads((folder / "run.json").read_bytes())
        card["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in card["files"]}
        (folder / "run.json").write_text(json.dumps(card))
    except Exception:
        pass
    return load_run(folder)


def _embeddings() -> Files:
    items = {"image_ids": [1, 2], "caption_ids": [1, 2, 3], "image_names": ["a", "b"], "image_paths": ["a", "b"]}
    return {
        "images.npy": npy(ROWS, np.float32),
        "captions.npy": npy(np.ones((3, 3)), np.float32),
        "caption_to_image.npy": npy([0, 0, 1]),
        "items.json": js({**items, "captions": ["x", "y", "z"]}),
        "embeddings.json": js({"model": "clip", "notes": ["n"]}),
    }


def _settings() -> RunSettings:
    return RunSettings("scan", _SMALL, DataConfig(data_path=Path("data")), TrainingConfig(), SAMConfig())


_PROGRESS = {"rows": {"images": 1, "captions": 3}, "conditions": {"model": "m"}, "sizes": "s"}


def _progress(folder: Path) -> Any:
    state = _State(folder, {"model": "m"}, np.zeros(2, dtype=np.int64), False)
    return state.rows


_BENCH = BenchSettings(operator="triplet", n_images=8, dim=16, repeats=2)
_BENCHED = {
    "operator": "triplet",
    "settings": {name: value for name, value in asdict(_BENCH).items() if value is not None and name != "operator"},
    "calls": [{"name": "fused", "median_ms": 0.5}],
}
_STATE = {"format": "itm-fast training state 1", "settings": {"seed": 1}, "state": {"step": 3, "w": torch.ones(2)}}
MODELS = {
    "model folder": Case(_model_folder, load_model, lambda r: r.config == _SMALL),
    **{
        f"checkpoint of {name}": Case(
            lambda name=name: {"a.pth.tar": _original(name)},
            at("a.pth.tar", lambda path: load_original(path, original_files.VOCABULARY)),
            lambda r, name=name: r.name == name,
        )
        for name in ("scan", "vsepp", "sgraf", "vse_infty", "chan")
    },
    "old checkpoint of scan": Case(
        lambda: {"a.pth.tar": _original("scan", old=True)},
        at("a.pth.tar", lambda path: load_original(path, original_files.VOCABULARY)),
        lambda r: r.name == "scan",
    ),
    "backbone": Case(
        lambda: {"a.pth": pt({"base": {"0.w": torch.ones(2)}, "top": {"0.b": torch.ones(2)}})},
        at("a.pth", lambda path: _read_weights(str(path), "detector")),
        lambda r: len(r) == 2,
    ),
    "run": Case(_run_folder, _load_run, lambda r: r.name == "a"),
    "embeddings": Case(_embeddings, read_embeddings, lambda r: r.images.shape == (2, 3)),
    "progress of embeddings": Case(
        lambda: {"progress.json": js(_PROGRESS)},
        _progress,
        None,
    ),
    "document frequencies": Case(
        lambda: written(lambda folder: Cider().fit([["a dog", "a cat"], ["the sea"]]).save(folder / "f.safetensors")),
        at("f.safetensors", Cider.load),
        lambda r: r.n_images == 2,
    ),
    "training state": of_file(
        "checkpoint.pt", pt(_STATE), lambda path: load_checkpoint(path, {"seed": 1}), lambda r: r["step"] == 3
    ),
    "settings of a run": Case(
        lambda: written(lambda folder: _settings().save(folder / "train.json")),
        at("train.json", RunSettings.load),
        lambda r: r == _settings(),
    ),
    "configuration of a transformer": of_file(
        "config.json",
        js({"model_type": "bert", "hidden_size": 4}),
        lambda p: read_config(p.parent),
        lambda r: len(r) == 2,
    ),
    "earlier bench": of_file("b.json", js(_BENCHED), lambda path: read_medians(path, _BENCH), {"fused": 0.5}),
}
