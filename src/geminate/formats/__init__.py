"""Weight formats: what stored numbers mean."""
