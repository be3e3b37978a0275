"""A model as a plan: nodes, builder, configuration."""
