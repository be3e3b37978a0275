"""Anthropic's API: ``/v1/messages`` and its token count, over the same path as ``/v1/chat/completions``."""
