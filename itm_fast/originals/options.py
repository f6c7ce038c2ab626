"""Options beside the weights: of any class, each either read, without effect on scores, or named."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

Options = Mapping[str, Any]

_ENTRIES = ("opt", "opts", "args", "options", "config", "cfg", "hparams")  # under which forks save them
# Options of the originals that say where files are and how to train; none of them changes a trained model's scores.
_TRAINING = """
backbone_lr_factor backbone_path backbone_warmup_epochs batch_size caption_loss cnn_type crop_size data_name
data_name_vocab data_path dataset dropout_rate embedding_warmup_epochs evaluate_cxc finetune fold5 grad_clip
learning_rate log_step logger_name lr_update margin max_violation model_name model_path num_epochs optim
orig_data_name orig_img_path reset_start_epoch reset_train resume save_results seed split transfer_test use_restval
val_step viz vocab_path vocab_size vse_mean_warmup_epochs wemb_type word2idx workers
"""
_OF_TRAINING = frozenset(_TRAINING.split())
# The same of forks: whole names, and words that a name may hold.
_NAMES = """
dist_backend dist_url exp exp_name local_rank log log_freq log_interval num_workers port print_freq rank run_name step
time val_batch_size test_batch_size eval_batch_size world_size
"""
_WORDS = """
amp ckpt checkpoint comment cuda cudnn date debug decay ddp device devices dir dirs distributed drop dropout early epoch
epochs experiment file files folder fp16 gpu gpuid gpus grad learning logger logging loss losses lr momentum noise noisy
optim optimiser optimizer patience path paths resume root save saved schedule scheduler seed server tensorboard
timestamp validate validation verbose wandb warm warmup worker workers
"""
_HOUSEKEEPING_NAMES, _HOUSEKEEPING_WORDS = frozenset(_NAMES.split()), frozenset(_WORDS.split())
# What turns a part of SCAN's code off, or its usual self on, where a model has no such option.
_NEUTRAL: dict[str, Any] = {
    "measure": "cosine",
    "no_imgnorm": False,
    "no_txtnorm": False,
    "precomp_enc_type": "basic",
    "use_abs": False,
}


def options_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a checkpoint: of a Namespace, a dict, an OrderedDict, an EasyDict; none where there are none."""
    for name in _ENTRIES:
        found = content.get(name)
        if isinstance(found, (Mapping, Namespace)):
            # an EasyDict has its items as attributes too, other classes have attributes alone
            items = {**getattr(found, "__dict__", {}), **(found if isinstance(found, Mapping) else {})}
            return {str(key): _plain(value) for key, value in items.items()}
    return {}


def _plain(value: object) -> object:
    """Numbers that were saved as tensors, as Python's; larger tensors by their shape, for errors."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else f"a tensor {tuple(value.shape)}"
    return value


def check_options(options: Options, known: Collection[str], fixed: Options) -> list[str]:
    """Every option must be known, at its one value, without effect on scores, or off.

    Args:
        options: of the checkpoint.
        known: that are read.
        fixed: those that are not, with the value that the model here stands for.

    Returns:
        The unknown ones that are off (False, None, 0, empty), to be reported.

    Raises:
        ValueError: an option has another value, or is on and unknown; all of these are named.
    """
    fixed = {**{name: value for name, value in _NEUTRAL.items() if name not in known}, **fixed}
    for name, value in fixed.items():
        if options.get(name, value) != value:
            raise ValueError(f"option {name} is {options[name]!r:.60}; only {value!r} is known")
    unknown = {
        name: value
        for name, value in options.items()
        if name not in known and name not in fixed and name not in _OF_TRAINING and not _is_housekeeping(name)
    }
    on = {name: value for name, value in unknown.items() if not _is_off(value)}
    if on:
        raise ValueError(
            f"its options {', '.join(f'{name}={value!r:.40}' for name, value in on.items())} are unknown, so that it "
            "may be a relative with other scores; if none of them changes scores, name them in ignore_options "
            f"(--ignore-options {' '.join(on)})"
        )
    return sorted(unknown)


def _is_housekeeping(name: str) -> bool:
    words = re.split(r"[^a-z0-9]+", name.lower())
    return name.lower() in _HOUSEKEEPING_NAMES or not _HOUSEKEEPING_WORDS.isdisjoint(words)


def _is_off(value: object) -> bool:
    return value is None or (isinstance(value, (bool, int, float, str, list, tuple, dict, set)) and not value)
