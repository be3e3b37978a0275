"""The OpenAI-compatible server: the only place that imports a web framework."""
