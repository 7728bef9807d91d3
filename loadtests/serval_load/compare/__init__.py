"""Serval's gateway beside others, in front of the same stand-in, in one run on one machine."""
