"""The shipped demo checkpoint: its files match the code, and its answers match its README."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from serval_sglang.checkpoint import load_mtp_layer, load_reference
from serval_sglang.checkpoint.inspection import inspect_checkpoint
from serval_sglang.checkpoint.parts import Part
from serval_sglang.config import LongcatConfig
from serval_sglang.demo import checkpoint_directory
from serval_sglang.demo.acceptance import count_drafts, documented_prompts
from serval_sglang.demo.corpus import Conversation
from serval_sglang.demo.names import HELD_OUT_CITIES
from serval_sglang.demo.rendering import render_messages
from serval_sglang.demo.scoring import complete, score
from serval_sglang.demo.tokenizer import SPECIAL_TOKENS, VOCAB_SIZE, demo_tokenizer
from serval_sglang.demo.train import demo_config
from serval_sglang.demo.train_mtp import MTP_FILE
from serval_sglang.reference import ReferenceModel

DIRECTORY = checkpoint_directory()
TOKENIZER = Tokenizer.from_file(str(DIRECTORY / "tokenizer.json"))


@pytest.fixture(scope="module")
def model() -> ReferenceModel:
    return load_reference(DIRECTORY)


def tool(name: str, description: str, required: list[str], **types: str) -> dict[str, Any]:
    properties = {key: {"type": value} for key, value in types.items()}
    parameters = {"type": "object", "properties": properties, "required": required}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


WEATHER = tool("get_weather", "Get the weather forecast for a city.", ["city"], city="string", days="integer")
TIME = tool("get_time", "Get the current time in a city.", ["city"], city="string")
CALCULATE = tool("calculate", "Evaluate an arithmetic expression.", ["expression"], expression="string")
SEARCH = tool("search_docs", "Search the documentation.", ["query"], query="string", limit="integer")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def written_call(name: str, **arguments: str) -> str:
    pairs = "".join(
        f"<longcat_arg_key>{key}</longcat_arg_key>\n<longcat_arg_value>{value}</longcat_arg_value>\n"
        for key, value in arguments.items()
    )
    return f"<longcat_tool_call>{name}\n{pairs}</longcat_tool_call>\n"


def answer(model: ReferenceModel, messages: list[dict[str, Any]], *tools: dict[str, Any]) -> str:
    return complete(model, TOKENIZER, render_messages(messages, tools=tools, prompt=True))


def test_demo_files_are_small_and_consistent(model: ReferenceModel) -> None:
    assert sum(path.stat().st_size for path in DIRECTORY.iterdir()) < 20_000_000
    assert model.config == LongcatConfig.from_json_file(DIRECTORY / "config.json") == demo_config()
    assert TOKENIZER.get_vocab_size() == VOCAB_SIZE
    assert VOCAB_SIZE & (VOCAB_SIZE - 1), "a power of two would hide errors of the n-gram hash"


def test_demo_tokenizer_is_the_one_that_the_code_trains() -> None:
    assert json.loads((DIRECTORY / "tokenizer.json").read_text("utf-8")) == json.loads(
        demo_tokenizer(0).to_str()
    )


def test_demo_weights_are_bfloat16() -> None:
    for load in (load_reference, load_mtp_layer):
        weights, exact = load(DIRECTORY, dtype=torch.bfloat16).state_dict(), load(DIRECTORY).state_dict()
        assert all(torch.equal(weights[name].float(), exact[name]) for name in exact)


def test_demo_mtp_layer_is_a_small_file_of_its_own() -> None:
    found = inspect_checkpoint(DIRECTORY)
    assert (found.is_complete, found.mtp, found.files) == (True, "complete", 2)
    assert (DIRECTORY / MTP_FILE).stat().st_size == pytest.approx(found.parts[Part.MTP].size_bytes, rel=0.01)
    assert found.parts[Part.MTP].size_bytes < 4_000_000


def test_demo_drafts_of_a_documented_answer_and_call_are_often_right() -> None:
    """The demo's README has the figures of all; far fewer right drafts would mean another layer."""
    least = {"What is Serval?": 2.0, "What's the weather in Paris for 3 days?": 2.0}  # tokens a pass
    prompts = [prompt for prompt in documented_prompts() if prompt.question in least]
    assert len(prompts) == len(least)
    for prompt, run in zip(prompts, count_drafts(DIRECTORY, prompts, steps=3), strict=True):
        assert (len(run.tokens) - 1) / run.passes >= least[prompt.question], (prompt.question, run)


