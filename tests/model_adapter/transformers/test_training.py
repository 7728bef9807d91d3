"""LoRA by PEFT: an adapter learns, and merged into the model becomes a checkpoint like any other."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from serval_sglang.checkpoint.io import load_reference

STEPS = 8


def test_adapter_learns_and_merges_into_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_b_proj", "o_proj", "post_projs.0"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), lora)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03)
    tokens = torch.randint(4, 300, (2, 16))
    losses = []
    for _ in range(STEPS):
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]

    model.save_pretrained(tmp_path / "adapter")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        found = load_reference(tmp_path / "merged")(tokens)
        assert (found - model.eval()(tokens).logits).abs().max() < 1e-4
        assert (found - load_reference(folder)(tokens)).abs().max() > 0.1
