"""Measures the kernels: time against floor and against the built-in algorithm, and what they compile to."""
