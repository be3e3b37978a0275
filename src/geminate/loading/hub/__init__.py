"""Models from the hub: names, the committed catalogue, downloads into huggingface-hub's own cache, what is there."""
