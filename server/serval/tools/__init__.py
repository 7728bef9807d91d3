"""LongCat's tool-call format: reading it, typing values, constraining the decoder. Pure Python."""
