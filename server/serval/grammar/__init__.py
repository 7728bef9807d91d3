"""Grammars that constrain the decoder to tool calls and response formats."""
