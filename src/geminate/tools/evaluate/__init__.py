"""What a weight format costs, measured on a text."""
