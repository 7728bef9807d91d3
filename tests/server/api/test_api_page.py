"""Consistency of server/API.md with the request types and the settings."""

import re
from pathlib import Path

import msgspec

from serval.api.text_choice import MAX_PROMPT_SCORES, MAX_SCORES
from serval.caller.identity import INTERACTIVE, Identity
from serval.caller.priority import PRIORITIES, priority_of, tier_of
from serval.setting_names import variable_of
from serval.settings import Settings
from serval.wire.chat_request import ChatRequest
from serval.wire.completion_request import MAX_TOKENS_AFTER_SCORED_PROMPT, CompletionRequest
from serval.wire.foreign_fields import REFUSED, REFUSED_IN_CHAT, REFUSED_IN_COMPLETIONS

PAGE = (Path(__file__).parents[3] / "server" / "API.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_extra_fields_are_fields_of_both_requests() -> None:
    extras = re.findall(r"^\| `(\w+)` \|", section("More fields"), re.MULTILINE)
    assert len(extras) == 9
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


def test_page_names_the_fields_of_chats_alone_and_those_refused() -> None:
    fields = {field.name for field in msgspec.structs.fields(ChatRequest)}
    assert {"continue_final_message", "add_generation_prompt", "chat_template_kwargs"} <= fields
    named = set(re.findall(r"`([a-z_]+)`", section("More fields")))
    groups = {"guided_regex", "guided_choice", "guided_grammar", "json_schema", "use_beam_search"}
    groups |= {"beam_width", "length_penalty", "lora_path", "custom_logit_processor", "logits_processors"}
    groups |= {"return_hidden_states", "return_token_ids", "return_tokens_as_token_ids"}
    groups |= {"return_prompt_token_ids"}
    refused = {*REFUSED, *REFUSED_IN_CHAT, *REFUSED_IN_COMPLETIONS}
    assert refused - named == groups


def test_bounds_of_scores_are_those_of_the_code() -> None:
    page = section("Scores of a prompt")
    for bound in (MAX_PROMPT_SCORES, MAX_SCORES, MAX_TOKENS_AFTER_SCORED_PROMPT):
        assert f"{bound:,}" in page
