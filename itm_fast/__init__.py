"""Fused operators for image-text matching, and the layer that trains and evaluates with them."""
