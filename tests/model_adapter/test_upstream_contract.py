"""Both halves of the pin: SGLang has the version the adapter was written for, and unchanged sources.

UPSTREAM.md lists every place. After a change of version this test names the rows to look at again.
"""

import re
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from torch import nn

from serval.engine.pair_url import pair_of
from serval.engine.protocol import Bootstrap, GenerateRequest
from serval.engine.request_body import generate_body
from serval_sglang.plugin.registration import SUPPORTED_SGLANG
from serval_testkit.upstream_source import find_source

REPOSITORY = Path(__file__).parents[2]
ADAPTER = REPOSITORY / "model_adapter"


class Touchpoint(NamedTuple):
    file: str
    name: str
    lines: str
    digest: str


def touchpoints() -> list[Touchpoint]:
    row = re.compile(
        r"\| `(?P<file>[\w/.]+\.py)` \| `(?P<name>[\w.]+)` \| (?P<lines>\d+-\d+) \| (?P<digest>\w+) \|"
    )
    found = row.finditer((ADAPTER / "UPSTREAM.md").read_text(encoding="utf-8"))
    return [Touchpoint(*match.groups()) for match in found]


def test_pin_is_the_same_version_everywhere() -> None:
    assert version("sglang") == SUPPORTED_SGLANG
    assert f"sglang=={SUPPORTED_SGLANG}" in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert f"SGLang {SUPPORTED_SGLANG}" in (ADAPTER / "UPSTREAM.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "touchpoint", touchpoints(), ids=lambda touchpoint: f"{touchpoint.file}:{touchpoint.name}"
)
def test_upstream_source_is_unchanged(touchpoint: Touchpoint) -> None:
    source = find_source("sglang", touchpoint.file, touchpoint.name)
    assert (touchpoint.lines, touchpoint.digest) == (source.lines, source.digest), (
        f"{touchpoint.name} has changed: read it, then write {source.lines} and {source.digest} into its row."
    )


def test_upstream_takes_what_the_gateway_sends_to_a_pair() -> None:
    io_struct = pytest.importorskip("sglang.srt.managers.io_struct", reason="needs SGLang")
    disagg = pytest.importorskip("sglang.srt.arg_groups.fields.disagg", reason="needs SGLang")
    meeting = Bootstrap(host="[::1]", port=pair_of("pd+http://p|http://d").bootstrap_port, room=(1 << 63) - 1)
    request = GenerateRequest(
        request_id="r", input_ids=[1], sampling={}, rank=1, bootstrap=meeting, prefill_rank=2
    )
    taken = io_struct.GenerateReqInput(**msgspec.json.decode(generate_body(request)))
    taken.normalize_batch_and_arguments()
    assert taken.bootstrap_host == meeting.host
    assert taken.bootstrap_port == meeting.port == disagg.Disagg().disaggregation_bootstrap_port
    assert taken.bootstrap_room == meeting.room
    assert (taken.routed_dp_rank, taken.disagg_prefill_dp_rank) == (1, 2)


def test_upstream_captures_no_prefill_graph_of_this_model() -> None:
    """SGLang finds no attention in a layer whose `self_attn` is a list, so it captures no prefill graph."""
    setup = pytest.importorskip(
        "sglang.srt.model_executor.model_runner_components.layer_setup", reason="needs SGLang"
    )
    attention = nn.Module()
    attention.attn_mqa = attention.attn_mha = nn.Identity()
    layer, model = nn.Module(), nn.Module()
    layer.self_attn = nn.ModuleList([attention, attention])
    model.layers = nn.ModuleList([layer])
    assert setup.compute_attention_and_moe_layers(model).attention_layers == [None]
    layer.self_attn = attention
    assert setup.compute_attention_and_moe_layers(model).attention_layers == [attention.attn_mqa]


def test_every_hook_has_row_in_upstream_md() -> None:
    """Every string that names an object in SGLang, for HookRegistry.register, has its module in the table."""
    targets = {
        target
        for module in ADAPTER.glob("serval_sglang/**/*.py")
        for target in re.findall(r'"(sglang\.srt\.[\w.]+)"', module.read_text(encoding="utf-8"))
    }
    assert len(targets) >= 4
    rows = [(t.file.removesuffix(".py").replace("/", "."), t.name) for t in touchpoints()]
    for target in targets:
        path = target.removeprefix("sglang.")
        assert any(f"{path}.".startswith(f"{module}.") for module, _ in rows), (
            f"{target} has no row in UPSTREAM.md"
        )
