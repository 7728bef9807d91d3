"""`echo` with `logprobs`: the prompt's log-probabilities, as clients that score texts ask for them.

Requests are those of lm-eval's `local-completions`: lists of token ids, `max_tokens` 1, `logprobs` 1.
"""

import json
from typing import Any

import pytest

from serval.api.text_choice import MAX_PROMPT_SCORES, MAX_SCORES
from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway
from serval_testkit.stand_in_engine import StandInEngine

PATH = "/v1/completions"
PROMPT = [[None, 10, "Once"], [-1.5, 11, " upon"], [-0.25, 12, " a"]]
NEW = [[-0.5, 513, " time"]]
LENGTH = {"type": "length", "length": 1}
END = {"type": "stop", "matched": 2}


async def ids_of(gateway: RunningGateway, text: str) -> list[int]:
    response = await gateway.post({"model": MODEL, "prompt": text}, path="/tokenize")
    tokens: list[int] = (await response.json())["tokens"]
    return tokens


async def choice_of(gateway: RunningGateway, **fields: Any) -> dict[str, Any]:
    """Return the choice of an answer; the parts of a streamed one are joined."""
    body = {"model": MODEL, "prompt": "Once upon a", "echo": True, "logprobs": 1, **fields}
    response = await gateway.post(body, path=PATH)
    assert response.status == 200, await response.text()
    if not fields.get("stream"):
        (choice,) = (await response.json())["choices"]
        whole: dict[str, Any] = choice
        return whole
    events = [event for event in (await response.text()).split("\n\n") if event and not event.startswith(":")]
    assert events.pop() == "data: [DONE]"
    parts = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    names = parts[0]["logprobs"]
    return {
        "index": 0,
        "text": "".join(part["text"] for part in parts),
        "logprobs": {name: [value for part in parts for value in part["logprobs"][name]] for name in names},
        "finish_reason": parts[-1]["finish_reason"],
    }


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_prompt_is_scored_without_new_tokens(gateway: RunningGateway, *, stream: bool) -> None:
    gateway.engine.will_say("", prompt_logprobs=PROMPT, logprobs=[[]], finish={"type": "length", "length": 0})
    assert await choice_of(gateway, max_tokens=0, stream=stream) == {
        "index": 0,
        "text": "Once upon a",
        "logprobs": {
            "tokens": ["Once", " upon", " a"],
            "token_logprobs": [None, -1.5, -0.25],
            "top_logprobs": [None, {" upon": -1.5}, {" a": -0.25}],
            "text_offset": [0, 4, 9],
        },
        "finish_reason": "length",
    }
    (sent,) = gateway.engine.requests
    assert (sent["return_logprob"], sent["logprob_start_len"], sent["top_logprobs_num"]) == (True, 0, 1)
    assert sent["sampling_params"]["max_new_tokens"] == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_prompt_is_scored_before_new_tokens(gateway: RunningGateway, *, stream: bool) -> None:
    gateway.engine.will_say(
        " time", ".", prompt_logprobs=PROMPT, logprobs=[NEW, [[-0.125, 514, "."]]], finish=LENGTH
    )
    choice = await choice_of(gateway, max_tokens=2, stream=stream)
    assert choice["text"] == "Once upon a time."
    assert choice["logprobs"]["tokens"] == ["Once", " upon", " a", " time", "."]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.5, -0.25, -0.5, -0.125]
    assert choice["logprobs"]["text_offset"] == [0, 4, 9, 11, 16]


async def test_token_that_ends_the_answer_keeps_its_entry(gateway: RunningGateway) -> None:
    """lm-eval leaves out the last entry, that of the new token; without one it would lose a score."""
    gateway.engine.will_say("", prompt_logprobs=PROMPT, logprobs=[[[-0.5, 2, "</longcat_s>"]]], finish=END)
    choice = await choice_of(gateway, max_tokens=1)
    assert choice["text"] == "Once upon a"
    assert choice["logprobs"]["token_logprobs"] == [None, -1.5, -0.25, -0.5]
    assert choice["logprobs"]["text_offset"][-1] == len("Once upon a")


