"""Every model as small as it can be, with any encoders, on a made set with pictures."""

import tiny_bert
import tiny_clip
import tiny_vit
import torch

from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.data import BatchPlan, Collator, Vocabulary, make_data, open_split
from itm_fast.models import model_class
from itm_fast.training.run import RunSettings

R, DIM = 4, 6
SMALL = {
    "sgraf": {"n_regions": R, "sim_dim": 8},
    "vsrn": {"dim_hidden": 8, "dim_word": 6},
    "esl": {"embed_size": 256},
    "cvse": {"n_regions": R, "n_concepts": 5, "input_channel": 6},
}
TINY_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "image_size": 16}  # four patches and a class token


def write_data(folder):
    """A made set with pictures, and folders of a ViT, a BERT, a CLIP and a SigLIP beside it."""
    make_data(folder, n_train=12, n_dev=6, n_test=6, max_regions=R, dim=DIM, picture_size=32)
    for name in ("vit", "bert", "clip", "siglip"):
        (folder / name).mkdir()
    tiny_vit.write_folder(folder / "vit", **TINY_VIT)
    captions = [line for path in folder.glob("*_caps.txt") for line in path.read_text().splitlines()]
    tiny_bert.write_folder(folder / "bert", tiny_bert.word_pieces(captions, n_words=10**6), num_hidden_layers=1)
    tiny_clip.write_clip(folder / "clip")
    tiny_clip.write_siglip(folder / "siglip")


def config(name, data, image="regions", text="bigru", **options):
    sizes = {"img_dim": DIM, "word_dim": 8, "embed_size": 16, **SMALL.get(name, {})}
    paths = {"backbone_path": str(data / "vit"), "bert_path": str(data / "bert")}
    chosen = {"image_encoder": image, "text_encoder": text, **paths, **options}
    return model_class(name).config_class(**{**sizes, **chosen})


def made(name, data, *axes, **options):
    torch.manual_seed(0)
    given = config(name, data, *axes, **options)
    return model_class(name)(given, given.own_vocabulary() or Vocabulary.load(data / "vocab.json"))


def split_of(model, data, split="test"):
    return open_split(data, split, model.config.image_size, resampling=model.config.resampling)


def batch_of(model, dataset, n=6):
    tokens = model.tokens_of(dataset.captions)
    return BatchPlan(Collator(dataset, tokens, has_image_tokens=model.reads_image_tokens(training=True)), n, 1)[0]


def settings(name, data, image, text, *, cache=None, options=None, **training):
    given = {"num_epochs": 1, "batch_size": 15, "val_step": 10**6, "trackers": (), **training}
    return RunSettings(
        name,
        config(name, data, image, text, **(options or {})),
        DataConfig(data, tokenizer="split", cache_tokens=cache),
        TrainingConfig(**given),
        SAMConfig(),
    )
