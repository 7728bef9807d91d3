"""Further names for the served model."""

from typing import Any

import pytest
from anthropic import AsyncAnthropic

from serval.api.model_aliases import MAX_NAME_CHARACTERS, ModelAliases
from serval.caller.limits import Limits
from serval.live_settings import LiveSettings
from serval_testkit.gateway import API_KEY, DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway
from serval_testkit.request_log import request_lines
from serval_testkit.stand_in_engine import StandInEngine

HI: list[Any] = [{"role": "user", "content": "Hi"}]
OTHER_APIS: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 9},
}
CLAUDE = "claude-haiku-4-5-20251001"


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("gpt-5.5", "gpt-5.5", True),
        ("gpt-5.5", "gpt-5x5", False),
        ("gpt-5.5", "gpt-5.5\n", False),
        ("claude-*", CLAUDE, True),
        ("claude-*", "claude-", True),
        ("claude-*", "not-claude-1", False),
        ("*/lite", "org/lite", True),
        ("*", "line\nbreak", True),
        ("*", "x" * MAX_NAME_CHARACTERS, True),
        ("*", "x" * (MAX_NAME_CHARACTERS + 1), False),
    ],
)
def test_aliases_cover_names(pattern: str, name: str, covered: bool) -> None:
    assert ModelAliases(["other", pattern]).cover(name) is covered


def test_aliases_cover_nothing_if_there_are_none() -> None:
    assert not ModelAliases().cover("")


async def test_answers_repeat_the_name_that_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "serval.requests")
    async with running_gateway(model_aliases="small claude-*") as gateway:
        for name in (MODEL, "small", CLAUDE):
            chat = await gateway.openai.chat.completions.create(model=name, messages=HI)
            text = await gateway.openai.completions.create(model=name, prompt="Hi")
            chunks = await gateway.openai.chat.completions.create(model=name, messages=HI, stream=True)
            texts = await gateway.openai.completions.create(model=name, prompt="Hi", stream=True)
            assert {chat.model, text.model} == {name}
            assert {chunk.model async for chunk in chunks} == {chunk.model async for chunk in texts} == {name}
            for path, fields in OTHER_APIS.items():
                body = {"model": name, "stream": False, **fields}
                assert (await (await gateway.post(body, path=path)).json())["model"] == name
                streamed = await (await gateway.post({**body, "stream": True}, path=path)).text()
                assert f'"model":"{name}"' in streamed
            counted = await gateway.post({"model": name, "prompt": "Hi"}, path="/tokenize")
            assert counted.status == 200
        refused = await gateway.post({"model": "gpt-5.5", "messages": HI})
        assert refused.status == 404
        message = (await refused.json())["error"]["message"]
        assert f"'{MODEL}', also called small, claude-*" in message
        # The clients' names are no closed set, so they label no metric, and the log has the model's own name.
        assert CLAUDE not in await (await gateway.get("/metrics")).text()
    logged = [line["model"] for line in request_lines(caplog) if line["status"] == 200 and line.get("model")]
    assert set(logged) == {MODEL}


async def test_models_are_listed_under_their_aliases() -> None:
    async with running_gateway(model_aliases="small claude-*") as gateway:
        listed = (await gateway.openai.models.list()).data
        assert [model.id for model in listed] == [MODEL, "small"]
        assert [getattr(model, "root", None) for model in listed] == [MODEL, MODEL]
        assert getattr(listed[0], "aliases", None) == ["small", "claude-*"]
        assert (await gateway.openai.models.retrieve(CLAUDE)).id == CLAUDE
        assert (await gateway.get("/v1/models/gpt-5.5")).status == 404


async def test_models_have_the_fields_of_both_forms(gateway: RunningGateway) -> None:
    async with AsyncAnthropic(base_url=gateway.url, auth_token=API_KEY, max_retries=0) as anthropic:
        listed = await anthropic.models.list(limit=1000)
        model = listed.data[0]
        assert (listed.first_id, listed.last_id, listed.has_more) == (MODEL, MODEL, False)
        assert model == await anthropic.models.retrieve(MODEL)
    assert (model.id, model.type, model.display_name) == (MODEL, "model", MODEL)
    answer = await (await gateway.get(f"/v1/models/{MODEL}")).json()
    assert model.created_at.timestamp() == answer["created"]
    assert answer["max_input_tokens"] < answer["context_length"]
    assert {answer[name] for name in ("context_window", "max_model_len")} == {answer["context_length"]}
    assert (answer["max_tokens"], answer["max_completion_tokens"]) == (None, None)
    assert answer["checkpoint"] is None


async def test_models_name_the_checkpoint_that_the_engine_names() -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT))
    engine.weight_version = f"sha256:{'0' * 64}"
    async with running_gateway(engine=engine, served_model_name=MODEL) as gateway:
        answer = await (await gateway.get(f"/v1/models/{MODEL}")).json()
    assert answer["checkpoint"] == f"sha256:{'0' * 64}"


async def test_aliases_change_while_the_gateway_runs(gateway: RunningGateway) -> None:
    for aliases, status in (((), 404), (("claude-*",), 200), ((), 404)):
        live = LiveSettings((API_KEY,), Limits(), reserved_completion_tokens=1, model_aliases=aliases)
        gateway.apply(live)
        assert (await gateway.post({"model": CLAUDE, "messages": HI})).status == status
