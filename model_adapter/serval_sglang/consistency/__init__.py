"""Comparison of an engine with itself: the same questions in different ways must get the same answers.

`serval_sglang.verify` compares a small checkpoint with the reference. This needs no reference, so it also
takes the real weights: alone and again (from the prefix cache), alone and in a large batch, and beside a
second engine with other flags (chunks, no CUDA graphs).
"""
