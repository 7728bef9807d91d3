"""Figures and pictures of a run."""
