"""Consistency of server/API.md with the request types and the settings."""

import re
from pathlib import Path

import msgspec

from serval.caller.identity import INTERACTIVE, Identity
from serval.caller.priority import PRIORITIES, priority_of, tier_of
from serval.settings import Settings, variable_of
from serval.wire.chat_request import ChatRequest
from serval.wire.completion_request import CompletionRequest

PAGE = (Path(__file__).parents[3] / "server" / "API.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_extra_fields_are_fields_of_both_requests() -> None:
    extras = re.findall(r"^\| `(\w+)` \|", section("More fields"), re.MULTILINE)
    assert len(extras) == 5
    for request in (ChatRequest, CompletionRequest):
        assert set(extras) <= {field.name for field in msgspec.structs.fields(request)}


def test_fields_without_effect_are_fields_of_the_chat_request() -> None:
    said = set(re.findall(r"`([a-z_]+)`", section("Accepted, without effect").split("Other fields")[0]))
    said -= {"reasoning_content"}
    assert said <= {field.name for field in msgspec.structs.fields(ChatRequest)}


def test_priority_table_matches_headers_and_tiers() -> None:
    key = Identity(scopes=frozenset({INTERACTIVE}))
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| `(\w+)` \|$", section("Priority"), re.MULTILINE)
    assert tuple(header for header, _ in rows) == PRIORITIES
    for header, tier in rows:
        assert priority_of(key, header) == priority_of(key, None, tier) == header
        assert tier_of(header) == tier


def test_page_names_only_existing_settings_and_all_of_oidc() -> None:
    variables = {variable_of(name) for name in Settings.model_fields}
    named = set(re.findall(r"SERVAL_\w+", PAGE))
    assert named <= variables
    assert {name for name in variables if name.startswith("SERVAL_OIDC_")} - named == {
        "SERVAL_OIDC_REFRESH_S"
    }
