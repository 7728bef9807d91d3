"""Checks of the kernels on one GPU at LongCat-Flash-Lite's own sizes, without SGLang and without pytest.

The tests in `tests/kernels` cover many small shapes. These cover sizes that only a GPU holds: tables of 62.8
GB, whose rows lie beyond offsets of 32 bits, columns of such a table, tables in pinned host memory, and state
that CUDA graphs replay.
"""
