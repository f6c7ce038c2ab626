"""Tiny models with random weights, as their own libraries write them: open_clip, ColPali, sentence-transformers."""

import json

import tiny_clip

LAYERS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
N_PATCHES, N_PROMPT = 4, 4  # of an image of ColPali: patches; start, "Describe", "the", "image."


def write_open_clip(folder, seed=3):
    """open_clip's CLIP with its own byte pairs, as its hub has them."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    vision = {"image_size": 16, "layers": 2, "width": 16, "patch_size": 8, "head_width": 8}
    text = {"context_length": tiny_clip.CONTEXT, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config).eval()
    normalised = {"mean": [0.4, 0.5, 0.6], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": normalised}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


def write_colpali(folder, seed=9):
    """ColPali of a tiny PaliGemma, with a vocabulary of words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        ColPaliConfig,
        ColPaliForRetrieval,
        ColPaliProcessor,
        PaliGemmaConfig,
        PreTrainedTokenizerFast,
        SiglipImageProcessor,
    )

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<image>", "Question:", "Describe", "image.", *tiny_clip.WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens={"image_token": "<image>"}, **special
    )
    images = SiglipImageProcessor(size={"height": 16, "width": 16})
    images.image_seq_length = N_PATCHES
    processor = ColPaliProcessor(images, tokenizer)  # adds a thousand tokens of places and segments
    text = {**LAYERS, "model_type": "gemma", "num_key_value_heads": 1, "head_dim": 8, "vocab_size": len(tokenizer)}
    text |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    vision = {**LAYERS, "model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8}
    vlm = PaliGemmaConfig(
        text_config=text,
        vision_config={**vision, "vision_use_head": False},
        image_token_index=4,
        projection_dim=16,
        hidden_size=16,
    )
    torch.manual_seed(seed)
    model = ColPaliForRetrieval(ColPaliConfig(vlm_config=vlm, embedding_dim=8)).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def write_sentence(folder, of, kind="SentenceTransformer", **options):
    """A model of transformers in a folder, as sentence-transformers saves it."""
    import sentence_transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = getattr(sentence_transformers, kind)(str(of), local_files_only=True, device="cpu", **options)
    model.save(str(folder), create_model_card=False)
    return model
