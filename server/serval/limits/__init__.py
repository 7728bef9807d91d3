"""Limits of keys: reserved before a request goes to the engine, settled with its real use."""
