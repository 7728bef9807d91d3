"""Drafts of the made MTP layer are right often, but not always: else accepted runs would not be tested."""

from pathlib import Path

import torch

from serval_sglang.checkpoint import load_mtp_layer, load_reference
from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.reference import decode_speculatively, mtp_drafter


def test_right_drafts_are_accepted_in_runs_of_several_lengths(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, seed=3, dtype=torch.float32, right_drafts=True)
    model, layer = load_reference(tmp_path), load_mtp_layer(tmp_path)
    drafter = mtp_drafter(model, layer, steps=3)
    run = decode_speculatively(model, [5, 6, 7, 8], drafter, steps=3, max_new_tokens=40, stop_tokens=())
    assert {0, 3} < set(run.accepted)
