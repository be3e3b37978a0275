"""Constrained decoding with grammars."""
