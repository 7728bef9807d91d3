"""`make gpu-check`: everything that waits for a GPU, in the order in which each minute tells most.

Standard library only, so that the part about kernels runs with any Python that has torch and Triton. Each
step is a program of its own; this package decides which run, for how long, and writes down what they said.
"""
