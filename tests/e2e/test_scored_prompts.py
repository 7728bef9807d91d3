"""Log-probabilities of a prompt on the real engine, in the requests of lm-eval's `local-completions`."""

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.engine

CONTEXT = "What is Serval?"


@pytest.fixture(scope="module")
def http(server: Any) -> Any:
    headers = {"authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.root_url, headers=headers, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def model(http: Any) -> str:
    return str(http.get("/v1/models").json()["data"][0]["id"])


def complete(http: Any, **body: Any) -> Any:
    response = http.post("/v1/completions", json={"temperature": 0, "seed": 1234, **body})
    assert response.status_code == 200, response.text
    return response.json()


def tokens_of(http: Any, model: str, text: str) -> list[int]:
    ids: list[int] = http.post("/tokenize", json={"model": model, "prompt": text}).json()["tokens"]
    return ids


def test_scores_of_a_prompt_are_those_of_writing_it(http: Any, model: str) -> None:
    """The continuation that the model writes greedily gets the same scores as a part of a prompt."""
    question = {"model": model, "messages": [{"role": "user", "content": CONTEXT}]}
    context = http.post("/tokenize", json=question).json()["tokens"]
    written = complete(http, model=model, prompt=context, max_tokens=6, logprobs=1)["choices"][0]
    whole = context + tokens_of(http, model, written["text"])
    # A list of prompts, as for a batch; one ends in another token.
    prompts = [whole, [*whole[:-1], whole[0]]]
    answer = complete(http, model=model, prompt=prompts, max_tokens=1, logprobs=1, echo=True)
    likely, unlikely = (choice["logprobs"] for choice in answer["choices"])
    scores = likely["token_logprobs"][len(context) : -1]
    tops = likely["top_logprobs"][len(context) : -1]
    assert scores == pytest.approx(written["logprobs"]["token_logprobs"], abs=1e-3)
    assert all(score == max(top.values()) for score, top in zip(scores, tops, strict=True))
    assert sum(unlikely["token_logprobs"][len(context) : -1]) < sum(scores)
    assert likely["token_logprobs"][0] is likely["top_logprobs"][0] is None


@pytest.mark.parametrize("new", [0, 1])
def test_scored_tokens_are_the_text(http: Any, model: str, new: int) -> None:
    body = {"model": model, "prompt": CONTEXT, "max_tokens": new, "logprobs": 1, "echo": True}
    # The demo model goes on with a control token, which the text leaves out otherwise.
    answer = complete(http, **body, skip_special_tokens=False)
    (choice,) = answer["choices"]
    tokens, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
    assert choice["text"].startswith(CONTEXT)
    assert "".join(tokens) == choice["text"]
    assert offsets == [len("".join(tokens[:place])) for place in range(len(tokens))]
    assert len(tokens) == answer["usage"]["prompt_tokens"] + new
    assert answer["usage"]["completion_tokens"] == new


def test_ignore_eos_and_min_tokens_give_the_tokens_asked_for(http: Any, model: str) -> None:
    """Benchmarks count on them: their figures are wrong without a word if an answer ends early."""
    messages = [{"role": "user", "content": "Hello"}]
    for fields in ({"ignore_eos": True}, {"min_tokens": 64}):
        body = {"model": model, "messages": messages, "max_tokens": 64, "temperature": 0, **fields}
        answer = http.post("/v1/chat/completions", json=body).json()
        assert answer["usage"]["completion_tokens"] == 64, fields
        assert answer["choices"][0]["finish_reason"] == "length"
