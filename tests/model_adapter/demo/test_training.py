"""Training of the demo model, at a size that takes seconds."""

from dataclasses import replace
from random import Random

import pytest
import torch
from tokenizers import Tokenizer

from serval_sglang.config import LongcatConfig
from serval_sglang.demo import checkpoint_directory
from serval_sglang.demo.batches import Batch, batch_of, batches, encode
from serval_sglang.demo.batches import noise as noise_row
from serval_sglang.demo.initial import initial_model
from serval_sglang.demo.train import (
    Recipe,
    demo_config,
    learning_rate_factor,
    losses,
    optimizers,
    training_step,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint_directory() / "tokenizer.json"))


@pytest.fixture(scope="module")
def config() -> LongcatConfig:
    return replace(demo_config(), num_layers=1, ffn_hidden_size=64, expert_ffn_hidden_size=16)


def test_update_lowers_loss_in_two_steps(tokenizer: Tokenizer, config: LongcatConfig) -> None:
    recipe = Recipe(steps=2, warmup_steps=1)
    model = initial_model(config, seed=0)
    updaters = optimizers(model, recipe)
    batch = next(batches(tokenizer, 0, batch_tokens=512))
    observed = [training_step(model, batch, updaters, recipe) for _ in range(3)]
    assert observed[2] < observed[1] < observed[0]


def test_balancing_raises_bias_of_idle_experts(tokenizer: Tokenizer, config: LongcatConfig) -> None:
    recipe = Recipe(bias_step=0.5)
    model = initial_model(config, seed=0)
    batch = next(batches(tokenizer, 0, batch_tokens=512))
    counts = model.run(batch.input_ids).routing[0].expert_ids[batch.real].flatten().bincount(minlength=12)
    training_step(model, batch, optimizers(model, recipe), recipe)
    bias = model.model.layers[0].mlp.router.e_score_correction_bias
    assert bias[counts.argmax()] == -0.5
    assert bias[counts.argmin()] == 0.5


def test_initial_model_copies_unseen_tokens() -> None:
    config = demo_config()
    model = initial_model(config, seed=3)
    unseen = torch.randint(20, config.vocab_size, (4, 40), generator=torch.Generator().manual_seed(0))
    repeated = torch.cat((unseen, unseen), dim=1)
    with torch.no_grad():
        right = model(repeated).argmax(-1)[:, :-1] == repeated[:, 1:]
    assert right[:, :39].float().mean() < 0.1
    assert right[:, 42:].float().mean() > 0.9


def test_encode_marks_only_assistant_turns(tokenizer: Tokenizer) -> None:
    text = (
        "<longcat_user>Hi<longcat_assistant>Hello!</longcat_s>"
        "<longcat_user>Bye<longcat_assistant>Goodbye!</longcat_s>"
    )
    row = encode(tokenizer, text)
    learnt = [token for token, spoken in zip(row.ids, row.spoken, strict=True) if spoken]
    assert tokenizer.decode(learnt, skip_special_tokens=False) == "Hello!</longcat_s>Goodbye!</longcat_s>"


def test_batches_hold_whole_conversations_and_depend_on_seed(tokenizer: Tokenizer) -> None:
    first, again, other = (batches(tokenizer, seed, batch_tokens=1024) for seed in (5, 5, 6))
    one, two, three = next(first), next(again), next(other)
    assert torch.equal(one.input_ids, two.input_ids)
    assert not torch.equal(one.input_ids, three.input_ids)
    markers = {tokenizer.token_to_id(f"<longcat_{kind}>") for kind in ("tool_declare", "system", "user")}
    talks = one.spoken.any(1)
    assert {int(row[0]) for row in one.input_ids[talks]} <= markers
    assert talks.sum() >= len(talks) - 1, "more than a row of noise"
    assert one.input_ids.numel() <= 1024
    assert not (one.spoken & ~one.real).any()


def test_training_makes_model_unsure_of_noise(tokenizer: Tokenizer, config: LongcatConfig) -> None:
    noise = batch_of([noise_row(tokenizer, Random(0))])
    assert not noise.spoken.any()
    talk = next(batches(tokenizer, 0, batch_tokens=256))
    both = Batch(*(torch.cat((_padded(a, b), _padded(b, a))) for a, b in zip(talk, noise, strict=True)))
    recipe = Recipe(heard_weight=1.0)
    model = initial_model(config, seed=0)
    updaters = optimizers(model, recipe)

    def surprise() -> float:
        with torch.no_grad():
            logits = model(noise.input_ids)[noise.real]
        return torch.nn.functional.cross_entropy(logits, noise.targets[noise.real]).item()

    before = surprise()
    for _ in range(3):
        training_step(model, both, updaters, recipe)
    assert surprise() < before


def _padded(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, max(0, other.shape[1] - tensor.shape[1])))


def test_losses_add_label_smoothing_and_z_loss() -> None:
    logits = torch.tensor([[4.0, 0.0, 0.0]])
    targets = torch.tensor([0])
    plain = losses(logits, targets, Recipe(label_smoothing=0.0, z_loss=0.0))
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    smoothed = losses(logits, targets, Recipe(label_smoothing=0.1, z_loss=0.0))
    with_z = losses(logits, targets, Recipe(label_smoothing=0.0, z_loss=0.5, log_z=3.0))
    torch.testing.assert_close(plain.total, plain.cross_entropy)
    torch.testing.assert_close(smoothed.total, expected)
    torch.testing.assert_close(with_z.total, plain.total + 0.5 * (logits.logsumexp(-1)[0] - 3.0).square())


def test_learning_rate_warms_up_and_falls() -> None:
    recipe = Recipe(steps=100, warmup_steps=10, final_fraction=0.1)
    factors = [learning_rate_factor(step, recipe) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == pytest.approx(1.0)
    assert factors[100] == pytest.approx(0.1)
    assert factors[10:] == sorted(factors[10:], reverse=True)
