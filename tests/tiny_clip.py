"""A CLIP and a SigLIP of two layers with random weights, as folders like those of published ones; tiny images."""

import json

import numpy as np
from PIL import Image

CONTEXT = 12
WORDS = ["a", "dog", "cat", "man", "runs", "sleeps", "on", "grass", "red", "green", "two", "the"]
_LAYERS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = {**_LAYERS, "image_size": 16, "patch_size": 8}
_TEXT = {**_LAYERS, "max_position_embeddings": CONTEXT}


def write_clip(folder, seed=5):
    """CLIP with byte pairs for single letters: config.json, weights, tokenizer, preprocessor_config.json."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz.,"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocab = {token: number for number, token in enumerate(tokens)}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(seed)
    text = {**_TEXT, "vocab_size": len(vocab), **special}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=8)).eval()
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=vocab, merges=[], model_max_length=CONTEXT).save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    _write(folder / "preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor", **size})
    return model


def write_siglip(folder):
    """SigLIP with a vocabulary of words, whose captions are padded to the end and have no attention mask."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(6)
    model = SiglipModel(
        SiglipConfig(text_config={**_TEXT, "vocab_size": 20, "pad_token_id": 0}, vision_config=_VISION)
    ).eval()
    model.save_pretrained(folder)
    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{word: number for number, word in enumerate(WORDS, start=3)}}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids"], **special}
    _write(folder / "tokenizer_config.json", options)
    size = {"size": {"height": 16, "width": 16}}
    _write(folder / "preprocessor_config.json", {"image_processor_type": "SiglipImageProcessor", **size})
    return model


def write_blip(folder):
    """BLIP for image-text retrieval, with BERT's tokenizer."""
    import torch
    from transformers import BlipConfig, BlipForImageTextRetrieval

    torch.manual_seed(7)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    text = {**_TEXT, "vocab_size": len(vocab), "encoder_hidden_size": 16, **special}
    vision = {**_VISION, "initializer_range": 0.3}  # by default so little that all images are one
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=8)
    model = BlipForImageTextRetrieval(config).eval()
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": CONTEXT})
    size = {"size": {"height": 16, "width": 16}}
    _write(folder / "preprocessor_config.json", {"image_processor_type": "BlipImageProcessor", **size})
    return model


def write_images(folder, n_images):
    """PNG files of different shapes, and {name: captions} with one to three captions each."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    captions = {}
    for number in range(n_images):
        name = f"{number:03}.png"
        height, width = rng.integers(9, 30, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
        captions[name] = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(1 + number % 3)]
    return captions


def _write(path, content):
    path.write_text(json.dumps(content))
