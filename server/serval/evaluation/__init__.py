"""`serval eval`: existing evaluation harnesses, run against a server and recorded.

A suite (`suites.toml`) names a harness and its tasks. The harness runs in a locked environment of its own
(`environment.py`) as a program of `programs/`, which writes one line for each problem. Its requests go
through a recorder (`recorder.py`) on this machine, which sets the sampling, keeps every request with its
answer, and answers a request from the recording where it has one: so an interrupted run goes on.
"""
