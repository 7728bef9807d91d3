"""In place of SGLang in the rehearsal: its native protocol, answers of words with pauses."""

import asyncio
import json
from typing import Any

from aiohttp import web

WORDS = 40
PAUSE_S = 0.1
FOLDER = "/opt/serval/demo-model"


async def ready(_: web.Request) -> web.Response:
    return web.Response()


async def metrics(_: web.Request) -> web.Response:
    return web.Response(text="# TYPE sglang:num_running_reqs gauge\nsglang:num_running_reqs 0\n")


async def describe(request: web.Request) -> web.Response:
    answers: dict[str, dict[str, Any]] = {
        "/model_info": {"model_path": FOLDER, "served_model_name": "demo"},
        "/server_info": {"max_req_input_len": 8000, "incremental_streaming_output": True},
        "/v1/models": {"data": [{"id": "demo", "max_model_len": 8192}]},
    }
    return web.json_response(answers[request.path])


async def generate(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for number in range(1, WORDS + 1):
        meta = {
            "id": body["rid"],
            "finish_reason": {"type": "stop", "matched": 2} if number == WORDS else None,
            "prompt_tokens": len(body["input_ids"]),
            "completion_tokens": number,
            "cached_tokens": 0,
            "reasoning_tokens": 0,
        }
        event = {"text": f"word{number} ", "output_ids": [number], "meta_info": meta}
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await asyncio.sleep(PAUSE_S)
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


if __name__ == "__main__":
    app = web.Application()
    app.add_routes([web.get(path, ready) for path in ("/ready", "/health")])
    app.add_routes([web.get(path, describe) for path in ("/model_info", "/server_info", "/v1/models")])
    app.add_routes([web.get("/metrics", metrics), web.post("/generate", generate)])
    app.add_routes([web.post("/abort_request", ready)])
    web.run_app(app, host="0.0.0.0", port=30000, print=None)  # noqa: S104  # a container's only address
