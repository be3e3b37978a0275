"""Quantized copies of a model, with less error than plain rounding."""
