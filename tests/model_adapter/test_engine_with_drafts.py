"""Drafts change how fast the real engine answers, never what it answers: greedy text, logits, and counts.

Two engines on one checkpoint, whose drafts are right often but not always: one without drafts and one with
three steps, whose layers are patched; a file says which mistake it makes.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from serval_sglang.checkpoint import load_mtp_layer, load_reference
from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.reference import ReferenceModel
from serval_sglang.reference.mtp import MtpLayer
from serval_sglang.reference.speculation import decode_speculatively, mtp_drafter
from serval_sglang.verify.cases import Prompts, run_case, verification_cases
from serval_sglang.verify.draft_matrix import remember_outputs
from serval_sglang.verify.engine import Engine, Generation, generate, running_engine
from serval_sglang.verify.verification import BOUNDS, judge
from serval_testkit.engine_plugins import with_plugins, write_plugin

pytestmark = pytest.mark.engine

STEPS = 3
CHUNK = 64
NEW_TOKENS = 40

MISTAKES = """
import os
from pathlib import Path

import torch
from serval_sglang.drafts import verification
from serval_sglang.layers import ngram_embedding
from sglang.srt.models.deepseek_v2 import DeepseekV2AttentionMLA
from serval_sglang.models.longcat_flash_nextn import LongcatFlashForCausalLMNextN as Draft


def makes(mistake):
    return Path(os.environ["SERVAL_TEST_MISTAKE"]).read_text() == mistake


def register():
    decode_step, forward, init = ngram_embedding.decode_step, Draft.forward, Draft.__init__
    share, latents = Draft.set_embed_and_head, DeepseekV2AttentionMLA.prepare_qkv_latent
    last_pass, of_target = {}, {}

    def step(tokens, ring, *, slots, positions, width=1, **named):
        arguments = {"slots": slots, "positions": positions, "width": width, **named}
        wrong = ring.clone()
        if makes("ring shifted by one"):
            wrong = wrong.roll(1, 1)
        firsts = positions.view(-1, width)[:, 0].tolist()
        for row, (slot, first) in enumerate(zip(slots.tolist(), firsts)):
            start, before = last_pass.get(slot, (0, []))
            rejected = first - start
            if makes("rejected token kept") and 0 < rejected < len(before):
                wrong[slot, (first - 1) % ring.shape[1]] = before[rejected]
            last_pass[slot] = (first, tokens.view(-1, width)[row].tolist())
        ids = decode_step(tokens, ring, **arguments)
        mistaken = decode_step(tokens, wrong, **arguments)
        return mistaken if makes("ring shifted by one") or makes("rejected token kept") else ids

    def share_and_keep(self, embed, head):
        share(self, embed, head)
        self.embedding_of_target = [embed]

    def draft(self, *arguments, **named):
        own = self.model.embed_tokens.weight.data
        if makes("draft without its own embedding"):
            self.model.embed_tokens.weight.data = self.embedding_of_target[0].data
        output = forward(self, *arguments, **named)
        self.model.embed_tokens.weight.data = own
        return output

    def mark(self, *arguments, **named):
        init(self, *arguments, **named)
        self.model.decoder.self_attn.is_of_draft = True

    def keep_latents(self, hidden_states, forward_batch):
        found = latents(self, hidden_states, forward_batch)
        if not hasattr(self, "is_of_draft"):
            of_target["last"] = found
        elif makes("latents of the target"):
            kept = of_target["last"]
            return kept[torch.arange(len(found)) % len(kept)]
        return found

    count, penalise, truncate = (
        verification.count_new_tokens, verification.penalise_chains, verification.truncate
    )

    def count_last(orchestrator):
        if not makes("one accepted token counted"):
            return count(orchestrator)
        outputs = [request.output_ids for request in orchestrator.batch.reqs]
        if all(outputs):
            orchestrator.cumulate_output_tokens(torch.tensor([output[-1] for output in outputs]))

    def penalise_all_alike(penalizers, logits, tokens):
        if not makes("penalties of the first token for all"):
            return penalise(penalizers, logits, tokens)
        for place in range(tokens.shape[1]):
            penalise(penalizers, logits[:, place : place + 1], tokens[:, :1])

    def truncate_otherwise(logits, *, top_ks, min_ps, **named):
        if makes("most likely tokens alone"):
            top_ks = torch.ones_like(top_ks)
        if makes("no min-p"):
            min_ps = torch.zeros_like(min_ps)
        return truncate(logits, top_ks=top_ks, min_ps=min_ps, **named)

    verification.count_new_tokens, verification.penalise_chains = count_last, penalise_all_alike
    verification.truncate = truncate_otherwise
    ngram_embedding.decode_step = step
    Draft.set_embed_and_head, Draft.forward, Draft.__init__ = share_and_keep, draft, mark
    DeepseekV2AttentionMLA.prepare_qkv_latent = keep_latents
