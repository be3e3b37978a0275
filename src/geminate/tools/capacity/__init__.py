"""Capacity planning: which machines carry a load, how fast, and at what cost. Face of it: ``geminate plan``."""
