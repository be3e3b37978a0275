"""HTTP: application, authentication, limits, errors."""
