"""From a name to a compiled pair."""
