"""Train the demo model's MTP layer: `python -m serval_sglang.demo.train_mtp --seed 0 --out DIRECTORY`.

The model itself stays as it is. The layer learns to draft three tokens, each from the hidden state of the
draft before it (DeepSeek-V3, arXiv:2412.19437, section 2.2), on the tokens that the assistant writes.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from serval_sglang.checkpoint import load_reference
from serval_sglang.checkpoint.files import INDEX_FILE, WEIGHTS_FILE, write_json
from serval_sglang.checkpoint.layout import MTP_PREFIX
from serval_sglang.demo import checkpoint_directory
from serval_sglang.demo.batches import Batch, batches
from serval_sglang.demo.train import Recipe, learning_rate_factor, optimizers
from serval_sglang.reference import MtpLayer, ReferenceModel

DEPTHS = 3
MTP_FILE = "mtp.safetensors"
_DEPTH_WEIGHT = 0.8  # of each depth's loss, times that of the depth before
RECIPE = Recipe(
    steps=300, warmup_steps=20, batch_tokens=1024, matrix_learning_rate=0.01, word_learning_rate=0.02
)


class DepthLoss(NamedTuple):
    """Quality of the drafts at one depth, on the tokens that the assistant writes."""

    cross_entropy: Tensor  # in nats a token
    right: float  # share of tokens that are the first choice, given the right tokens before them


def initial_layer(model: ReferenceModel, *, seed: int) -> MtpLayer:
    """Return a layer with random weights, and with the model's own word embedding."""
    torch.manual_seed(seed)
    layer = MtpLayer(model.config)
    with torch.no_grad():
        layer.embed_tokens.weight.copy_(model.model.embed_tokens.weight)
    return layer


def depth_losses(model: ReferenceModel, layer: MtpLayer, batch: Batch) -> list[DepthLoss]:
    """Return the loss of each depth for a batch; the model's weights get no gradient.

    Depth k joins h_t of the model (k = 1) or g_t of the depth before with x_{t+k}, and foretells x_{t+k+1}.
    """
    with torch.no_grad():
        hidden, _ = model.model(batch.input_ids, None, dtype=torch.float32)
    found = []
    # targets[:, t] is x_{t+1}.
    for depth in range(1, DEPTHS + 1):
        places = batch.targets.shape[1] - depth
        hidden = layer(batch.targets[:, depth - 1 : -1], hidden[:, :places])
        foretold = slice(depth, None)
        spoken = batch.spoken[:, foretold]
        logits, targets = model.lm_head(hidden[spoken]), batch.targets[:, foretold][spoken]
        right = (logits.argmax(-1) == targets).float().mean().item()
        found.append(DepthLoss(F.cross_entropy(logits, targets), right))
    return found


def train(model: ReferenceModel, tokenizer: Tokenizer, recipe: Recipe) -> MtpLayer:
    """Train from scratch, printing a line of progress every 25 steps."""
    layer = initial_layer(model, seed=recipe.seed)
    model.requires_grad_(False)
    updaters = optimizers(nn.ModuleDict({"mtp": layer}), recipe)
    stream = batches(tokenizer, recipe.seed, batch_tokens=recipe.batch_tokens)
    started, recent = time.monotonic(), []
    for step in range(recipe.steps):
        factor = learning_rate_factor(step, recipe)
        for updater in updaters:
            for group in updater.param_groups:
                group["lr"] = group["initial_lr"] * factor
        depths = depth_losses(model, layer, next(stream))
        total = sum(depth.cross_entropy * _DEPTH_WEIGHT**k for k, depth in enumerate(depths))
        assert isinstance(total, Tensor)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        for updater in updaters:
            updater.step()
            updater.zero_grad()
        recent.append([total.item(), *(depth.right for depth in depths)])
        if (step + 1) % 25 == 0 or step + 1 == recipe.steps:
            loss, *right = torch.tensor(recent).mean(0).tolist()
            shares = " ".join(f"{share:.1%}" for share in right)
            spent_s = time.monotonic() - started
            print(
                f"step {step + 1}/{recipe.steps}  loss {loss:.4f}  right {shares}  {spent_s:.0f} s",
                flush=True,
            )
            recent = []
    return layer.eval()


def add_layer(directory: Path, layer: MtpLayer) -> None:
    """Add the layer to a checkpoint of one file, in bfloat16: a file of its own, and an index of both.

    The file of the model is not touched.
    """
    own = {MTP_PREFIX + name: tensor.detach().bfloat16() for name, tensor in layer.state_dict().items()}
    save_file(own, directory / MTP_FILE, metadata={"format": "pt"})
    weight_map, total = {}, 0
    for file in (WEIGHTS_FILE, MTP_FILE):
        with safe_open(directory / file, framework="pt") as stored:
            for name in sorted(stored.keys()):
                weight_map[name] = file
                total += stored.get_tensor(name).nbytes
    write_json(directory / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serval_sglang.demo.train_mtp", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="decides text and weights (default: 0)")
    parser.add_argument("--steps", type=int, default=RECIPE.steps, help="updates (default: %(default)s)")
    parser.add_argument(
        "--model",
        type=Path,
        default=checkpoint_directory(),
        help="checkpoint of one file whose layer is trained (default: the shipped one)",
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder for the model with its layer")
    options = parser.parse_args(arguments)
    recipe = replace(RECIPE, seed=options.seed, steps=options.steps)
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    layer = train(load_reference(options.model), tokenizer, recipe)
    shutil.copytree(options.model, options.out, ignore=shutil.ignore_patterns(MTP_FILE, INDEX_FILE))
    add_layer(options.out, layer)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
