"""A hundred requests meant to take a gateway down, and their effect on other users."""
