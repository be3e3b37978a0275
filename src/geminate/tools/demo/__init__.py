"""Speculative decoding at real size, without a download."""
