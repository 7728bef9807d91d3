"""Cost of rendering and tokenising turn k of a long conversation, with and without the segment cache.

    python loadtests/segment_cache_cost.py [--tokens 100000] [--repeats 3] [--svg loadtests/segment_cache.svg]

The conversation is an agent's: each turn has a call and a tool result of 700 words. LongCat-Flash-Lite's own
tokenizer is not in this repository, so the script trains one of the same size (131,072 pieces) and kind
(byte-level BPE, control tokens as added tokens) on made-up words, and uses the demo model's chat template.
Figures are CPU time of this process, the best of the repeats.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from serval.chat import load_chat
from serval.chat.render import ChatRenderer
from serval_load.report.chart import Series, chart

ROOT: Final = Path(__file__).resolve().parents[1]
DEMO: Final = ROOT / "model_adapter/serval_sglang/demo/checkpoint"
VOCABULARY_SIZE: Final = 131_072
# Words with at most one sign or space before them, groups of three digits, runs of signs, white space.
_WORDS: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SYLLABLES: Final = (
    "ka",
    "ren",
    "to",
    "mi",
    "sol",
    "ver",
    "an",
    "dro",
    "fel",
    "is",
    "qua",
    "ber",
    "ny",
    "ox",
)
_WORDS_A_RESULT: Final = 700
_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file.",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    },
}


def made_up_words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 5))) for _ in range(count)]


def write_model(folder: Path) -> None:
    """Write a model folder with a tokenizer of realistic size."""
    definition = json.loads((DEMO / "tokenizer.json").read_text())
    control = [entry["content"] for entry in definition["added_tokens"]]
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(0)
    lines = (" ".join(made_up_words(rng, 2000)) for _ in range(400))
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in ("tokenizer_config.json", "chat_template.jinja", "config.json"):
        shutil.copy(DEMO / name, folder / name)


def conversation() -> Iterator[list[dict[str, Any]]]:
    """Yield the same conversation, each time one turn longer."""
    rng = random.Random(1)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You are an agent."},
        {"role": "user", "content": "Look through the repository and tell me what it does."},
    ]
    turn = 0
    while True:
        yield messages
        function = {"name": "read_file", "arguments": json.dumps({"path": f"src/{turn}.py"})}
        call = {"id": f"call_{turn}", "type": "function", "function": function}
        lines = (" ".join(made_up_words(rng, 8)) + ";" for _ in range(_WORDS_A_RESULT // 8))
        result = "\n".join(lines)
        messages = [
            *messages,
            {"role": "assistant", "content": "Next file.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": result},
        ]
        turn += 1


def milliseconds_by_turn(chat: ChatRenderer, tokens: int) -> list[tuple[int, float]]:
    """Prompt tokens and CPU milliseconds of every turn, up to `tokens`."""
    turns: list[tuple[int, float]] = []
    for messages in conversation():
        start = time.process_time()
        ids = chat.render(messages, tools=[_TOOL]).input_ids
        turns.append((len(ids), (time.process_time() - start) * 1e3))
        if len(ids) >= tokens:
            return turns
    raise AssertionError("the conversation has no end")


def best(folder: Path, *, tokens: int, repeats: int, cache_bytes: int) -> list[tuple[int, float]]:
    """Least time of each turn over the repeats, each of which begins with an empty cache."""
    rounds = [
        milliseconds_by_turn(load_chat(folder, segment_cache_bytes=cache_bytes), tokens)
        for _ in range(repeats)
    ]
    return [(turn[0][0], min(took for _, took in turn)) for turn in zip(*rounds, strict=True)]


def drawing(plain: list[tuple[int, float]], cached: list[tuple[int, float]]) -> str:
    """Draw both curves as SVG."""
    series = [Series("no cache", plain), Series("segment cache", cached)]
    return chart(series, title="CPU time to render and tokenise one turn", x="tokens of prompt", y="ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--svg", type=Path, help="also draw the curves into this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder)
        options = {"tokens": args.tokens, "repeats": args.repeats}
        plain = best(folder, cache_bytes=0, **options)
        cached = best(folder, cache_bytes=64 << 20, **options)
    print(f"{'turn':>5}{'tokens':>9}{'no cache, ms':>15}{'cache, ms':>12}{'ratio':>8}")
    shown = sorted({0, *(len(plain) * part // 8 for part in range(1, 8)), len(plain) - 1})
    for turn in shown:
        (tokens, without), (_, with_cache) = plain[turn], cached[turn]
        print(f"{turn + 1:>5}{tokens:>9}{without:>15.1f}{with_cache:>12.2f}{without / with_cache:>8.1f}")
    if args.svg is not None:
        args.svg.write_text(drawing(plain, cached))


if __name__ == "__main__":
    main()
