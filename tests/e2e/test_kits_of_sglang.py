"""Test kits from SGLang's wheel (`sglang/test/kits`) against the gateway in front of the real engine.

A kit is a class of unittest methods for a server at `base_url`. Those below ask through OpenAI's API, or
through a method of their own that can be overridden to do so. A method that does not apply is None here,
beside the reason. The other kits do not apply:

- abort_timeout_kit: `/abort_request`, time limits of `/generate`; the gateway's clients abort by leaving
- anthropic_messages_kit: Anthropic's API, which the gateway does not offer
- basic_scheduler_stress_kit: knowledge that the demo model lacks, SGLang's frames, 20,000 tokens of prompt
- cache_hit_kit: `/generate` by token ids; test_conversation_cache.py checks cached tokens through the gateway
- dsa_metadata_kit: sparse attention of another model, on a GPU
- ebnf_constrained_kit: grammars in EBNF, for which OpenAI's API has no field
- eval_accuracy_kit: scores in public benchmarks, for which the demo model is too small
- fwd_occupancy_kit: occupancy of a GPU
- kl_divergence_kit: `/generate` by token ids; `serval checkpoint verify` compares log-probabilities
- lm_eval_kit: public benchmarks, as eval_accuracy_kit
- mmmu_vlm_kit: images
- pause_generation_kit: `/pause_generation`, which belongs to the operator of the engine
- pd_parity_kit: prefill and decode in two engines
- perf_bench_kit: bounds on speed, which tests do not have here
- prefix_cache_branching_kit: `/generate`, and a cache that keeps whole chunks
- radix_cache_server_kit: `/generate` by token ids, as cache_hit_kit
- reasoning_kit: a model that reasons, SGLang's fields `separate_reasoning` and `usage.reasoning_tokens`
- spec_decoding_kit: speculative decoding
- spec_server_kits: speculative decoding; its request for JSON is that of json_mode_kit
- streaming_session_kit: `/open_session`
- unified_radix_cache_kit: `/generate` by token ids, and a public benchmark
- vlm_perf_kit: images
"""

import json
import re
import unittest
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import openai
import pytest
import requests

KITS = Path(str(distribution("sglang").locate_file("sglang/test/kits")))


def load(name: str) -> ModuleType:
    """Import a kit from its file alone: its package would import torch and the engine."""
    spec = spec_from_file_location(name, KITS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    kit = module_from_spec(spec)
    spec.loader.exec_module(kit)
    return kit


api_contract = load("basic_api_contract_kit")
decode_correctness = load("basic_decode_correctness_kit")
json_constrained = load("json_constrained_kit")
json_mode = load("json_mode_kit")
matched_stop = load("matched_stop_kit")
regex_constrained = load("regex_constrained_kit")
LOADED = (
    api_contract,
    decode_correctness,
    json_constrained,
    json_mode,
    matched_stop,
    regex_constrained,
)


@pytest.fixture(scope="module")
def gateway(server: Any) -> Iterator[SimpleNamespace]:
    """The server, and clients that send its key, in place of those that the kits use."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {server.api_key}"
    client = openai.OpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=120)
    with pytest.MonkeyPatch.context() as patch:
        for kit in LOADED:
            if hasattr(kit, "requests"):
                patch.setattr(kit, "requests", session)
        patch.setattr(json_constrained, "openai", SimpleNamespace(Client=lambda **_: client))
        model = client.models.list().data[0].id
        yield SimpleNamespace(url=server.root_url, session=session, client=client, model=model)


@pytest.mark.engine
class Kit(unittest.TestCase):
    """Attributes that kits read, and requests for methods of theirs that would use SGLang's own API."""

    @pytest.fixture(autouse=True)
    def _use_gateway(self, gateway: SimpleNamespace) -> None:
        self.base_url, self.session, self.client = gateway.url, gateway.session, gateway.client
        self.model = self.served_model_name = gateway.model

    def post(self, path: str, **body: Any) -> Any:
        response = self.session.post(
            f"{self.base_url}{path}", json={"model": self.model, **body}, timeout=120
        )
        assert response.status_code == 200, response.text
        return response.json()

    def prefer_braces(self) -> dict[str, int]:
        """Bias without which the demo model might not end its JSON; the grammar puts braces in order."""
        braces = [self.post("/tokenize", prompt=brace)["tokens"] for brace in "{}"]
        return {str(token): 100 for (token,) in braces}

    def complete(self, prompt: str, max_tokens: int, stop: Sequence[str] | None = None) -> str:
        asked = {"prompt": prompt, "max_tokens": max_tokens, "stop": stop, "temperature": 0}
        text = self.post("/v1/completions", **asked)["choices"][0]["text"]
        assert isinstance(text, str)
        return text

    def answers_with(self, schema: Any, prompt: str, *, n: int = 1) -> list[Any]:
        """Ask for `n` answers that the schema allows, and return them parsed."""
        named = {"name": "x", "schema": schema, "strict": True}
        answer = self.post(
            "/v1/chat/completions",
            messages=[{"role": "user", "content": prompt}],
            response_format={"type": "json_schema", "json_schema": named},
            logit_bias=self.prefer_braces(),
            max_tokens=128,
            temperature=0 if n == 1 else 0.5,
            n=n,
        )
        return [json.loads(choice["message"]["content"]) for choice in answer["choices"]]


class TestApiContract(Kit, api_contract.BasicAPIContractMixin):
    # SGLang's own endpoints; the gateway has /healthz, /readyz and /v1/models.
    test_health = test_health_generate = test_get_server_info = test_get_model_info = None


class TestDecodeCorrectness(Kit, decode_correctness.BasicDecodeCorrectnessMixin):
    # Knowledge that the demo model does not have.
    test_capital_france = test_basic_math = test_color_completion = None

    def _decode_generate(self, prompt: str, max_new_tokens: int, stop: Sequence[str] | None = None) -> str:
        return self.complete(prompt, max_new_tokens, stop)


class TestJsonMode(Kit, json_mode.JSONModeMixin):
    def setUp(self) -> None:
        create = partial(self.client.chat.completions.create, logit_bias=self.prefer_braces())
        self.client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))


