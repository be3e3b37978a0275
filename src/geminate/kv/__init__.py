"""KV cache and its memory."""
