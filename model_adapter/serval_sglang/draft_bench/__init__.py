"""`python -m serval_sglang.draft_bench`: the same answers with drafts as without, then how much faster."""
