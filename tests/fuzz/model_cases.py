"""Models, checkpoints, runs, embeddings, and the settings and states of training."""

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import original_files
import torch
from fuzz.case import Case, Files, at, js, of_file, pt, written
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


# Options of parsers after SGRAF's.
_NOISY = {
    "ncr": {"no_co_training": False, "p_threshold": 0.5, "soft_margin": "exponential"},
    "decl": {"eta": 0.025, "lambda1": 0.8, "lambda2": 0.1, "mu": 5, "tau": 0.1},
    "crcl": {"alpha": 0.8, "confident": True, "mc": True, "schedules": [6], "tau": 0.05},
    "l2rm": {"queue_length": 128, "reg": 0.07, "rho": 0.1, "tau": 0.05},
}


@cache
def _noisy(name: str) -> bytes:
    """A checkpoint of SGRAF's model as those write it that train with noisy pairs."""
    content = original_files.content_of(original_files.made("sgraf"), **_NOISY[name])
    parts = content["model"]
    if name == "ncr":
        content = {**content, "model_A": parts, "model_B": parts}
    if name == "l2rm":
        named = zip(("img_enc", "txt_enc", "sim_enc"), parts, strict=True)
        content["net"] = {f"{part}.{key}": tensor for part, weights in named for key, tensor in weights.items()}
        content["cost_function"] = {"layers.0.weight": torch.ones(2, 2)}
    if name in ("ncr", "l2rm"):
        del content["model"]
    return pt(content)


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


def _settings() -> RunSettings:
    return RunSettings("scan", _SMALL, DataConfig(data_path=Path("data")), TrainingConfig(), SAMConfig())


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
    **{
        f"checkpoint of {name}": Case(
            lambda name=name: {"a.pth.tar": _noisy(name)},
            at("a.pth.tar", lambda path: load_original(path, original_files.VOCABULARY)),
            lambda r, name=name: r.name == ("mean" if name == "ncr" else "sgraf"),
        )
        for name in _NOISY
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