"""


@dataclass(frozen=True)
class Subject:
    plain: Engine
    drafting: Engine
    checkpoint: Path
    reference: ReferenceModel
    layer: MtpLayer
    mistake_file: Path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory: Path = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(directory, seed=3, dtype=torch.float32, right_drafts=True)
    return directory


@pytest.fixture(scope="module")
def subject(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    folder = tmp_path_factory.mktemp("plugins")
    write_plugin(folder, "mistakes_with_drafts", MISTAKES)
    mistake_file = folder / "mistake"
    mistake_file.write_text("none")
    environment = {**with_plugins(folder), "SERVAL_TEST_MISTAKE": str(mistake_file)}
    flags = [f"--chunked-prefill-size={CHUNK}"]
    with (
        # Overlapped, decoding without drafts applies each penalty one token late (UPSTREAM.md).
        running_engine(
            checkpoint, dtype="float32", extra_flags=[*flags, "--disable-overlap-schedule"]
        ) as plain,
        running_engine(
            checkpoint, dtype="float32", mtp_steps=STEPS, extra_flags=flags, environment=environment
        ) as drafting,
    ):
        reference = load_reference(checkpoint)
        # Several tests ask for the same texts.
        remember_outputs(reference)
        yield Subject(plain, drafting, checkpoint, reference, load_mtp_layer(checkpoint), mistake_file)


def answers(engine: Engine, asked: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Send all requests at once; return the answers in their order, in a list for each if it has several."""
    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda body: engine.post("/generate", body), asked))


def greedy(prompt: Sequence[int], **parameters: Any) -> dict[str, Any]:
    return {
        "input_ids": list(prompt),
        "sampling_params": {
            "temperature": 0,
            "max_new_tokens": NEW_TOKENS,
            "ignore_eos": True,
            **parameters,
        },
        "return_logprob": True,
        "top_logprobs_num": 5,
    }


def prompts_of(reference: ReferenceModel, count: int, *, seed: int) -> list[tuple[int, ...]]:
    made = Prompts(reference.config, seed)
    return [made.make(4 + 5 * i, seed=i) for i in range(count)]


@pytest.mark.parametrize("number", range(6))
def test_engine_with_drafts_agrees_with_reference(subject: Subject, number: int) -> None:
    case = verification_cases(subject.reference.config, chunk=CHUNK)[number]
    result = judge(case.name, run_case(subject.drafting, case), subject.reference, dtype="float32")
    print(result)
    assert result.agrees, result


def drafts_of(subject: Subject, *, seed: int) -> tuple[list[Any], list[Any]]:
    """Return the engine's and the reference's counts for some requests: text, passes, right drafts."""
    prompts = prompts_of(subject.reference, 6, seed=seed)
    found = []
    for answer in answers(subject.drafting, [greedy(prompt) for prompt in prompts]):
        meta = answer["meta_info"]
        histogram = meta["spec_correct_drafts_histogram"]
        found.append((answer["output_ids"], meta["spec_verify_ct"], list(enumerate(histogram))))
    drafter = mtp_drafter(subject.reference, subject.layer, steps=STEPS)
    expected = []
    for prompt in prompts:
        run = decode_speculatively(
            subject.reference, prompt, drafter, steps=STEPS, max_new_tokens=NEW_TOKENS, stop_tokens=()
        )
        counted = Counter(run.accepted)
        expected.append((run.tokens, run.passes, [(n, counted[n]) for n in range(max(counted) + 1)]))
    return found, expected


def test_engine_drafts_what_the_reference_layer_drafts(subject: Subject) -> None:
    found, expected = drafts_of(subject, seed=1)
    assert found == expected
    accepted: Counter[int] = Counter()
    for _, _, histogram in found:
        accepted.update(dict(histogram))
    # Runs of every length were accepted.
    assert sorted(accepted) == [0, 1, 2, 3]
    assert min(accepted.values()) > 5, accepted


SCHEMA = json.dumps(
    {"type": "object", "properties": {"a": {"type": "string", "maxLength": 20}}, "required": ["a"]}
)
PARAMETERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "frequency penalty": {"frequency_penalty": 1.5},
    "presence penalty": {"presence_penalty": 2.0},
    "repetition penalty": {"repetition_penalty": 1.6},
    "several penalties": {
        "frequency_penalty": 0.7,
        "presence_penalty": 0.5,
        "min_new_tokens": 30,
        "ignore_eos": False,
    },
    "logit bias": {"logit_bias": {str(token): 4.0 for token in range(20, 60)}},
    "JSON schema": {"json_schema": SCHEMA, "ignore_eos": False},
    "JSON schema and penalty": {"json_schema": SCHEMA, "frequency_penalty": 1.0, "ignore_eos": False},
    # All drafts are outside of the grammar.
    "regular expression": {"regex": "[a-m]{2,25}[0-9]{3}", "ignore_eos": False},
}


