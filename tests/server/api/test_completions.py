"""Plain completions through the real openai client, whole and streamed."""

import json
from typing import Any

import pytest

from serval.chat.tokenizer import load_tokenizer
from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway

PATH = "/v1/completions"
LENGTH = {"type": "length", "length": 2}


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": "Once upon", **fields}


async def chunks_of(gateway: RunningGateway, **fields: Any) -> list[Any]:
    response = await gateway.post(completion(stream=True, **fields), path=PATH)
    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [event for event in (await response.text()).split("\n\n") if event and not event.startswith(":")]
    assert events.pop() == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_completions_answer_whole(gateway: RunningGateway) -> None:
    gateway.engine.will_say(" a", " time", cached_tokens=2)
    answer = await gateway.openai.completions.create(model=MODEL, prompt="Once upon")
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.model == MODEL
    (choice,) = answer.choices
    assert (choice.index, choice.text, choice.finish_reason, choice.logprobs) == (0, " a time", "stop", None)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2
    assert answer.usage.prompt_tokens == len(gateway.engine.requests[0]["input_ids"])
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


async def test_completions_are_the_same_whole_and_streamed(gateway: RunningGateway) -> None:
    gateway.engine.will_say(" a", " 北京", "!")
    chunks = await chunks_of(gateway)
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert chunks[0]["object"] == "text_completion"
    assert "".join(c["choices"][0]["text"] for c in chunks) == " a 北京!"
    # Tokens that arrive together may leave together.
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all("usage" not in c for c in chunks)


async def test_completions_stream_usage_once_at_the_end_if_asked_for(gateway: RunningGateway) -> None:
    chunks = await chunks_of(gateway, stream_options={"include_usage": True})
    last = chunks.pop()
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2
    assert all(c["usage"] is None for c in chunks)


async def test_completions_default_to_sixteen_tokens(gateway: RunningGateway) -> None:
    await gateway.post(completion(), path=PATH)
    await gateway.post(completion(max_tokens=3), path=PATH)
    assert [r["sampling_params"]["max_new_tokens"] for r in gateway.engine.requests] == [16, 3]


async def test_completions_take_texts_or_token_ids(gateway: RunningGateway) -> None:
    ids = (await (await gateway.post(completion(), path="/tokenize")).json())["tokens"]
    for prompt in ("Once upon", ids, ["Once upon"], [ids]):
        assert (await gateway.post(completion(prompt=prompt), path=PATH)).status == 200
    assert [request["input_ids"] for request in gateway.engine.requests] == [ids] * 4


async def test_completions_answer_several_prompts_and_choices(gateway: RunningGateway) -> None:
    answer = await gateway.openai.completions.create(model=MODEL, prompt=["a", "b c d"], n=2, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    # They arrive on separate connections, in any order.
    asked = {
        (tuple(request["input_ids"]), request["sampling_params"]["sampling_seed"])
        for request in gateway.engine.requests
    }
    prompts = {ids for ids, _ in asked}
    assert len(prompts) == 2
    assert asked == {(ids, seed) for ids in prompts for seed in (7, 8)}
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, prompts))
    assert answer.usage.completion_tokens == 8


async def test_completions_stream_the_finish_of_each_choice_once(gateway: RunningGateway) -> None:
    chunks = await chunks_of(gateway, prompt=["a", "b"])
    for index in (0, 1):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(c["text"] for c in mine) == "Hello world"
        assert [c["finish_reason"] for c in mine] == [None] * (len(mine) - 1) + ["stop"]


@pytest.mark.parametrize("stream", [False, True])
async def test_completions_echo_the_prompt(gateway: RunningGateway, *, stream: bool) -> None:
    gateway.engine.will_say(" a time")
    if stream:
        text = "".join(c["choices"][0]["text"] for c in await chunks_of(gateway, echo=True))
    else:
        response = await gateway.post(completion(echo=True), path=PATH)
        text = (await response.json())["choices"][0]["text"]
    assert text == "Once upon a time"


