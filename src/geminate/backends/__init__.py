"""Backends that run plans: the NumPy reference (the oracle) and the native kernels."""
