"""Fields of other servers that change the answer and are not served: refused, not ignored.

A client that sends one counts on its effect. Other unknown fields are ignored, or refused in strict mode.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from serval.errors import InvalidRequestError
from serval.wire.decode import decode_json

_GRAMMARS: Final = "send response_format (chat), regex or ebnf"
_TEMPLATE: Final = "the prompt is what the checkpoint's own template makes of messages and tools"
_STOPS: Final = "the text ends before what stopped it; send stop or stop_token_ids"
_BEAMS: Final = "answers are sampled; there is no beam search"
_TOKENS: Final = "token ids are not part of answers; /tokenize turns text into ids"
_ENGINE: Final = "requests run on the served model as it is"

# Names, with the advice for a client that sends one. Null, false and neutral values ask for nothing.
REFUSED: Final[Mapping[str, str]] = {
    "guided_json": _GRAMMARS,
    "guided_regex": _GRAMMARS,
    "guided_choice": _GRAMMARS,
    "guided_grammar": _GRAMMARS,
    "structured_outputs": _GRAMMARS,
    "json_schema": _GRAMMARS,
    "include_stop_str_in_output": _STOPS,
    "no_stop_trim": _STOPS,
    "stop_regex": _STOPS,
    "use_beam_search": _BEAMS,
    "beam_width": _BEAMS,
    "length_penalty": _BEAMS,
    "prompt_logprobs": "POST /v1/completions returns those of the prompt with echo and logprobs",
    "truncate_prompt_tokens": "a prompt that is too long is a 400, never cut",
    "allowed_token_ids": "send logit_bias",
    "bad_words": "send logit_bias",
    "chat_template": _TEMPLATE,
    "documents": _TEMPLATE,
    "input_ids": "send token ids as prompt to /v1/completions",
    "lora_path": _ENGINE,
    "custom_logit_processor": _ENGINE,
    "logits_processors": _ENGINE,
    "return_hidden_states": _ENGINE,
    "return_token_ids": _TOKENS,
    "return_tokens_as_token_ids": _TOKENS,
    "return_prompt_token_ids": _TOKENS,
    "web_search_options": "there is no web search; declare a tool of your own",
}
REFUSED_IN_CHAT: Final = {
    "best_of": "send n",
    "echo": "the answer never repeats the messages",
}
REFUSED_IN_RESPONSES: Final = {
    "background": "leave it out, and read the answer of the request itself",
    "conversation": "send previous_response_id, or the whole conversation as input",
    "prompt": "there are no stored prompt templates; send instructions and input",
    "regex": "send it to /v1/chat/completions",
    "ebnf": "send it to /v1/chat/completions",
}
REFUSED_IN_COMPLETIONS: Final = {
    "response_format": "send it to /v1/chat/completions",
    "tools": "send them to /v1/chat/completions",
    "chat_template_kwargs": "send it to /v1/chat/completions",
    "continue_final_message": "send it to /v1/chat/completions, or the text as prompt",
}
_NEUTRAL: Final[Mapping[str, object]] = {"length_penalty": 1, "beam_width": 1, "best_of": 1}


class _Fields:
    """Decoder of the refused fields of one endpoint; it passes over all others without building them."""

    def __init__(self, refused: Mapping[str, str]) -> None:
        self._refused = refused
        kind = msgspec.defstruct("Foreign", [(name, Any, None) for name in refused])
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
        self._nothing = kind()

    def check(self, body: bytes) -> None:
        """Raise `InvalidRequestError` for a refused field. `body` is a JSON object."""
        found = decode_json(self._decoder, body)
        if found == self._nothing:
            return  # nearly always, and compared at once
        for name, advice in self._refused.items():
            value = getattr(found, name)
            if value is None or value is False or value == [] or value == _NEUTRAL.get(name):
                continue
            raise InvalidRequestError(
                f"{name} is not served here: {advice}.", param=name, code="unsupported_parameter"
            )


check_chat_fields: Final = _Fields({**REFUSED, **REFUSED_IN_CHAT}).check
check_responses_fields: Final = _Fields({**REFUSED, **REFUSED_IN_RESPONSES}).check
check_completion_fields: Final = _Fields({**REFUSED, **REFUSED_IN_COMPLETIONS}).check
check_messages_fields: Final = _Fields(REFUSED).check
