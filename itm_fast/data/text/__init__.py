"""Captions as tokens and ids: tokenizers, vocabularies, word pieces, concepts."""
