"""Grammars that hold the decoder to tool schemas and response formats."""
