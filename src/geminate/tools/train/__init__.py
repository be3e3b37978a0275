"""Training of drafters with torch: the only package that may import it (``pip install '.[train]'`` in a checkout)."""
