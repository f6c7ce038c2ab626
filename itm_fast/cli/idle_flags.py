"""Flags of `itm-fast train` that other flags leave without effect."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from itm_fast.training.run import RunSettings


def idle_flags(arguments: Sequence[str], settings: RunSettings) -> list[str]:
    """What to say of the flags of a command line that nothing reads; those of a preset are not looked at.

    Args:
        arguments: The command line.
        settings: As it was understood.
    """
    words = (argument.partition("=")[0] for argument in arguments if argument.startswith("--"))
    names = [word.removeprefix("--").replace("_", "-") for word in words]
    found = []
    for flags, is_read, why in _rules(settings):
        given = [f"--{name}" for name in dict.fromkeys(names) if name.removeprefix("no-") in flags]
        if given and not is_read:
            found.append(f"WARNING: {', '.join(given)}: without effect {why}")
    return found


def _rules(settings: RunSettings) -> list[tuple[Collection[str], bool, str]]:
    """Flags, whether they are read, and what of the settings says that they are not."""
    config, data, sam, training = settings.model_config, settings.data, settings.sam, settings.training
    images, text = config.image_kind, config.text_kind

    def has(setting: str, *values: str) -> bool:
        """Whether it is one of these, where the model has it."""
        return getattr(config, setting, values[0]) in values

    of_sam = ["temperature", "weight", "sampling", "variant", "margin-max", "t2i-margin", "triplet-weight"]
    of_both = ["backbone-path", "backbone-lr-factor", "embedding-warmup-epochs"]
    of_grids = ["backbone-source", "input-scale-factor", "backbone-warmup-epochs"]
    of_words = ["word-dim", "num-layers", "bi-gru", "vocab-path", "tokenizer"]
    return [
        ([f"sam-{name}" for name in of_sam], sam.sam, "without --sam"),
        (["cider-tokenizer"], sam.sam or training.select == "nsum", "without --sam or --select nsum"),
        (["bert-path", "bert-lr-factor", "bert-warmup-epochs"], text != "bigru", "without --text-encoder bert or clip"),
        (of_words, text == "bigru", f"with --text-encoder {text}, which brings its own"),
        (["text-enc-type"], config.text_encoder is None, "beside --text-encoder"),
        (of_both, images != "regions", "without --image-encoder grid or patches"),
        (of_grids, images == "grid", "without --image-encoder grid"),
        (["class-token", "imagenet-pixels"], images == "patches", "without --image-encoder patches"),
        (["n-regions"], images == "regions", f"with --image-encoder {images}"),
        (["img-dim"], images != "patches", "with --image-encoder patches"),
        (["data-subset"], data.data_percent < 100, "without --data-percent"),
        (["lr-update"], not training.lr_schedules, "beside --lr-schedules"),
        (["vse-mean-warmup-epochs"], config.max_violation, "without --max-violation"),
        (["lambda-lse"], has("agg_func", "LogSumExp"), "without --agg-func LogSumExp"),
        (["sgr-step"], has("module_name", "SGR"), "without --module-name SGR"),
        (["alpha"], has("coding_type", "VSACoding"), "without --coding-type VSACoding"),
        (["belta"], has("pooling_type", "LSEPooling", "SoftmaxPooling"), "without LSEPooling or SoftmaxPooling"),
    ]
