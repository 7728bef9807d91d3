"""Tuning of SGLang's Triton kernel for the shapes of LongCat-Flash-Lite's experts.

SGLang's own scripts, benchmark/kernels/fused_moe_triton/tuning_fused_moe_triton.py and its siblings, are in
its repository but not in the wheel. They do not know this architecture, route every slot to an expert,
compare no result, and try some two thousand launches for each number of tokens, which takes hours. Here
identity slots carry id -1, as in the engine: 8 of 12 slots are real on average, fewer on a rank of several
that divide the experts. Each launch's result is compared before it is timed, the search stops when its time
is over, and the file is complete after each number of tokens.
"""
