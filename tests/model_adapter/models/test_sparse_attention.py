"""The model with sparse attention: what SGLang is shown of it, and where it does not start."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

model = pytest.importorskip("serval_sglang.models.longcat_flash", reason="needs SGLang")
from sglang.srt.configs.model_config import is_deepseek_dsa  # noqa: E402

from serval_sglang.config import LongcatConfig  # noqa: E402
from serval_sglang.known_configs import TINY_SPARSE  # noqa: E402
from serval_sglang.plugin.sglang_config import LongcatFlashConfig  # noqa: E402


def test_sglang_is_shown_plain_attention() -> None:
    config = LongcatFlashConfig.from_dict(TINY_SPARSE.to_dict())
    config.architectures = ["LongcatFlashForCausalLM"]  # as SGLang renames it
    assert not is_deepseek_dsa(config)
    config.index_topk = 48
    assert is_deepseek_dsa(config), "the name by which SGLang knows its own sparse attention has changed"
    assert LongcatConfig.from_dict(config.serval_config) == TINY_SPARSE
    assert (config.ngram_embedding_n, config.ngram_embedding_k) == (4, 4)


def add_indexers(monkeypatch: pytest.MonkeyPatch, *, cpu: bool, dimensions: LongcatConfig) -> Any:
    monkeypatch.setattr(model, "is_cpu", lambda: cpu)
    args = SimpleNamespace(
        enable_dp_attention=True,
        enable_hierarchical_cache=False,
        disaggregation_mode="null",
        speculative_algorithm=None,
    )
    monkeypatch.setattr(model, "get_server_args", lambda: args)
    instance = SimpleNamespace(dimensions=dimensions)
    model.LongcatFlashForCausalLM._add_indexers(instance, SimpleNamespace(rope_scaling=None))


def test_model_refuses_sparse_attention_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no engine on a GPU serves LongCat-Flash-Lite-Sparse yet, .*\.$"):
        add_indexers(monkeypatch, cpu=False, dimensions=TINY_SPARSE)


def test_model_refuses_flags_that_sparse_attention_does_not_go_with(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--enable-dp-attention: not supported .*\. Leave it out\.$"):
        add_indexers(monkeypatch, cpu=True, dimensions=TINY_SPARSE)


def test_model_without_sparse_attention_has_no_indexers(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = replace(TINY_SPARSE, sparse_attention=None)
    add_indexers(monkeypatch, cpu=False, dimensions=dense)
