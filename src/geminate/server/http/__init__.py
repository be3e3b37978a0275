"""The HTTP layer: application, authentication, limits, errors."""
