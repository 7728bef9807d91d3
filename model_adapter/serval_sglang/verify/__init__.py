"""Comparison of a running engine with the reference model, for `serval checkpoint verify`.

`engine` starts the real engine and sends it requests, `cases` defines the requests, `comparison` measures the
distance of the answers from the reference, and `verification` combines these and reaches a verdict.
"""
