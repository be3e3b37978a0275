"""A family that exists in the tests alone: GPT-2's field names over Gemma 3's arithmetic."""