def told(answer: Mapping[str, Any]) -> Any:
    """Return all that a client sees of an answer, except log-probabilities."""
    meta = answer["meta_info"]
    tokens = [token for _, token, _ in meta["output_token_logprobs"]]
    return answer["text"], answer["output_ids"], meta["finish_reason"], meta["completion_tokens"], tokens


def are_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """True if the answers are equal and their log-probabilities, of the five likeliest tokens, close."""
    if told(found) != told(expected):
        return False
    for mine, others in zip(*(top_of(answer) for answer in (found, expected)), strict=True):
        for token, logprob in mine.items():
            # Tokens outside of a grammar are listed in any order.
            if logprob > -20 and not math.isclose(logprob, others.get(token, 0.0), abs_tol=1e-4):
                return False
    return True


def top_of(answer: Mapping[str, Any]) -> list[dict[int, float]]:
    listed = answer["meta_info"]["output_top_logprobs"]
    return [{token: logprob for logprob, token, _ in entries} for entries in listed]


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert are_same(found, expected), (told(found), told(expected), top_of(found), top_of(expected))


def test_engine_with_drafts_answers_as_without(subject: Subject) -> None:
    """All kinds of requests in one batch, so that those with penalties are beside those without."""
    asked = [
        greedy(prompt, **parameters)
        for seed, parameters in enumerate(PARAMETERS.values())
        for prompt in prompts_of(subject.reference, 3, seed=10 + seed)
    ]
    expected, found = answers(subject.plain, asked), answers(subject.drafting, asked)
    names = [name for name in PARAMETERS for _ in range(3)]
    for name, mine, others in zip(names, found, expected, strict=True):
        print(name, mine["meta_info"].get("spec_correct_drafts_histogram"))
        assert_same(mine, others)
    # Compared where drafts are accepted.
    right: Counter[str] = Counter()
    for name, answer in zip(names, found, strict=True):
        right[name] += answer["meta_info"]["spec_num_correct_drafts"]
    assert all(right[name] for name in PARAMETERS), right


def test_engine_with_drafts_stops_inside_an_accepted_run(subject: Subject) -> None:
    prompts = prompts_of(subject.reference, 4, seed=30)
    whole = answers(subject.plain, [greedy(prompt) for prompt in prompts])
    asked = []
    for prompt, answer in zip(prompts, whole, strict=True):
        for place in range(6, 12):
            stop = answer["output_ids"][place]
            asked.append(greedy(prompt, stop_token_ids=[stop]))
            asked.append(greedy(prompt, stop_token_ids=[stop], min_new_tokens=place + 3))
            asked.append(greedy(prompt, stop=[answer["text"][place : place + 2]]))
    expected, found = answers(subject.plain, asked), answers(subject.drafting, asked)
    for mine, others in zip(found, expected, strict=True):
        assert_same(mine, others)


def test_engine_with_drafts_gives_each_choice_the_same_text(subject: Subject) -> None:
    (prompt,) = prompts_of(subject.reference, 1, seed=40)
    asked = greedy(prompt, n=3)
    (expected,), (found,) = answers(subject.plain, [asked]), answers(subject.drafting, [asked])
    assert len(found) == 3
    for mine, others in zip(found, expected, strict=True):
        assert_same(mine, others)


DRAWS = 400
# The engine draws anew in each run of the test. A right one exceeds this less than once in 10,000 runs.
LARGEST_DEVIATION = 6.5


@pytest.mark.parametrize("limits", [{}, {"top_k": 8, "top_p": 0.9, "min_p": 0.1}], ids=["whole", "limited"])
def test_engine_with_drafts_samples_as_the_reference_would(
    subject: Subject, limits: dict[str, float]
) -> None:
    (prompt,) = prompts_of(subject.reference, 1, seed=50)
    texts = draw(subject, prompt, limits)
    deviation = largest_deviation(subject.reference, prompt, texts, limits)
    print(limits, f"{deviation:.2f} standard deviations, {len(set(texts))} texts")
    assert deviation < LARGEST_DEVIATION


