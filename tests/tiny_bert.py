"""A BERT of two layers with random weights and a few word pieces, as a folder like those of published ones."""

import json

from itm_fast.data import WordPieces

SPECIALS = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 80,
}


def word_pieces(captions, n_words=60):
    """Specials, every letter as start and as continuation, some endings, and the first words of the captions."""
    words = dict.fromkeys(word for caption in captions for word in caption.lower().split())
    letters = dict.fromkeys(letter for word in words for letter in word)
    endings = ["##ing", "##ed", "##er"]
    return WordPieces(
        dict.fromkeys([*SPECIALS, *letters, *(f"##{x}" for x in letters), *endings, *list(words)[:n_words]])
    )


def config(pieces, **options):
    """What config.json says."""
    return {**SIZES, "vocab_size": len(pieces), **options}


def write_folder(folder, pieces, **options):
    """config.json, weights, vocab.txt; returns the transformers' model that was saved."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(5)
    model = AutoModel.from_config(AutoConfig.for_model(**config(pieces, **options))).eval()
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(pieces.pieces) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": pieces.lower_case}))
    return model
