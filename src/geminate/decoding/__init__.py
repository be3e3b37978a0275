"""How a token is chosen, for target and drafter alike."""
