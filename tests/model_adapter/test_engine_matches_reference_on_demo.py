"""The engine on the shipped demo model against the reference: trained weights, and text the model knows."""

import json
import re
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import serval_sglang.transformers  # noqa: F401  # registers
from serval_sglang.checkpoint.io import load_config, load_reference
from serval_sglang.demo import checkpoint_directory
from serval_sglang.demo.corpus import conversations
from serval_sglang.demo.rendering import render_messages
from serval_sglang.reference import ReferenceModel
from serval_sglang.verify.comparison import Difference, difference
from serval_sglang.verify.engine import DType, Engine, generate, running_engine
from serval_sglang.verify.verification import BOUNDS
from serval_sglang.warm_up import Target, request_body

pytestmark = pytest.mark.engine

LENGTHS = (1, 2, 3, 4, 5, 33, 63, 64, 65, 67, 128, 200, 350, 600)
STEPS = 4


@pytest.fixture(scope="module", params=BOUNDS, ids=str)
def dtype(request: pytest.FixtureRequest) -> DType:
    chosen: DType = request.param
    return chosen


@pytest.fixture(scope="module")
def engine(dtype: DType) -> Iterator[Engine]:
    flags = ("--chunked-prefill-size=64", "--tool-call-parser=longcat", "--reasoning-parser=longcat")
    with running_engine(checkpoint_directory(), dtype=dtype, extra_flags=flags) as running:
        yield running


@pytest.fixture(scope="module")
def reference() -> ReferenceModel:
    return load_reference(checkpoint_directory())


@pytest.fixture(scope="module")
def served_prompts() -> list[list[int]]:
    """Prompts as the gateway sends them: conversations up to the assistant's turn, the last one very long."""
    tokenizer = Tokenizer.from_file(str(checkpoint_directory() / "tokenizer.json"))
    prompts: list[list[int]] = []
    for conversation in islice(conversations(seed=20_000), 24):
        last_turn = max(
            i for i, message in enumerate(conversation.messages) if message["role"] == "assistant"
        )
        asked = render_messages(conversation.messages[:last_turn], tools=conversation.tools, prompt=True)
        prompts.append(tokenizer.encode(asked, add_special_tokens=False).ids)
    eos = load_config(checkpoint_directory()).eos_token_id
    several: list[int] = []
    for prompt in prompts:
        several += [*([eos] if several else []), *prompt]
        if len(several) > 300:
            return [*prompts, several[-600:]]
    raise AssertionError("the conversations are too short for a long context")


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, served_prompts: list[list[int]]) -> Path:
    """The demo model with an adapter of PEFT, trained for a few steps and merged, as a checkpoint."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(checkpoint_directory(), dtype=torch.float32)
    lora = LoraConfig(r=4, target_modules=["q_b_proj", "o_proj", "post_projs.0"], task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    tokens = torch.tensor([served_prompts[0]]).flip(1)
    for _ in range(3):
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("merged")
    model.merge_and_unload().save_pretrained(folder)
    return folder


def log_with(engine: Engine, line: str) -> str:
    """Return the engine's log once it has this line: the engine answers before it writes that it is ready."""
    deadline = time.monotonic() + 60
    while line not in (log := engine.log()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return log


def test_engine_samples_before_it_is_ready(engine: Engine) -> None:
    ready = "The server is fired up and ready to roll!"
    log = log_with(engine, ready)
    assert re.findall(r"Sampling with (.*) is ready", log) == [
        "top_p and top_k",
        "min_p",
        "penalties",
        "a grammar",
    ]
    assert log.rindex("Sampling with") < log.index(ready)


def test_engine_leaves_its_own_requests_out_of_metrics(engine: Engine) -> None:
    body = request_body({"top_p": 0.9}, Target(url=engine.base_url, headers={}, verify=True), rank=0)
    counted = [engine.metric_total("sglang:num_requests_total")]
    for request in (body, {**body, "log_metrics": True}):
        engine.post("/generate", request)
        counted.append(engine.metric_total("sglang:num_requests_total"))
    assert counted == [counted[0], counted[0], counted[0] + 1]


def test_sglang_server_parses_tool_calls(engine: Engine) -> None:
    """The plugin registers the parsers; without them SGLang would refuse the flags above."""
    parameters = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    weather = {"name": "get_weather", "description": "Get the weather forecast for a city."}
    answer = engine.post(
        "/v1/chat/completions",
        {
            "model": "demo",
            "temperature": 0,
            "messages": [{"role": "user", "content": "What is the weather in Paris for the next 3 days?"}],
            "tools": [
                {
                    "type": "function",
                    "function": {**weather, "parameters": {**parameters, "required": ["city", "days"]}},
                }
            ],
        },
    )
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls", answer
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris", "days": 3}
    assert not choice["message"]["content"]


def report(got: Difference, dtype: DType) -> None:
    print(f"{dtype}: max {got.maximum:.2e}, mean {got.mean:.2e} over {got.count} log-probabilities")


def test_engine_agrees_on_gateway_prompts(
    engine: Engine, served_prompts: list[list[int]], reference: ReferenceModel, dtype: DType
) -> None:
    got = difference([generate(engine, prompt, max_new_tokens=8) for prompt in served_prompts], reference)
    report(got, dtype)
    assert BOUNDS[dtype].allows(got), got


def test_engine_agrees_on_text_cut_anywhere(
    engine: Engine, served_prompts: list[list[int]], reference: ReferenceModel, dtype: DType
) -> None:
    """Prompts of every length, cut from text; one of them shares a cached prefix with another."""
    text = [token for prompt in served_prompts for token in prompt]
    eos = load_config(checkpoint_directory()).eos_token_id
    prompts = [text[length : 2 * length] for length in LENGTHS]
    assert sum(eos in prompt[:-1] for prompt in prompts) >= 2
    answers = [generate(engine, prompt, max_new_tokens=STEPS) for prompt in prompts]
    after_prefix = generate(engine, prompts[-1][:250] + prompts[-2][:60], max_new_tokens=STEPS)
    assert after_prefix.cached_tokens >= 192
    answers.append(after_prefix)
    got = difference(answers, reference)
    report(got, dtype)
    assert BOUNDS[dtype].allows(got), got


def test_engine_serves_a_merged_adapter(
    engine: Engine, merged: Path, served_prompts: list[list[int]], reference: ReferenceModel, dtype: DType
) -> None:
    """The last test of the module: it loads other weights into the engine."""
    answer = engine.post("/update_weights_from_disk", {"model_path": str(merged)})
    assert answer["success"], answer
    answers = [generate(engine, prompt, max_new_tokens=8) for prompt in served_prompts[:6]]
    got = difference(answers, load_reference(merged))
    report(got, dtype)
    assert BOUNDS[dtype].allows(got), got
    assert difference(answers, reference).maximum > 1
