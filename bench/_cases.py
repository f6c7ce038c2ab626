"""The batches that are timed."""

import torch


def scan_batch(n_images, n_captions, *, mean_words=12, max_regions=36, dim=1024, dtype=torch.float32, seed=0):
    """Unit rows; caption lengths like COCO's: gamma-shaped, 3 to 50."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    lengths = torch.distributions.Gamma(6.0, 6.0 / mean_words).sample((n_captions,))
    word_counts = lengths.round().clamp(3, 50).long()

    def rows(n, longest):
        x = torch.randn(n, longest, dim, generator=generator)
        return torch.nn.functional.normalize(x, dim=-1).to(dtype)

    return rows(n_images, max_regions), rows(n_captions, int(word_counts.max())), word_counts


def packed(words, word_counts):
    """(n_words, dim): the valid words of all captions."""
    return torch.cat([caption[:n] for caption, n in zip(words, word_counts, strict=True)])


FLAGS = {
    "t2i": {"cross_attn": "t2i", "lambda_softmax": 9.0, "lambda_lse": 6.0},
    "i2t": {"cross_attn": "i2t", "lambda_softmax": 4.0, "lambda_lse": 5.0},
}
