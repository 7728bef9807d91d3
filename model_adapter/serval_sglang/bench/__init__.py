"""`python -m serval_sglang.bench`: the built-in model against Serval's in the engine, without weights."""
