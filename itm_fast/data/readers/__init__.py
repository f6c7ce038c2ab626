"""Readers of data sets and annotations, one file a format; each says what it refuses, and where."""
