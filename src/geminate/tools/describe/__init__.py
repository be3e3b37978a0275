"""What a model is and needs, in words: `geminate show`, and what `geminate info` adds to a loaded one."""
