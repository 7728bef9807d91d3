"""CUDA code that SGLang and flashinfer compile when this model first reaches it, listed and built in advance.

`python -m serval_sglang.cuda_extensions list` shows the table, `build --arch 9.0` fills the caches in which a
later start looks, without a GPU.
"""
