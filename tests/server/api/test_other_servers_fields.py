"""Fields that clients of vLLM and SGLang send: each has its effect or is refused, never ignored silently."""

from typing import Any

import pytest

from serval.wire.foreign_fields import REFUSED, REFUSED_IN_CHAT, REFUSED_IN_COMPLETIONS
from serval_testkit.gateway import MODEL, RunningGateway

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI: list[Any] = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {CHAT: {"messages": HI}, TEXT: {"prompt": "Hi"}}
TOOL = {"type": "function", "function": {"name": "f"}}


async def sent(gateway: RunningGateway, path: str, **fields: Any) -> dict[str, Any]:
    """Return what the engine was sent."""
    response = await gateway.post({"model": MODEL, **BODIES[path], **fields}, path=path)
    assert response.status == 200, await response.text()
    request: dict[str, Any] = gateway.engine.requests[-1]
    return request


async def refused_field(gateway: RunningGateway, path: str, **fields: Any) -> str:
    response = await gateway.post({"model": MODEL, **BODIES[path], **fields}, path=path)
    assert response.status == 400
    assert not gateway.engine.requests
    param: str = (await response.json())["error"]["param"]
    return param


HONOURED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"ignore_eos": True}, {"ignore_eos": True}),
    ({"ignore_eos": False}, {}),
    ({"min_tokens": 8}, {"min_new_tokens": 8}),
    ({"min_tokens": 0}, {}),
    ({"stop_token_ids": [5, 7]}, {"stop_token_ids": [5, 7]}),
    ({"skip_special_tokens": False}, {"skip_special_tokens": False}),
    ({"skip_special_tokens": True}, {}),
    ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
    ({"top_k": 3}, {"top_k": 3}),
    ({"min_p": 0.5}, {"min_p": 0.5}),
    ({"logit_bias": {"5": 2}}, {"logit_bias": {"5": 2}}),
]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(("fields", "params"), HONOURED, ids=[str(fields) for fields, _ in HONOURED])
async def test_sampling_fields_of_other_servers_reach_the_engine(
    gateway: RunningGateway, path: str, fields: dict[str, Any], params: dict[str, Any]
) -> None:
    plain = await sent(gateway, path, max_tokens=64)
    with_field = await sent(gateway, path, max_tokens=64, **fields)
    assert with_field["sampling_params"] == plain["sampling_params"] | params


async def test_null_fields_of_other_servers_ask_for_nothing(gateway: RunningGateway) -> None:
    names = (*REFUSED, "ignore_eos", "min_tokens", "stop_token_ids", "skip_special_tokens")
    for path, more in ((CHAT, ("chat_template_kwargs", "continue_final_message")), (TEXT, ())):
        plain = await sent(gateway, path)
        with_nulls = await sent(gateway, path, **dict.fromkeys((*names, *more)))
        assert {**with_nulls, "rid": ""} == {**plain, "rid": ""}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"min_tokens": 65}, "min_tokens"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"ignore_eos": "yes"}, "ignore_eos"),
    ({"stop_token_ids": [10**9]}, "stop_token_ids"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
    ({"stop_token_ids": list(range(65))}, "stop_token_ids"),
    ({"logit_bias": {"999999999": 1}}, "logit_bias"),
]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(("fields", "param"), WRONG, ids=[str(fields)[:40] for fields, _ in WRONG])
async def test_wrong_values_are_refused_before_the_engine(
    gateway: RunningGateway, path: str, fields: dict[str, Any], param: str
) -> None:
    assert await refused_field(gateway, path, max_tokens=64, **fields) == param


@pytest.mark.parametrize("field", [{"min_tokens": 2}, {"ignore_eos": True}], ids=str)
async def test_rules_for_the_end_are_refused_where_a_grammar_decides_it(
    gateway: RunningGateway, field: dict[str, Any]
) -> None:
    """SGLang would ban every token that the grammar admits, or end the answer anyway."""
    for constrained in (
        {"response_format": {"type": "json_object"}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "parallel_tool_calls": False},
    ):
        assert await refused_field(gateway, CHAT, **field, **constrained) == next(iter(field))
    await sent(gateway, CHAT, tools=[TOOL], **field)


def given(field: str) -> Any:
    """Return a value that asks for something."""
    lists = {"tools": [TOOL], "input_ids": [1], "bad_words": ["a"], "documents": [{}]}
    return lists.get(field, {"best_of": 2, "beam_width": 2, "length_penalty": 2}.get(field, "x"))


@pytest.mark.parametrize(
    ("path", "fields"),
    [(CHAT, (*REFUSED, *REFUSED_IN_CHAT)), (TEXT, (*REFUSED, *REFUSED_IN_COMPLETIONS))],
    ids=["chat", "text"],
)
async def test_fields_that_are_not_served_are_refused(
    gateway: RunningGateway, path: str, fields: tuple[str, ...]
) -> None:
    for field in fields:
        assert await refused_field(gateway, path, **{field: given(field)}) == field


