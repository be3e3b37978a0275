"""What the families' decoders share, driven by configuration: reading it, and the plan."""
