"""Batches: requests of a file that are run while the engine has room, in OpenAI's form.

`tasks` validates a batch and writes its files, `lines` runs its lines; every process does both, under leases
in the key database (`serval.store.batches`, `serval.store.batch_lines`).
"""
