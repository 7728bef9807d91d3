"""Operations of LongCat-Flash-Lite: n-gram embedding, router, identity experts.

Imports torch (and Triton where there is a GPU) only, never SGLang.
"""
