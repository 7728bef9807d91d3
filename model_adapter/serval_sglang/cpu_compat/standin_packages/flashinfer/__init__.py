"""Stand-in for the flashinfer wheel: its kernels need a GPU, and each process imports it for three seconds.

SGLang looks whether it can be imported, and does without.
"""

raise ImportError("a CPU engine runs without flashinfer")
