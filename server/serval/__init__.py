"""Serval's gateway and command line. Imports neither torch nor SGLang."""

__version__ = "0.1.0"