def draw(subject: Subject, prompt: Sequence[int], limits: Mapping[str, float]) -> list[tuple[int, ...]]:
    """Return texts of three tokens at temperature 1, the last two of which are drafted and verified."""
    parameters = {"temperature": 1.0, "max_new_tokens": 3, "ignore_eos": True, "n": DRAWS // 4, **limits}
    asked = [{"input_ids": list(prompt), "sampling_params": parameters} for _ in range(4)]
    drawn = [choice for choices in answers(subject.drafting, asked) for choice in choices]
    assert any(choice["meta_info"]["spec_num_correct_drafts"] for choice in drawn)
    return [tuple(choice["output_ids"]) for choice in drawn]


def largest_deviation(
    reference: ReferenceModel,
    prompt: Sequence[int],
    texts: Sequence[tuple[int, ...]],
    limits: Mapping[str, float],
) -> float:
    """Return the chi-square statistic of all texts' tokens after common beginnings, in standard deviations
    above its mean; infinity for a token that must not be drawn. Rare tokens count as one."""
    statistic, freedom = 0.0, 0
    for length in range(3):
        for beginning, count in Counter(text[:length] for text in texts).items():
            if count < 60:
                continue
            with torch.no_grad():
                logits = reference(torch.tensor([[*prompt, *beginning]]))[0, -1]
            expected = count * limited(torch.softmax(logits, dim=-1), **limits)
            seen = torch.zeros_like(expected)
            for text in texts:
                if text[:length] == beginning:
                    seen[text[length]] += 1
            if seen[expected == 0].any():
                return math.inf
            often = expected >= 5
            pairs = [(float(e), float(s)) for e, s in zip(expected[often], seen[often], strict=True)]
            rest = (float(expected[~often].sum()), float(seen[~often].sum()))
            pairs += [rest] if rest[0] >= 1 else []
            statistic += sum((s - e) ** 2 / e for e, s in pairs)
            freedom += len(pairs) - 1
    assert freedom >= 5, freedom
    return (statistic - freedom) / math.sqrt(2 * freedom)


def limited(
    probabilities: torch.Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> torch.Tensor:
    """Return the distribution that is left, by the definition of each limit in turn."""
    ordered = sorted(enumerate(probabilities.tolist()), key=lambda pair: -pair[1])
    left, before = torch.zeros_like(probabilities), 0.0
    for rank, (token, probability) in enumerate(ordered):
        if (top_k and rank >= top_k) or before > top_p or probability < min_p * ordered[0][1]:
            break
        left[token] = probability
        before += probability
    return left / left.sum()


@pytest.fixture
def mistake(subject: Subject) -> Iterator[Any]:
    def make(name: str) -> None:
        subject.mistake_file.write_text(name)

    yield make
    subject.mistake_file.write_text("none")


def test_engine_with_drafts_loads_weights_twice_without_change(subject: Subject) -> None:
    """Also clears the prefix cache."""
    answer = subject.drafting.post("/update_weights_from_disk", {"model_path": str(subject.checkpoint)})
    assert answer["success"], answer
    found, expected = drafts_of(subject, seed=1)
    assert found == expected


@pytest.mark.parametrize(("name", "seed"), [("ring shifted by one", 61), ("rejected token kept", 62)])
def test_comparison_detects_wrong_state(subject: Subject, mistake: Any, name: str, seed: int) -> None:
    mistake(name)
    asked = prompts_of(subject.reference, 4, seed=seed)
    found: list[Generation] = [generate(subject.drafting, p, max_new_tokens=NEW_TOKENS) for p in asked]
    result = judge(name, found, subject.reference, dtype="float32")
    print(result)
    assert not result.agrees
    assert result.difference.maximum > 50 * BOUNDS["float32"].value


@pytest.mark.parametrize(
    ("name", "seed"), [("draft without its own embedding", 63), ("latents of the target", 64)]
)
def test_counts_detect_wrong_draft(subject: Subject, mistake: Any, name: str, seed: int) -> None:
    mistake(name)
    found, expected = drafts_of(subject, seed=seed)
    # The text is right all the same.
    assert [text for text, *_ in found] == [text for text, *_ in expected]
    assert [counts for _, *counts in found] != [counts for _, *counts in expected]


@pytest.mark.parametrize("name", ["one accepted token counted", "penalties of the first token for all"])
def test_answers_detect_wrong_penalties(subject: Subject, mistake: Any, name: str) -> None:
    mistake(name)
    asked = [greedy(prompt, frequency_penalty=2.0) for prompt in prompts_of(subject.reference, 6, seed=65)]
    expected, found = answers(subject.plain, asked), answers(subject.drafting, asked)
    assert not all(are_same(*both) for both in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", ["most likely tokens alone", "no min-p"])
def test_samples_detect_wrong_distribution(subject: Subject, mistake: Any, name: str) -> None:
    mistake(name)
    (prompt,) = prompts_of(subject.reference, 1, seed=50)
    limits = {"min_p": 0.1} if name == "no min-p" else {}
    texts = draw(subject, prompt, limits)
    assert largest_deviation(subject.reference, prompt, texts, limits) > 3 * LARGEST_DEVIATION
