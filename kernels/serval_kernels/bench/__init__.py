"""Benchmarks of the kernels: time against the floor and the built-in algorithm, and compiled resource use."""
