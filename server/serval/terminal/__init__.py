"""Display of `serval serve` on a terminal: stages of the start, the address and key, requests."""