async def test_completions_logprobs_align_with_the_text(gateway: RunningGateway) -> None:
    logprobs = [[[-0.5, 100, " a"]], [[-0.25, 101, " time"]]]
    gateway.engine.will_say(" a", " time", logprobs=logprobs, finish=LENGTH)
    answer = await gateway.openai.completions.create(model=MODEL, prompt="Once", logprobs=1)
    found = answer.choices[0].logprobs
    assert found is not None
    assert (found.tokens, found.token_logprobs, found.text_offset) == ([" a", " time"], [-0.5, -0.25], [0, 2])
    assert found.top_logprobs == [{" a": -0.5}, {" time": -0.25}]
    gateway.engine.will_say(" a", " time", logprobs=logprobs, finish=LENGTH)
    streamed = [c["choices"][0]["logprobs"] for c in await chunks_of(gateway, logprobs=1)]
    for name, values in (("tokens", [" a", " time"]), ("text_offset", [0, 2])):
        assert [value for part in streamed for value in part[name]] == values


async def test_completions_stop_string_has_no_logprobs(gateway: RunningGateway) -> None:
    tokens = [[[-0.5, 100, " a"]], [[-0.1, 101, " END"], [-0.2, 102, "ING"]]]
    gateway.engine.will_say(" a", "", logprobs=tokens, finish={"type": "stop", "matched": "END"})
    answer = await gateway.openai.completions.create(model=MODEL, prompt="Once", logprobs=1, stop="END")
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens == [" a"]


async def test_completions_encode_text_without_control_tokens(gateway: RunningGateway) -> None:
    control = user_marker_id()
    await gateway.post(completion(prompt="<longcat_user>"), path=PATH)
    await gateway.post(completion(prompt=[control]), path=PATH)
    text, ids = (request["input_ids"] for request in gateway.engine.requests)
    assert control not in text
    assert ids == [control]