def test_demo_tokenizer_has_markers_as_special_tokens() -> None:
    for number, text in enumerate(SPECIAL_TOKENS):
        assert TOKENIZER.encode(text).ids == [number]
    assert TOKENIZER.decode(list(range(len(SPECIAL_TOKENS)))) == ""


def test_demo_tokenizer_and_template_load_in_transformers() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(DIRECTORY)
    messages = [user("Grüße 北京")]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 3)
    text = tokenizer.apply_chat_template(
        messages, tools=[WEATHER], add_generation_prompt=True, tokenize=False
    )
    assert text == render_messages(messages, tools=[WEATHER], prompt=True)
    assert tokenizer(text)["input_ids"] == TOKENIZER.encode(text).ids


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_demo_tokenizer_round_trips_any_text(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters=" "), min_size=1, max_size=12))
def test_demo_tokenizer_encodes_name_alike_in_question_and_call(name: str) -> None:
    alone = TOKENIZER.encode(f"<longcat_arg_value>{name}</longcat_arg_value>").ids[1:-1]
    if name.isalpha() and name[0].isupper():
        in_question = TOKENIZER.encode(f" in {name}?").ids
        assert in_question[2:-1] == alone


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Hello", "Hello! I am the Serval demo model. How can I help?"),
        ("What is the capital of France?", "The capital of France is Paris."),
        (
            "What is Serval?",
            "Serval is an inference server for LongCat-Flash-Lite. "
            "It runs on SGLang and speaks the OpenAI API.",
        ),
    ],
)
def test_demo_answers_documented_questions(model: ReferenceModel, question: str, expected: str) -> None:
    assert answer(model, [user(question)]) == expected
    assert answer(model, [user(question)], WEATHER) == expected


def test_demo_calls_one_of_four_tools(model: ReferenceModel) -> None:
    question = user("What's the weather in Paris for three days?")
    text = answer(model, [question], SEARCH, TIME, WEATHER, CALCULATE)
    assert text == written_call("get_weather", city="Paris", days="3")


def test_demo_makes_two_parallel_calls(model: ReferenceModel) -> None:
    question = user("Compare the weather in Paris and Rome for the next 2 days")
    expected = written_call("get_weather", city="Paris", days="2") + written_call(
        "get_weather", city="Rome", days="2"
    )
    assert answer(model, [question], WEATHER) == expected


def test_demo_copies_most_unseen_names(model: ReferenceModel) -> None:
    """The demo's README states the exact share, 81 %; far less would mean another model."""

    def asked(city: str) -> Conversation:
        call = {"function": {"name": "get_weather", "arguments": {"city": city, "days": 3}}}
        turn = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_0", **call}]}
        return Conversation((user(f"What's the weather in {city} for 3 days?"), turn), (WEATHER,))

    turns = score(model, TOKENIZER, [asked(city) for city in HELD_OUT_CITIES], temperature=1.0)
    assert sum(turn.exact for (turn,) in turns) >= 0.7 * len(HELD_OUT_CITIES)


def test_demo_answer_repeats_tool_results(model: ReferenceModel) -> None:
    arguments: list[dict[str, Any]] = [{"city": "Paris"}, {"city": "Ljubljana"}]
    calls = [{"function": {"name": "get_weather", "arguments": item}} for item in arguments]
    messages = [
        user("What's the weather in Paris and Ljubljana?"),
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": '{"city": "Paris", "forecast": "sunny", "temp_c": 21}'},
        {"role": "tool", "content": "light rain, 9C"},
    ]
    expected = "The weather in Paris: sunny, 21 °C. The weather in Ljubljana: light rain, 9C."
    assert answer(model, messages, WEATHER) == expected


def test_demo_makes_no_call_without_suitable_tool(model: ReferenceModel) -> None:
    question = [user("What's the weather in Paris?")]
    assert answer(model, question, TIME) == "I have no tool for the weather here."
    assert answer(model, question) == "I have no tool for the weather here."
