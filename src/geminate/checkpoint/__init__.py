"""Reading checkpoints: safetensors directories and GGUF files."""
