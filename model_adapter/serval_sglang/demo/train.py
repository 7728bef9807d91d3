"""Train the demo model: `python -m serval_sglang.demo.train --seed 0 --out DIRECTORY`."""

import argparse
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from serval_sglang.checkpoint import save_checkpoint
from serval_sglang.config import LongcatConfig, YarnScaling
from serval_sglang.demo import checkpoint_directory
from serval_sglang.demo.batches import Batch, batches
from serval_sglang.demo.initial import initial_model
from serval_sglang.demo.tokenizer import VOCAB_SIZE, demo_tokenizer, save_tokenizer
from serval_sglang.reference import ReferenceModel, Routing
from serval_sglang.reference.model import DecoderLayer

_HEARD_STRIDE = 4  # every fourth of the tokens that the assistant does not write is trained on
COPIED_FILES = ("chat_template.jinja", "generation_config.json")


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights, besides configuration and corpus."""

    seed: int = 0
    steps: int = 2600
    warmup_steps: int = 50
    batch_tokens: int = 2048
    matrix_learning_rate: float = 0.004
    table_learning_rate: float = 0.006
    final_fraction: float = 0.02
    word_learning_rate: float = 0.03
    weight_decay: float = 0.1
    label_smoothing: float = 0.01
    z_loss: float = 1e-3
    log_z: float = 5.0
    heard_weight: float = 0.1
    bias_step: float = 0.002


def demo_config() -> LongcatConfig:
    """Return the architecture of LongCat-Flash-Lite, about ten thousand times smaller."""
    return LongcatConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=240,
        ffn_hidden_size=480,
        expert_ffn_hidden_size=120,
        num_layers=3,
        num_attention_heads=4,
        q_lora_rank=96,
        kv_lora_rank=144,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=48,
        n_routed_experts=8,
        zero_expert_num=4,
        moe_topk=3,
        routed_scaling_factor=2.0,
        ngram_vocab_size_ratio=4,
        emb_neighbor_num=4,
        emb_split_num=4,
        max_position_embeddings=8192,
        rope_theta=10000.0,
        rope_scaling=YarnScaling(factor=8.0, original_max_position_embeddings=1024),
    )


class Losses(NamedTuple):
    total: Tensor  # to minimise
    cross_entropy: Tensor  # without smoothing


def losses(logits: Tensor, targets: Tensor, recipe: Recipe) -> Losses:
    """Compute cross entropy with label smoothing, and a z-loss (arXiv:2204.02311).

    The z-loss keeps log Z near `recipe.log_z`, half the distance between likely and unlikely tokens. Then no
    logit is large, and bfloat16, whose steps grow with the value, rounds all of them finely.

    `logits` [N, V] and `targets` int64 [N]; both losses are means over N.
    """
    logits = logits.float()
    log_z = logits.logsumexp(-1)
    cross_entropy = (log_z - logits.gather(-1, targets[:, None])[:, 0]).mean()
    uniform = (log_z - logits.mean(-1)).mean()
    smoothed = torch.lerp(cross_entropy, uniform, recipe.label_smoothing)
    return Losses(smoothed + recipe.z_loss * (log_z - recipe.log_z).square().mean(), cross_entropy.detach())


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Return the learning rate: linear warm-up, then a cosine down to `final_fraction`."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.final_fraction + (1 - recipe.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the layers (arXiv:2502.16982), and AdamW for everything else.

    Parameters are told apart by their names in a checkpoint.
    """
    matrices: list[Tensor] = []
    words: list[Tensor] = []
    rows: list[Tensor] = []
    norms: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            norms.append(parameter)
        elif name.endswith("embed_tokens.weight"):
            words.append(parameter)
        else:
            inner = ".layers." in name and "router" not in name
            (matrices if inner else rows).append(parameter)
    muon = torch.optim.Muon(
        matrices,
        lr=recipe.matrix_learning_rate,
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
        ns_steps=4,
    )
    groups: list[dict[str, Any]] = [
        # The embedding is a mean, so its words and their steps must be larger by the number of terms.
        {"params": words, "weight_decay": recipe.weight_decay, "lr": recipe.word_learning_rate},
        {"params": rows, "weight_decay": recipe.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=recipe.table_learning_rate, betas=(0.9, 0.97), foreach=True)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [muon, adam]


def balance_experts(model: ReferenceModel, routings: Sequence[Routing], batch: Batch, recipe: Recipe) -> None:
    """Raise the bias of experts with less than their share, lower that of others (arXiv:2408.15664)."""
    for layer, routing in zip(model.model.layers, routings, strict=True):
        assert isinstance(layer, DecoderLayer)
        counts = (
            routing.expert_ids[batch.real]
            .flatten()
            .bincount(minlength=model.config.num_experts_total)
            .float()
        )
        layer.mlp.router.e_score_correction_bias += recipe.bias_step * (counts.mean() - counts).sign()


def training_step(
    model: ReferenceModel, batch: Batch, optimizers: Sequence[torch.optim.Optimizer], recipe: Recipe
) -> float:
    """Make one update; return the cross entropy per token of the assistant before it."""
    heard = batch.real & ~batch.spoken
    heard[:, torch.arange(heard.shape[1]) % _HEARD_STRIDE > 0] = False
    # The residual stream is bfloat16, as in the engine, so that training does not rely on what rounding
    # destroys.
    with torch.autocast("cpu", torch.bfloat16):
        hidden_states, routings = model.model(batch.input_ids, None, dtype=torch.bfloat16)
        spoken_logits = model.lm_head(hidden_states[batch.spoken])
        heard_logits = model.lm_head(hidden_states[heard])
    total, cross_entropy = losses(spoken_logits, batch.targets[batch.spoken], recipe)
    # Users' text cannot be predicted, but a model never trained on it would confidently predict nonsense.
    total = total + recipe.heard_weight * losses(heard_logits, batch.targets[heard], recipe).total
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    balance_experts(model, routings, batch, recipe)
    return cross_entropy.item()


def train(tokenizer: Tokenizer, config: LongcatConfig, recipe: Recipe) -> ReferenceModel:
    """Train from scratch, printing a line of progress every 25 steps."""
    model = initial_model(config, seed=recipe.seed)
    updaters = optimizers(model, recipe)
    stream = batches(tokenizer, recipe.seed, batch_tokens=recipe.batch_tokens)
    started, seen, recent = time.monotonic(), 0, []
    for step in range(recipe.steps):
        factor = learning_rate_factor(step, recipe)
        for updater in updaters:
            for group in updater.param_groups:
                group["lr"] = group["initial_lr"] * factor
        batch = next(stream)
        recent.append(training_step(model, batch, updaters, recipe))
        seen += int(batch.real.sum())
        if (step + 1) % 25 == 0 or step + 1 == recipe.steps:
            spent_s = time.monotonic() - started
            print(
                f"step {step + 1}/{recipe.steps}  loss {sum(recent) / len(recent):.4f}  "
                f"{seen / 1e6:.2f} M tokens  {seen / spent_s:.0f} tokens/s  {spent_s:.0f} s",
                flush=True,
            )
            recent = []
    return model.eval()


def write_demo_checkpoint(directory: Path, model: ReferenceModel, tokenizer: Tokenizer) -> None:
    """Write the checkpoint's files; template and sampling defaults are copied from the shipped checkpoint."""
    save_checkpoint(model.state_dict(), model.config, directory, dtype=torch.bfloat16)
    save_tokenizer(tokenizer, directory, context_length=model.config.max_position_embeddings)
    for name in COPIED_FILES:
        if directory.resolve() != checkpoint_directory().resolve():
            shutil.copyfile(checkpoint_directory() / name, directory / name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serval_sglang.demo.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="decides text and weights (default: 0)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="updates (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="a folder without weights")
    options = parser.parse_args(arguments)
    recipe = Recipe(seed=options.seed, steps=options.steps)
    tokenizer = demo_tokenizer(recipe.seed)
    model = train(tokenizer, demo_config(), recipe)
    write_demo_checkpoint(options.out, model, tokenizer)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