def user_marker_id() -> int:
    tokenizer, _ = load_tokenizer(DEMO_CHECKPOINT)
    return next(token.id for token in tokenizer.control_tokens if token.content == "<longcat_user>")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "prompt missing": ({"model": MODEL}, "prompt"),
    "prompt of wrong type": (completion(prompt=3), "prompt"),
    "no prompt": (completion(prompt=[]), "prompt"),
    "empty text": (completion(prompt=""), "prompt"),
    "empty ids": (completion(prompt=[[]]), "prompt[0]"),
    "text and ids": (completion(prompt=["a", 1]), "prompt"),
    "ids of a text": (completion(prompt=[["a"]]), "prompt[0][0]"),
    "id below zero": (completion(prompt=[-1]), "prompt"),
    "id over the vocabulary": (completion(prompt=[1 << 40]), "prompt"),
    "id over 64 bits": (completion(prompt=[1 << 70]), "prompt"),
    "suffix": (completion(suffix="x"), "suffix"),
    "best_of": (completion(best_of=2), "best_of"),
    "logprobs over five": (completion(logprobs=6), "logprobs"),
    "too many at once": (completion(prompt=["a"] * 65, n=2), "prompt"),
    "n over the server's limit": (completion(n=17), "n"),
    "stream_options without stream": (completion(stream_options={}), "stream_options"),
    "temperature": (completion(temperature=2.1), "temperature"),
    "max_tokens zero": (completion(max_tokens=0), "max_tokens"),
    "stop of five": (completion(stop=list("abcde")), "stop"),
    "too long for the context": (completion(prompt="word " * 9000), "prompt"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_completions_name_the_field_at_fault(gateway: RunningGateway, case: str) -> None:
    body, param = WRONG[case]
    response = await gateway.post(body, path=PATH)
    assert response.status == 400
    assert (await response.json())["error"]["param"] == param
    assert gateway.engine.requests == []


async def test_completions_accept_best_of_equal_to_n_and_an_empty_suffix(gateway: RunningGateway) -> None:
    assert (await gateway.post(completion(best_of=1, suffix=""), path=PATH)).status == 200


async def test_completions_stream_ends_without_done_if_it_breaks(gateway: RunningGateway) -> None:
    gateway.engine.will_say(" a", fault="cut")
    response = await gateway.post(completion(stream=True), path=PATH)
    text = await response.text()
    assert "[DONE]" not in text
    assert json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["code"]


async def test_completions_encode_large_prompts_in_a_thread() -> None:
    sent = []
    for limit in (0, 1 << 30):
        async with running_gateway(inline_render_bytes=limit) as gateway:
            assert (await gateway.post(completion(prompt="word " * 500), path=PATH)).status == 200
            sent.append(gateway.engine.requests[0]["input_ids"])
    assert sent[0] == sent[1]


def scripted_logprobs(ids: list[int]) -> list[list[Any]]:
    """Return entries as the engine makes them: a part of a character has the text U+FFFD."""
    _, full = load_tokenizer(DEMO_CHECKPOINT)
    return [[-0.5, token_id, full.decode([token_id], skip_special_tokens=False)] for token_id in ids]


async def test_completions_logprobs_of_byte_tokens_name_the_bytes(gateway: RunningGateway) -> None:
    """Tried: a character of three tokens and one of four, offsets after them, equal replacement texts."""
    tokenizer, _ = load_tokenizer(DEMO_CHECKPOINT)
    text = "你鑫 是😀!"
    entries = scripted_logprobs(list(tokenizer.encode_text(text)))
    names = ["你", "bytes:\\xe9", "bytes:\\x91", "bytes:\\xab", " ", "是",
             "bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80", "!"]  # fmt: skip
    tops = [[entry, *entries[:4]][:5] for entry in entries]
    for stream in (False, True):
        gateway.engine.will_say("你", "鑫 是", "😀!", finish=LENGTH, tops=[tops[:1], tops[1:6], tops[6:]],
                                logprobs=[entries[:1], entries[1:6], entries[6:]])  # fmt: skip
        if stream:
            found = [c["choices"][0]["logprobs"] for c in await chunks_of(gateway, logprobs=5)]
        else:
            answer = await (await gateway.post(completion(logprobs=5), path=PATH)).json()
            found = [answer["choices"][0]["logprobs"]]
        joined = {name: [each for part in found for each in part[name]] for name in found[0]}
        assert joined["tokens"] == names
        assert joined["text_offset"] == [0, 1, 1, 1, 2, 3, 4, 4, 4, 4, 5]
        assert [len(top) for top in joined["top_logprobs"]] == [len({t[1] for t in top}) for top in tops]


async def test_completions_offsets_pass_over_characters_that_stay_incomplete(gateway: RunningGateway) -> None:
    tokenizer, _ = load_tokenizer(DEMO_CHECKPOINT)
    ids = [*tokenizer.encode_text("鑫")[:1], *tokenizer.encode_text(" 😀")[:-1]]
    gateway.engine.will_say("\ufffd \ufffd", ids=[ids], logprobs=[scripted_logprobs(ids)], finish=LENGTH)
    (choice,) = (await (await gateway.post(completion(logprobs=1), path=PATH)).json())["choices"]
    assert choice["text"] == "\ufffd "
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("text", "cut", "expected"), [("你好鑫", 1, "你好"), ("你好\ufffd", 0, "你好\ufffd")]
)
async def test_completions_leave_out_an_incomplete_character_at_the_end(
    gateway: RunningGateway, text: str, cut: int, expected: str
) -> None:
    tokenizer, full = load_tokenizer(DEMO_CHECKPOINT)
    ids = list(tokenizer.encode_text(text))
    ids = ids[: len(ids) - cut]
    rest = full.decode(ids).removeprefix("你好")
    for body in (completion(), completion(stream=True)):
        gateway.engine.will_say("你好", rest, ids=[ids[:2], ids[2:]], finish=LENGTH)
        response = await gateway.post(body, path=PATH)
        raw = (await response.text()).replace("data: [DONE]", "").replace("data: ", "")
        events = [json.loads(event) for event in raw.split("\n\n") if event.strip()]
        assert "".join(event["choices"][0]["text"] for event in events) == expected
