"""Training of the demo model's MTP layer, at a size that takes seconds, and the checkpoint that it writes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from serval_sglang.checkpoint import load_mtp_layer, load_reference, save_checkpoint
from serval_sglang.checkpoint.inspection import inspect_checkpoint
from serval_sglang.demo import checkpoint_directory
from serval_sglang.demo.batches import Batch, batches
from serval_sglang.demo.initial import initial_model
from serval_sglang.demo.train import demo_config
from serval_sglang.demo.train_mtp import DEPTHS, RECIPE, add_layer, depth_losses, initial_layer, train
from serval_sglang.reference import ReferenceModel

SMALL = replace(demo_config(), num_layers=1, ffn_hidden_size=64, expert_ffn_hidden_size=16)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint_directory() / "tokenizer.json"))


@pytest.fixture
def model() -> ReferenceModel:
    return initial_model(SMALL, seed=0)


def test_training_lowers_loss_and_leaves_model_alone(
    tokenizer: Tokenizer, model: ReferenceModel, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = replace(RECIPE, steps=3, warmup_steps=1, batch_tokens=256)
    batch = next(batches(tokenizer, 7, batch_tokens=512))

    def loss(layer: torch.nn.Module) -> float:
        with torch.no_grad():
            return sum(float(depth.cross_entropy) for depth in depth_losses(model, layer, batch))

    trained = train(model, tokenizer, recipe)
    assert loss(trained) < loss(initial_layer(model, seed=recipe.seed))
    assert "step 3/3" in capsys.readouterr().out
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_depth_losses_are_those_of_drafts_made_one_after_another(model: ReferenceModel) -> None:
    """Depth k by the formula: k passes of the layer over tokens moved by one place each."""
    layer = initial_layer(model, seed=3)
    tokens = torch.randint(20, SMALL.vocab_size, (1, 12), generator=torch.Generator().manual_seed(1))
    everywhere = torch.ones(1, 11, dtype=torch.bool)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], everywhere, everywhere)
    hidden, losses = model.run(tokens[:, :-1]).hidden_states, []
    for depth in range(1, DEPTHS + 1):
        known = 11 - depth  # places whose token to foretell is in the row
        hidden = layer(tokens[:, depth : depth + known], hidden[:, :known])
        logits = model.lm_head(hidden)[0]
        losses.append(torch.nn.functional.cross_entropy(logits, tokens[0, depth + 1 :]))
    found = [depth.cross_entropy for depth in depth_losses(model, layer, batch)]
    torch.testing.assert_close(torch.stack(found), torch.stack(losses))


def test_depth_losses_count_only_tokens_of_assistant(tokenizer: Tokenizer, model: ReferenceModel) -> None:
    layer = initial_layer(model, seed=3)
    batch = next(batches(tokenizer, 0, batch_tokens=256))
    shown = batch.targets.clone()
    last = (batch.spoken * torch.arange(shown.shape[1])).amax(1)
    # Nothing behind the assistant's last word is foretold.
    behind = torch.arange(shown.shape[1]) > last[:, None]
    shown[behind] = 5
    before, after = (depth_losses(model, layer, b) for b in (batch, batch._replace(targets=shown)))
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one.cross_entropy, other.cross_entropy)


def test_add_layer_leaves_file_of_model_as_it_is(tmp_path: Path, model: ReferenceModel) -> None:
    save_checkpoint(model.state_dict(), SMALL, tmp_path, dtype=torch.bfloat16)
    weights = (tmp_path / "model.safetensors").read_bytes()
    layer = initial_layer(model, seed=3)
    add_layer(tmp_path, layer)
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    found = inspect_checkpoint(tmp_path)
    assert (found.is_complete, found.mtp, found.files) == (True, "complete", 2)
    loaded = load_mtp_layer(tmp_path).state_dict()
    assert all(
        torch.equal(loaded[name], tensor.bfloat16().float()) for name, tensor in layer.state_dict().items()
    )
    assert load_reference(tmp_path).config == SMALL
