"""The registry of models: its data is of models that exist, and the code takes the differences from there."""

import math
from pathlib import Path

import pytest
import torch

from serval_sglang.checkpoint import random_state_dict
from serval_sglang.checkpoint.layout import mtp_tensor_shapes, tensor_shapes
from serval_sglang.config import FLASH_ARCHITECTURE, NGRAM_ARCHITECTURE, ConfigError, LongcatConfig
from serval_sglang.known_configs import FLASH, LITE, TINY_FLASH
from serval_sglang.plan.step_costs import active_parameters
from serval_sglang.reference import ReferenceModel
from serval_sglang.siblings import ARCHITECTURES, BY_NAME, SIBLINGS, Sibling
from serval_testkit.repository import ROOT

FLASH_FILE = {
    "architectures": ["LongcatFlashForCausalLM"],
    "model_type": "longcat_flash",
    "vocab_size": 131072,
    "hidden_size": 6144,
    "ffn_hidden_size": 12288,
    "expert_ffn_hidden_size": 2048,
    "num_layers": 28,
    "num_attention_heads": 64,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 512,
    "zero_expert_num": 256,
    "moe_topk": 12,
    "max_position_embeddings": 131072,
    "rope_theta": 10000000.0,
}


def parameters(config: LongcatConfig) -> int:
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


def test_siblings_have_names_of_their_own() -> None:
    assert len(BY_NAME) == len(SIBLINGS) == len({sibling.repository for sibling in SIBLINGS})


@pytest.mark.parametrize("sibling", SIBLINGS, ids=lambda sibling: sibling.name)
def test_sibling_fits_its_architecture(sibling: Sibling) -> None:
    tiny = ARCHITECTURES[sibling.config.architecture].tiny
    assert tiny.architecture == sibling.config.architecture
    assert (tiny.rope_scaling is None) == (sibling.config.rope_scaling is None)
    assert LongcatConfig.from_dict(sibling.config.to_dict()) == sibling.config
    assert sibling.context_tokens <= sibling.config.max_position_embeddings


def test_page_has_a_row_of_every_sibling() -> None:
    page = (ROOT / "model_adapter/SIBLINGS.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| `")}
    for sibling in SIBLINGS:
        row = rows[f"`{sibling.name}`"]
        assert sibling.repository in row
        assert f"{sibling.context_tokens:,}" in row
        assert f"{round(parameters(sibling.config) / 1e9, 1):g} B" in row
        assert f"| {sibling.weights} |" in row
        assert f"`{sibling.config.architecture}`" in row


def test_flash_has_published_size() -> None:
    """Figures of the technical report (arXiv:2509.01322): 560 B parameters, of which 27 B are active on
    average, the output head included, if eight of twelve choices are real experts."""
    config = LongcatConfig.from_dict(FLASH_FILE)
    assert config == FLASH
    assert not config.has_ngrams
    assert parameters(config) == pytest.approx(560e9, rel=5e-3)
    head = config.vocab_size * config.hidden_size
    assert active_parameters(config) + head == pytest.approx(27e9, rel=0.03)


def test_config_without_ngrams_writes_none_of_their_fields() -> None:
    written = FLASH.to_dict()
    assert written["architectures"] == [FLASH_ARCHITECTURE]
    assert not [name for name in written if "ngram" in name or name.startswith("emb_")]
    assert not [name for name in tensor_shapes(FLASH) if "ngram" in name]
    assert len(mtp_tensor_shapes(FLASH)) == 17


@pytest.mark.parametrize(
    ("architecture", "dropped"),
    [
        (NGRAM_ARCHITECTURE, ["ngram_vocab_size_ratio", "emb_neighbor_num", "emb_split_num"]),
        (FLASH_ARCHITECTURE, ["emb_neighbor_num"]),
    ],
    ids=["Lite without n-grams", "n-grams in part"],
)
def test_config_of_lite_cannot_lose_its_ngrams(architecture: str, dropped: list[str]) -> None:
    source = {name: value for name, value in LITE.to_dict().items() if name not in dropped}
    with pytest.raises(ConfigError, match="emb_neighbor_num"):
        LongcatConfig.from_dict({**source, "architectures": [architecture]})


@torch.no_grad()
def test_reference_without_ngrams_embeds_words_alone() -> None:
    weights = random_state_dict(TINY_FLASH, seed=1)
    model = ReferenceModel(TINY_FLASH)
    model.load_state_dict(weights)
    tokens = torch.tensor([[5, 2, 9, 9]])
    embedded = model.model.embed(tokens, dtype=torch.float32)
    assert torch.equal(embedded, weights["model.embed_tokens.weight"][tokens])


def test_page_is_linked_from_the_pages_that_start_a_server() -> None:
    for page in ("README.md", "model_adapter/SERVING.md"):
        assert "SIBLINGS.md" in (ROOT / Path(page)).read_text()
