"""Training of drafters with torch: the only package that may import it (``pip install 'geminate[train]'``)."""
