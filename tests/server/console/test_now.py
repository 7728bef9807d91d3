"""The page *now*."""

from pathlib import Path

from serval_testkit.console import Visitor, running_console
from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway, as_fleet
from serval_testkit.stand_in_engine import StandInEngine

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


async def test_figures_show_engine_and_last_errors(
    console: tuple[RunningGateway, Visitor], visitor: Visitor
) -> None:
    gateway, _ = console
    assert (await gateway.post({**CHAT, "model": "<i>none</i>"})).status == 404
    answer = await visitor.get("/console/now/figures")
    assert "model_not_found" in answer.text
    assert "/v1/chat/completions" in answer.text
    assert "<td>ready</td>" in answer.text
    assert "<i>" not in answer.text
    gateway.engine.ready = False
    page = await visitor.get("/console")
    assert "<td>not ready</td>" in page.text
    assert f"<h1>Now: {MODEL}</h1>" in page.text


async def test_engines_of_a_fleet_have_rows_of_their_own(tmp_path: Path) -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT))
    async with (
        engine.running(),
        running_console(tmp_path, engine=engine, engine_url=as_fleet(engine.url)) as (_, visitor),
    ):
        await visitor.sign_in()
        page = (await visitor.get("/console")).text
        assert page.count('<th scope="row">') == 2
        assert "localhost:" in page
