"""Drafts of the made MTP layer are right often, but not always: else accepted runs would not be tested."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from serval_sglang.checkpoint import load_mtp_layer, load_reference
from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.reference import decode_speculatively, mtp_drafter

# The checkpoint that `make gpu-check` writes.
WITH_ATTENTION_OF_LITE = {
    "num_layers": 2, "hidden_size": 384, "num_attention_heads": 16, "q_lora_rank": 128, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "ffn_hidden_size": 256,
    "expert_ffn_hidden_size": 256,
}  # fmt: skip


@pytest.mark.parametrize("sizes", [{}, WITH_ATTENTION_OF_LITE], ids=["tiny", "attention of Lite"])
def test_right_drafts_are_accepted_in_runs_of_several_lengths(
    tmp_path: Path, sizes: Mapping[str, int]
) -> None:
    write_tiny_checkpoint(tmp_path, seed=0, dtype=torch.float32, right_drafts=True, **sizes)
    model, layer = load_reference(tmp_path), load_mtp_layer(tmp_path)
    drafter = mtp_drafter(model, layer, steps=3)
    run = decode_speculatively(model, [5, 6, 7, 8], drafter, steps=3, max_new_tokens=40, stop_tokens=())
    assert {0, 3} < set(run.accepted)
