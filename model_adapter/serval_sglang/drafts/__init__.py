"""Decoding with drafts that gives the answers of decoding without: what SGLang's verification leaves out."""
