"""Dialects that are implemented. A new one is a module here that makes a `Dialect`."""
