"""A small model folder: a byte-level BPE tokenizer with LongCat's control tokens, and a chat template."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CONTROL_TOKENS = (
    "<longcat_unk>",
    "<longcat_s>",
    "</longcat_s>",
    "<longcat_pad>",
    "<longcat_system>",
    "<longcat_user>",
    "<longcat_assistant>",
    "<longcat_tool_declare>",
    "</longcat_tool_declare>",
    "<longcat_tool_call>",
    "</longcat_tool_call>",
    "<longcat_arg_key>",
    "</longcat_arg_key>",
    "<longcat_arg_value>",
    "</longcat_arg_value>",
    "<longcat_tool_response>",
    "</longcat_tool_response>",
)

TEMPLATE = """
{%- if tools and tool_choice != 'none' %}
    {{- '<longcat_tool_declare>\\n' }}
    {%- for tool in tools %}
        {{- '### Tool name: ' + tool.function.name + '\\nDescription: ' + tool.function.description + '\\n' }}
        {{- 'InputSchema: ' + tool.function.parameters | tojson(ensure_ascii=False) + '\\n' }}
    {%- endfor %}
    {{- '</longcat_tool_declare>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- '<longcat_system>' + message.content }}
    {%- elif message.role == 'user' %}
        {{- '<longcat_user>' + message.content }}
    {%- elif message.role == 'assistant' %}
        {{- '<longcat_assistant>' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<longcat_tool_call>' ~ call.function.name ~ '\\n' }}
            {%- for key, value in call.function.arguments.items() %}
                {{- '<longcat_arg_key>' ~ key ~ '</longcat_arg_key>\\n<longcat_arg_value>' }}
                {{- value if value is string else value | tojson(ensure_ascii=False) }}
                {{- '</longcat_arg_value>\\n' }}
            {%- endfor %}
            {{- '</longcat_tool_call>\\n' }}
        {%- endfor %}
        {{- '</longcat_s>' }}
    {%- elif message.role == 'tool' %}
        {%- if messages[loop.index0 - 1].role != 'tool' %}
            {{- '<longcat_user>' }}
        {%- endif %}
        {{- '<longcat_tool_response>' + message.content + '</longcat_tool_response>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<longcat_assistant>' }}
{%- endif %}
"""

_TEXT = (
    "The quick brown fox jumps over the lazy dog. What is the weather in Paris? It is 21 degrees and sunny.",
    "<longcat_user> is a marker, and so is </longcat_tool_call>; longcat, user, tool, call, value, response.",
    '{"type": "object", "properties": {"city": {"type": "string"}}} 北京 的 天气 怎么样',
)


def write_model_folder(
    folder: Path,
    *,
    special: bool = True,
    template: str | None = TEMPLATE,
    token_flags: dict[str, bool] | None = None,
    added_in_front: bool = True,
) -> Path:
    """Write the folder. `special`: whether the markers carry that flag; `token_flags`: their other flags."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(CONTROL_TOKENS) if added_in_front else [],
    )  # type: ignore[no-untyped-call]
    tokenizer.train_from_iterator(_TEXT * 4, trainer)
    if not added_in_front:
        tokenizer.add_tokens([AddedToken(text, normalized=False) for text in CONTROL_TOKENS])
    definition: dict[str, Any] = json.loads(tokenizer.to_str())
    for entry in definition["added_tokens"]:
        entry |= {"special": special, **(token_flags or {})}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    config: dict[str, Any] = {"bos_token": "<longcat_s>", "eos_token": {"content": "</longcat_s>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.7, "top_p": 0.95}))
    return folder
