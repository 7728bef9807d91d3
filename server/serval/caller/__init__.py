"""The caller of a request: identity, limits and priority."""
