"""A ViT of two layers with random weights, as a folder like those of published ones."""

import json

SIZE, PATCH = 32, 8
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIZE,
    "patch_size": PATCH,
}
PIXELS = {"size": SIZE, "mean": [0.5, 0.5, 0.5], "deviation": [0.25, 0.25, 0.25], "resampling": "bilinear"}


def config(**options):
    """What `vision_architecture` reads off the folder."""
    return {"architecture": {"model_type": "vit", **SIZES, **options}, **PIXELS}


def write_folder(folder, model_type="vit", **options):
    """config.json, weights, preprocessor_config.json; returns the transformers' model that was saved."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(5)
    model = AutoModel.from_config(
        AutoConfig.for_model(model_type, **(options if "depths" in options else {**SIZES, **options}))
    ).eval()
    model.save_pretrained(folder)
    side = {**SIZES, **options}["image_size"]
    size = {"height": side, "width": side}
    processor = {"image_processor_type": "ViTImageProcessor", "size": size, "resample": 2}
    processor |= {"image_mean": PIXELS["mean"], "image_std": PIXELS["deviation"]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model