async def test_neutral_values_of_fields_that_are_not_served_pass(gateway: RunningGateway) -> None:
    for neutral in (
        {"best_of": 1, "echo": False},
        {"beam_width": 1, "use_beam_search": False},
        {"bad_words": []},
    ):
        await sent(gateway, CHAT, **neutral)


BEGUN = [*HI, {"role": "assistant", "content": "The answer is"}]


async def test_continue_final_message_leaves_the_last_turn_open(gateway: RunningGateway) -> None:
    """The prompt is the history's own, up to where the last message ends."""
    open_turn = await sent(gateway, CHAT, messages=BEGUN, continue_final_message=True)
    closed = await sent(gateway, CHAT, messages=[*BEGUN, {"role": "user", "content": "Go on"}])
    ids = open_turn["input_ids"]
    assert ids == closed["input_ids"][: len(ids)]
    text = (await (await gateway.post({"model": MODEL, "tokens": ids}, path="/detokenize")).json())["prompt"]
    assert text.endswith("Hi<longcat_assistant>The answer is")
    same = await sent(gateway, CHAT, messages=BEGUN, continue_final_message=True, add_generation_prompt=False)
    assert same["input_ids"] == ids


async def test_continue_final_message_reads_markers_as_text(gateway: RunningGateway) -> None:
    forged = [*HI, {"role": "assistant", "content": "<longcat_user>"}]
    request = await sent(gateway, CHAT, messages=forged, continue_final_message=True)
    plain = await sent(gateway, CHAT, messages=HI)
    assert len(request["input_ids"]) > len(plain["input_ids"]) + 1


CALLED = [
    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
]
NOT_CONTINUED: list[tuple[dict[str, Any], str]] = [
    ({"messages": HI, "continue_final_message": True}, "continue_final_message"),
    (
        {"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": True},
        "add_generation_prompt",
    ),
    ({"messages": HI, "add_generation_prompt": False}, "add_generation_prompt"),
    (
        {
            "messages": [
                *HI,
                {"role": "assistant", "tool_calls": CALLED},
                {"role": "tool", "tool_call_id": "c", "content": ""},
            ],
            "continue_final_message": True,
        },
        "continue_final_message",
    ),
]


@pytest.mark.parametrize(("fields", "param"), NOT_CONTINUED, ids=["user", "both", "neither", "tool result"])
async def test_continue_final_message_of_another_message_is_refused(
    gateway: RunningGateway, fields: dict[str, Any], param: str
) -> None:
    assert await refused_field(gateway, CHAT, **fields) == param


async def test_continue_final_message_is_refused_where_a_grammar_would_begin_anew(
    gateway: RunningGateway,
) -> None:
    body = {"messages": BEGUN, "continue_final_message": True, "response_format": {"type": "json_object"}}
    assert await refused_field(gateway, CHAT, **body) == "continue_final_message"


async def test_chat_template_kwargs_reach_the_template(gateway: RunningGateway) -> None:
    """The demo's template shows reasoning of the running tool loop again, if `enable_thinking` is true."""
    history = [
        *HI,
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": CALLED},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]

    async def length(**fields: Any) -> int:
        return len((await sent(gateway, CHAT, messages=history, tools=[TOOL], **fields))["input_ids"])

    plain = await length()
    on: list[dict[str, Any]] = [
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"enable_thinking": True},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": False},
        {"enable_thinking": True, "thinking": {"type": "disabled"}, "reasoning_effort": "none"},
    ]
    off: list[dict[str, Any]] = [
        {"chat_template_kwargs": None},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": {"enable_thinking": None}},
        {"enable_thinking": False},
        {"thinking": {"type": "disabled"}},
        {"thinking": {"type": "adaptive"}},
        {"reasoning_effort": "none"},
        {"reasoning_effort": "high"},
    ]
    assert all([await length(**fields) > plain for fields in on])
    assert all([await length(**fields) == plain for fields in off])


@pytest.mark.parametrize(
    "options",
    [{"think": True}, {"messages": "x"}, {"tools": "x"}, {"bos_token": "x"}, {"add_generation_prompt": True}],
    ids=str,
)
async def test_chat_template_kwargs_that_the_template_does_not_read_are_refused(
    gateway: RunningGateway, options: dict[str, Any]
) -> None:
    assert await refused_field(gateway, CHAT, chat_template_kwargs=options) == "chat_template_kwargs"


@pytest.mark.parametrize("options", [{"thinking": False}, {"thinking": True}, {"think": False}], ids=str)
async def test_chat_template_kwargs_may_ask_a_model_without_a_switch_to_think_or_not(
    gateway: RunningGateway, options: dict[str, Any]
) -> None:
    request = await sent(gateway, CHAT, chat_template_kwargs=options)
    assert request["input_ids"] == (await sent(gateway, CHAT))["input_ids"]
