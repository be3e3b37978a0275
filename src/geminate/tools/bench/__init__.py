"""Measuring: pass times of real shapes, and decoding speed of a pair. Faces of it: ``geminate bench``."""
