"""A hundred requests meant to take a gateway down, and what others notice of them."""
