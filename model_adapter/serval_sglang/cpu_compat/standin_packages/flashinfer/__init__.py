"""Stand-in for the flashinfer wheel: its kernels need a GPU, and each process imports it for three seconds.

SGLang tries to import it and works without it if that fails.
"""

raise ImportError("a CPU engine runs without flashinfer")
