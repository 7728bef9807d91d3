"""Popular clients (tests/e2e/clients) against the gateway, with a scripted engine."""

import asyncio
import json
import os
from asyncio.subprocess import PIPE

import pytest

from serval_testkit.clients import MODEL, OTHER_VERSIONS, PROGRAMS, assert_complete, command_of
from serval_testkit.gateway import API_KEY, running_gateway

TEXT = ("Serval is an inference", " server.")
CALL = (
    "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>\n",
    "<longcat_arg_value>Paris</longcat_arg_value>\n<longcat_arg_key>days</longcat_arg_key>\n",
    "<longcat_arg_value>3</longcat_arg_value>\n</longcat_tool_call>\n",
)
STRUCTURED = ('{"capital":', ' "Paris"}')


@pytest.mark.parametrize("program", [*PROGRAMS, *OTHER_VERSIONS])
async def test_clients_get_everything_an_agent_needs(program: str) -> None:
    command = await asyncio.to_thread(command_of, program)
    async with running_gateway(served_model_name=MODEL) as gateway:
        for pieces in (TEXT, TEXT, CALL, CALL, STRUCTURED):
            gateway.engine.will_say(*pieces)
        gateway.engine.will_say("Once", " upon", " a time", fault="stall")
        gateway.engine.will_say(*TEXT)
        environment = {**os.environ, "SERVAL_API_KEY": API_KEY, "SERVAL_BASE_URL": f"{gateway.url}/v1"}
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=environment)
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        assert_complete(json.loads(output))
        # The client that disconnected during its answer has freed the engine.
        await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)
        schema_held = [
            request for request in gateway.engine.requests if "structural_tag" in request["sampling_params"]
        ]
        assert schema_held
