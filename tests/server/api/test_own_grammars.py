"""`regex` and `ebnf`: allowed by scope, and checked before they reach the engine."""

import json
from pathlib import Path
from typing import Any

import pytest

from serval.store.database import open_database
from serval.store.key_store import KeyStore
from serval_testkit.gateway import API_KEY, MODEL, running_gateway
from serval_testkit.grammar_walk import accepts, compiled

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": MODEL, "messages": HI},
    "/v1/completions": {"model": MODEL, "prompt": "Hi"},
}
GRAMMARS = {"regex": "yes|no", "ebnf": 'root ::= "yes" | "no"'}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("field", GRAMMARS)
async def test_grammar_needs_the_scope_and_reaches_the_engine(tmp_path: Path, field: str, path: str) -> None:
    store = KeyStore(open_database(str(tmp_path / "keys.db")))
    _, plain = store.create(name="plain", scopes=["inference"])
    _, trusted = store.create(name="trusted", scopes=["inference", "grammar"])
    body = {**BODIES[path], field: GRAMMARS[field]}
    async with running_gateway(key_database=str(tmp_path / "keys.db")) as gateway:
        for key in (plain, API_KEY):
            refused = await gateway.post(body, path=path, headers={"authorization": f"Bearer {key}"})
            assert refused.status == 403
            error = (await refused.json())["error"]
            assert error["code"] == "insufficient_permissions"
            assert "scope 'grammar'" in error["message"]
        assert gateway.engine.requests == []
        let_in = await gateway.post(body, path=path, headers={"authorization": f"Bearer {trusted}"})
        assert let_in.status == 200
        grammar = compiled(json.loads(gateway.engine.requests[0]["sampling_params"]["structural_tag"]))
    assert accepts(grammar, "no")
    assert not accepts(grammar, "maybe")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"regex": "(a+)+b"}, "regex"),
        ({"regex": ""}, "regex"),
        ({"regex": 3}, "regex"),
        ({"ebnf": 'answer ::= "a"'}, "ebnf"),
        ({**GRAMMARS}, "ebnf"),
        ({"regex": "a", "tools": [TOOL]}, "regex"),
        ({"ebnf": 'root ::= "a"', "response_format": {"type": "json_object"}}, "ebnf"),
    ],
)
async def test_invalid_grammar_is_named(fields: dict[str, Any], param: str) -> None:
    async with running_gateway(operator_grammars=True) as gateway:
        response = await gateway.post({**BODIES["/v1/chat/completions"], **fields})
        assert response.status == 400
        assert (await response.json())["error"]["param"] == param
        assert gateway.engine.requests == []


async def test_grammar_text_that_quotes_a_call_is_content() -> None:
    written = "say <longcat_tool_call>f\n</longcat_tool_call>"
    async with running_gateway(operator_grammars=True) as gateway:
        gateway.engine.will_say(written)
        body = {**BODIES["/v1/chat/completions"], "tools": [TOOL], "tool_choice": "none", "regex": "say .*"}
        message = (await (await gateway.post(body)).json())["choices"][0]["message"]
        assert (message["content"], "tool_calls" in message) == (written, False)
        assert gateway.engine.requests[0]["sampling_params"]["skip_special_tokens"] is False


NOT_DEFINED = (
    "Failed to compile structural_tag grammar: [08:12:41] /project/cpp/grammar_parser.cc:820: EBNF parser"
    ' error at line 1, column 10: Rule "foo" is not defined'
)


async def test_grammar_refused_by_the_engine_is_a_400() -> None:
    async with running_gateway(operator_grammars=True) as gateway:
        gateway.engine.will_say(fault="http_error", status=400, message=NOT_DEFINED)
        response = await gateway.post({**BODIES["/v1/chat/completions"], "ebnf": "root ::= foo"})
        assert response.status == 400
        error = (await response.json())["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"].endswith('line 1, column 10: Rule "foo" is not defined')
        assert "/project" not in error["message"]
