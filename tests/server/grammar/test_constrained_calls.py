"""Validity of every admitted call after parsing, for random schemas and random walks."""

import json
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from serval.grammar.dialect import Dialect
from serval.grammar.dialects.longcat import LONGCAT
from serval.grammar.dialects.longcat_json import LONGCAT_JSON
from serval.grammar.structural_tag import structural_tag
from serval.schema.error import SchemaError
from serval.tools.message import assemble
from serval_testkit import json_schemas
from serval_testkit.grammar_walk import UnfinishedWalkError, compiled, walk

WALKS = 4


@pytest.mark.parametrize("dialect", [LONGCAT, LONGCAT_JSON], ids=["longcat", "json"])
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(parameters=json_schemas.parameters, seed=st.integers(0, 2**32))
def test_every_admitted_call_is_valid(dialect: Dialect, parameters: dict[str, Any], seed: int) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}]
    try:
        tag = structural_tag(dialect, tools, tool_choice="required", parallel_tool_calls=False)
    except SchemaError as error:
        note(f"refused: {error}")
        assume(False)
        return
    assert tag is not None
    grammar = compiled(tag)
    choices = random.Random(seed)
    validator = jsonschema.Draft202012Validator(parameters)
    for _ in range(WALKS):
        try:
            text = walk(grammar, choices)
        except UnfinishedWalkError:
            continue
        note(f"text: {text!r}")
        parser = dialect.parser(tools)
        message = assemble([*parser.feed(text), *parser.finish("stop")])
        assert message.content is None
        ((name, arguments),) = message.calls
        assert name == "f"
        note(f"arguments: {arguments}")
        validator.validate(json.loads(arguments, parse_constant=pytest.fail))
