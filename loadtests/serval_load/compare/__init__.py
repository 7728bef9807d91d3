"""Comparison of Serval's gateway with others, in front of the same stand-in, in one run on one machine."""
