"""Operations of LongCat-Flash-Lite: n-gram embedding, router, identity experts.

It depends on torch, and on Triton where there is a GPU, never on SGLang.
"""
