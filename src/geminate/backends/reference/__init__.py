"""The NumPy reference backend, the oracle of the kernels."""