class TestJsonConstrained(Kit, json_constrained.JSONConstrainedMixin):
    def _run_decode_json(self, json_schema: str | None, **_: Any) -> None:
        prompt = f"Introduce the capital of France. The JSON Schema is: {json_schema}"
        if json_schema is None:
            assert self.complete(prompt, 16)
        elif json_schema == "INVALID":
            with pytest.raises(AssertionError, match="invalid_request_error"):
                self.answers_with(json_schema, prompt)
        else:
            (answer,) = self.answers_with(json.loads(json_schema), prompt)
            assert isinstance(answer["name"], str)
            assert isinstance(answer["population"], int)


class TestRegexConstrained(Kit, regex_constrained.RegexConstrainedMixin):
    # Quotes inside a string of JSON, which grammars of patterns do not write.
    test_regex_generate_complex_json = None
    # A loop that the demo model does not leave.
    test_regex_generate_custom_log_format = None

    def _run_decode_regex(self, regex: str, prompt: str, *, n: int) -> None:
        schema = {
            "type": "object",
            "properties": {"value": {"type": "string", "pattern": regex}},
            "required": ["value"],
            "additionalProperties": False,
        }
        answers = self.answers_with(schema, prompt, n=n)
        assert len(answers) == n
        for answer in answers:
            assert re.fullmatch(regex.removeprefix("^").removesuffix("$"), answer["value"])


class TestMatchedStop(Kit, matched_stop.MatchedStopMixin):
    """Finish reasons, of a question whose answer has several lines and an end.

    SGLang's answers also name the string or token that ended them; OpenAI's have no field for it.
    """

    # OpenAI's API has no `stop_regex`.
    test_finish_stop_regex_str = None
    MESSAGES = ({"role": "user", "content": "Write a haiku."},)

    def _run_completions_generation(self, **asked: Any) -> None:
        prompt = self.post("/tokenize", messages=self.MESSAGES)["tokens"]
        answer = self.post("/v1/completions", prompt=prompt, **self._fields(**asked))
        self._check(answer["choices"][0], answer["choices"][0]["text"], **asked)

    def _run_chat_completions_generation(self, **asked: Any) -> None:
        answer = self.post("/v1/chat/completions", messages=self.MESSAGES, **self._fields(**asked))
        self._check(answer["choices"][0], answer["choices"][0]["message"]["content"], **asked)

    def _fields(self, *, max_tokens: int, stop: str | None = None, **_: Any) -> dict[str, Any]:
        return {"max_tokens": max_tokens, "stop": stop, "temperature": 0}

    def _check(
        self, choice: dict[str, Any], text: str, *, finish_reason: str, stop: str | None = None, **_: Any
    ) -> None:
        assert choice["finish_reason"] == finish_reason
        lines = text.splitlines()
        assert len(lines) == (3 if finish_reason == "stop" and stop is None else 1)


def test_every_kit_is_used_or_named() -> None:
    """A kit that a new SGLang brings is to be read."""
    named = re.findall(r"^- (\w+): ", __doc__ or "", re.MULTILINE)
    used = [kit.__name__ for kit in LOADED]
    assert sorted(named + used) == sorted(path.stem for path in KITS.glob("*_kit*.py"))
