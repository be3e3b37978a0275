"""Compiled target and drafter."""
