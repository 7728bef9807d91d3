"""Implemented dialects. To add one, add a module that defines a `Dialect`."""
