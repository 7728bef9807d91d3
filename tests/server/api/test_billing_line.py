"""Claude Code's billing line, which changes with each request, at the very front of its system text."""

from typing import Any

from serval.chat.prompt_history import shared_length
from serval_testkit.gateway import MODEL, RunningGateway, running_gateway

MESSAGES = "/v1/messages"
ASK = {"x-serval-cache-debug": "1"}
READ: dict[str, Any] = {
    "name": "Read",
    "description": "Read a file. " * 20,
    "input_schema": {"type": "object", "properties": {"file_path": {"type": "string"}}},
}


def body(billing: str) -> dict[str, Any]:
    """Return a request in the form of Claude Code 2.1."""
    cached = {"cache_control": {"type": "ephemeral"}}
    return {
        "model": MODEL,
        "max_tokens": 32000,
        "tools": [READ],
        "system": [
            {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.332.642; {billing};"},
            {
                "type": "text",
                "text": "You are a Claude agent, built on Anthropic's Claude Agent SDK.",
                **cached,
            },
            {"type": "text", "text": "Follow the instructions of the user. " * 40, **cached},
        ],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Fix the bug in calc.py."}]}],
    }


async def test_prompts_of_two_billing_lines_are_found_in_the_cache(gateway: RunningGateway) -> None:
    for line, left in (("cch=00aa1", "none"), ("cch=7b3f2", "end")):
        response = await gateway.post(body(line), path=MESSAGES, headers=ASK)
        assert response.status == 200
        assert response.headers["x-serval-cache-left"] == left
    first, second = (request["input_ids"] for request in gateway.engine.requests)
    assert shared_length(first, second) >= 0.99 * len(second)


async def test_billing_line_is_named_if_it_is_rendered() -> None:
    async with running_gateway(render_billing_block=True) as gateway:
        for line in ("cch=00aa1", "cch=7b3f2"):
            response = await gateway.post(body(line), path=MESSAGES, headers=ASK)
        first, second = (request["input_ids"] for request in gateway.engine.requests)
    place = body("cch=7b3f2")["system"][0]["text"].index("7b3f2")
    assert response.headers["x-serval-cache-left"] == f"system[0].text {place}"
    assert shared_length(first, second) < 0.5 * len(second)
