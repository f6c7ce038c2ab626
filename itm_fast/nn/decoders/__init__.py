"""From images back to words, as a loss while training."""

from itm_fast.nn.decoders.captioning import CaptioningHead

__all__ = ["CaptioningHead"]
