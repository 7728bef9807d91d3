"""The gateway in front of a StandInEngine, on real ports of the loopback interface."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from serval.app import create_apps
from serval.chat import ChatRenderer, load_chat
from serval.chat.template import ChatTemplate, load_template
from serval.engine.client import connect_engine
from serval.engine.connect import connect
from serval.engine.fleet import Fleet
from serval.engine.protocol import EngineInfo
from serval.live_settings import LiveSettings, read_live_settings
from serval.process.gateway import load_backend
from serval.process.preparation import prepare
from serval.process.startup import wait_for_engine
from serval.settings import Settings
from serval_testkit.running_app import running_app
from serval_testkit.stand_in_engine import StandInEngine

DEMO_CHECKPOINT = Path(__file__).parents[3] / "model_adapter/serval_sglang/demo/checkpoint"
API_KEY = "sk-test-5f1c2d"  # a canary that must never appear in output
_ON_FLEET = "TEST_ON_FLEET"
MODEL = "longcat-demo"
# Created once: reading all certificate authorities takes a quarter of a gateway's start in tests.
_TLS = ssl.create_default_context()


@dataclass
class RunningGateway:
    """A running gateway, its engine, and clients for it."""

    url: str
    # Empty without an admin API, and without a port of the metrics.
    admin_url: str
    metrics_url: str
    engine: StandInEngine
    openai: AsyncOpenAI
    http: aiohttp.ClientSession
    # Puts changed settings in force.
    apply: Callable[[LiveSettings], None]

    async def post(
        self, body: Any, *, path: str = "/v1/chat/completions", **options: Any
    ) -> aiohttp.ClientResponse:
        """POST `body`, JSON or bytes, with the key, and read the response."""
        headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/json"}
        headers |= options.pop("headers", {})
        content: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.http.post(self.url + path, headers=headers, **content, **options) as response:
            await response.read()
            return response

    async def get(
        self, path: str, *, method: str = "GET", key: str | None = API_KEY
    ) -> aiohttp.ClientResponse:
        """GET `path`, or use another method, and read the response."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        async with self.http.request(
            method, self.url + path, headers=headers, allow_redirects=False
        ) as response:
            await response.read()
            return response


def as_fleet(url: str) -> str:
    """Return two names of one engine, which a gateway takes for two engines."""
    return f"{url},{url.replace('127.0.0.1', 'localhost')}"


async def fleet_info(fleet: Fleet, settings: Settings) -> EngineInfo:
    """Wait until an engine of the fleet is ready; return what it promises."""
    info = await wait_for_engine(fleet, settings, stop=asyncio.Event(), progress=lambda _: None)
    assert info is not None
    return info


@cache
def _demo_files() -> tuple[ChatRenderer, ChatTemplate]:
    loaded = load_chat(DEMO_CHECKPOINT)
    return loaded, load_template(DEMO_CHECKPOINT, loaded.tokenizer.control_tokens)


def chat_of_demo(settings: Settings) -> ChatRenderer:
    """Return a renderer as `load_chat` makes it, with caches of its own.

    Compiling tokenizer and template, which do not change, would take two thirds of a gateway's start.
    """
    loaded, template = _demo_files()
    return ChatRenderer(
        template,
        loaded.tokenizer,
        sampling_defaults=loaded.sampling_defaults,
        segment_cache_bytes=settings.segment_cache_bytes,
        files=loaded.files,
    )


@asynccontextmanager
async def running_gateway(
    *, engine_url: str | None = None, engine: StandInEngine | None = None, **settings: Any
) -> AsyncIterator[RunningGateway]:
    """Serve a gateway for the demo checkpoint; `engine_url` replaces the stand-in's address.

    With the variable TEST_ON_FLEET the stand-in is two engines of a fleet, under two of its names.
    """
    engine = engine or StandInEngine(model_path=str(DEMO_CHECKPOINT))
    async with engine.running():
        values: dict[str, Any] = {
            "engine_url": engine_url or (as_fleet(engine.url) if _ON_FLEET in os.environ else engine.url),
            "api_key": API_KEY,
            "served_model_name": MODEL,
            **settings,
        }
        configured = Settings(**values)
        async with connect_engine(configured.model_copy(update={"engine_url": engine.url})) as probe:
            info = await probe.info()
        async with connect(configured) as client:
            if isinstance(client, Fleet):
                info = await fleet_info(client, configured)
            prepared = prepare(configured, read_live_settings(configured))
            serves_demo = (configured.model or Path(info.model_path)) == DEMO_CHECKPOINT
            chat = chat_of_demo(configured) if serves_demo else None
            apps = create_apps(configured, load_backend(configured, client, info, chat), prepared)
            async with AsyncExitStack() as stack:
                url = await stack.enter_async_context(
                    running_app(apps.api, configured, refused=apps.metrics.request_refused)
                )
                admin_url, metrics_url = [
                    ""
                    if app is None
                    else await stack.enter_async_context(running_app(app, configured, lifespan="off"))
                    for app in (apps.admin, apps.metrics_page)
                ]
                http = await stack.enter_async_context(aiohttp.ClientSession())
                openai = AsyncOpenAI(
                    base_url=f"{url}/v1",
                    api_key=API_KEY,
                    max_retries=0,
                    http_client=DefaultAsyncHttpxClient(verify=_TLS),
                )
                yield RunningGateway(
                    url=url,
                    admin_url=admin_url,
                    metrics_url=metrics_url,
                    engine=engine,
                    openai=openai,
                    http=http,
                    apply=apps.apply,
                )
                await openai.close()