async def test_lists_of_prompts_are_scored_in_order(gateway: RunningGateway) -> None:
    """As lm-eval sends batches: lists of token ids, one choice for each."""
    ids = await ids_of(gateway, "Once upon a")
    for _ in range(2):
        gateway.engine.will_say(" time", prompt_logprobs=PROMPT, logprobs=[NEW], finish=LENGTH)
    body = {"model": MODEL, "prompt": [ids, ids], "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234}
    answer = await (await gateway.post({**body, "temperature": 0}, path=PATH)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    for choice in answer["choices"]:
        # Computed as lm-eval does, for a continuation of the first token.
        scores = choice["logprobs"]["token_logprobs"][1:-1]
        tops = choice["logprobs"]["top_logprobs"][1:-1]
        assert sum(scores) == -1.75
        assert all(score == max(top.values()) for score, top in zip(scores, tops, strict=True))


async def test_scores_come_in_few_events_of_the_engine(gateway: RunningGateway) -> None:
    """Each event repeats the prompt's scores, so that many would take the square of the prompt."""
    for asked, interval in ((1, 32), (4096, 1024)):
        await choice_of(gateway, max_tokens=asked, stream=True)
        assert gateway.engine.requests[-1]["sampling_params"]["stream_interval"] == interval


async def test_echo_without_logprobs_scores_nothing(gateway: RunningGateway) -> None:
    body = {"model": MODEL, "prompt": "Once upon a", "echo": True, "max_tokens": 0}
    gateway.engine.will_say("", finish={"type": "length", "length": 0})
    (choice,) = (await (await gateway.post(body, path=PATH)).json())["choices"]
    assert (choice["text"], choice["logprobs"]) == ("Once upon a", None)
    assert "logprob_start_len" not in gateway.engine.requests[0]


async def test_first_token_keeps_null_when_others_are_impossible(gateway: RunningGateway) -> None:
    """The engine writes minus infinity as null; only the first token of a prompt has no score at all."""
    prompt = [PROMPT[0], [None, 11, " upon"]]
    gateway.engine.will_say("", prompt_logprobs=prompt, logprobs=[[]], finish=LENGTH)
    choice = await choice_of(gateway, max_tokens=0)
    assert choice["logprobs"]["token_logprobs"] == [None, -9999.0]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_unreadable_scores_are_an_error_of_the_engine(gateway: RunningGateway, *, stream: bool) -> None:
    """An entry of another form, and no score for a prompt of several tokens."""
    for prompt in ([[None, 10]], [["x", 10, "Once"]]):
        gateway.engine.will_say("", prompt_logprobs=prompt, logprobs=[[]], finish=LENGTH)
        body = {"model": MODEL, "prompt": "Once", "echo": True, "logprobs": 1, "stream": stream}
        response = await gateway.post(body, path=PATH)
        assert "engine" in (await response.text())
        assert response.status == 502 or stream


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing to return": ({"max_tokens": 0, "echo": False}, "max_tokens"),
    "nothing to score": ({"max_tokens": 0, "echo": None, "logprobs": 1}, "max_tokens"),
    "negative": ({"max_tokens": -1, "echo": True, "logprobs": 1}, "max_tokens"),
    "long answer": ({"max_tokens": 4097, "echo": True, "logprobs": 1}, "max_tokens"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_scoring_names_the_field_at_fault(gateway: RunningGateway, case: str) -> None:
    fields, param = WRONG[case]
    response = await gateway.post({"model": MODEL, "prompt": "Once", **fields}, path=PATH)
    assert response.status == 400
    assert (await response.json())["error"]["param"] == param


async def test_scores_of_too_many_tokens_are_refused_before_the_engine() -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT), context_length=1 << 17, max_req_input_len=1 << 17)
    async with running_gateway(engine=engine) as gateway:
        longest = MAX_PROMPT_SCORES // 2
        for prompts, status in (
            ([[5] * longest], 200),
            ([[5] * (longest + 1)], 400),
            ([[5] * longest] * (MAX_SCORES // MAX_PROMPT_SCORES), 200),
            ([[5] * longest] * (MAX_SCORES // MAX_PROMPT_SCORES + 1), 400),
        ):
            body = {"model": MODEL, "prompt": prompts, "echo": True, "logprobs": 1, "max_tokens": 0}
            assert (await gateway.post(body, path=PATH)).status == status
