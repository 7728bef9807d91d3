"""Loading by Transformers' `Auto` classes: the right classes, no code from a checkpoint, clear refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from serval_sglang.config import ConfigError
from serval_sglang.options import DEMO_MODEL
from serval_sglang.transformers import (
    LongcatFlashNgramConfig,
    LongcatFlashNgramForCausalLM,
    LongcatFlashNgramModel,
)
from serval_sglang.transformers.registration import register

# As in Meituan's folder, which names code of its own for all three.
AUTO_MAP = {
    "AutoConfig": "remote.LongcatFlashNgramConfig",
    "AutoModel": "remote.LongcatFlashNgramModel",
    "AutoModelForCausalLM": "remote.LongcatFlashNgramForCausalLM",
}


@pytest.fixture
def with_code(folder: Path, tmp_path: Path) -> Path:
    """The checkpoint with code, which would leave a file if it were run."""
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    change_config(copy, auto_map=AUTO_MAP)
    (copy / "remote.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nraise SystemExit\n")
    return copy


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("trust_remote_code", [None, False, True])
def test_auto_classes_run_no_code_of_a_checkpoint(
    with_code: Path, tmp_path: Path, trust_remote_code: bool | None
) -> None:
    for auto, expected in (
        (AutoConfig, LongcatFlashNgramConfig),
        (AutoModel, LongcatFlashNgramModel),
        (AutoModelForCausalLM, LongcatFlashNgramForCausalLM),
    ):
        assert type(auto.from_pretrained(with_code, trust_remote_code=trust_remote_code)) is expected
    AutoTokenizer.from_pretrained(with_code, trust_remote_code=trust_remote_code)
    assert not (tmp_path / "was-run").exists()


def test_auto_classes_read_a_re_saved_copy(folder: Path, model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "longcat_flash_ngram"
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(
            AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits, model(tokens).logits
        )


def test_tokenizer_renders_the_demo_models_template() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    messages = [{"role": "user", "content": "Hello"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )


def test_other_models_configurations_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["LongcatFlashForCausalLM"], "model_type": "longcat_flash"})
    )
    assert PreTrainedConfig.get_config_dict(tmp_path)[0]["model_type"] == "longcat_flash"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"norm_topk_prob": True}, "norm_topk_prob must be False"),
        ({"mla_scale_kv_lora": False}, "mla_scale_kv_lora must be true"),
        ({"hidden_size": 65}, "hidden_size must be divisible"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'yarn' or 'deepseek_yarn'"),
        ({"serval_ngram_table_dtype": "int8"}, "for Serval's engine only"),
        ({"full_word_embedding": True}, "for Serval's engine only"),
    ],
)
def test_model_that_would_be_computed_wrongly_is_refused(
    with_code: Path, changes: dict[str, Any], named: str
) -> None:
    change_config(with_code, **changes)
    with pytest.raises(ConfigError, match=named):
        AutoConfig.from_pretrained(with_code)


def test_registering_twice_changes_nothing() -> None:
    read = PreTrainedConfig.get_config_dict
    register()
    assert PreTrainedConfig.get_config_dict == read


def test_experts_are_converted_as_those_of_longcat_flash() -> None:
    ours, theirs = map(get_checkpoint_conversion_mapping, ("longcat_flash_ngram", "longcat_flash"))
    assert [each.target_patterns for each in ours] == [each.target_patterns for each in theirs]
    assert any("gate_up_proj" in str(each.target_patterns) for each in ours)
