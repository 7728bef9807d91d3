"""Layers that replace SGLang's own for LongCat-Flash-Lite."""
