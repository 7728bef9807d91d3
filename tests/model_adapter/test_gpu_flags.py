"""Flags of SGLang for a GPU, by checkpoint and by the operator's own flags."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from serval_sglang.config import LongcatConfig
from serval_sglang.demo import checkpoint_directory
from serval_sglang.known_configs import LITE, TINY, TINY_FP8
from serval_sglang.launch import EngineOptions, sglang_arguments

DEMO = LongcatConfig.from_json_file(checkpoint_directory() / "config.json")
TRITON = "--attention-backend=triton"


@pytest.fixture
def arguments(tmp_path: Path) -> "Arguments":
    return Arguments(tmp_path)


class Arguments:
    """Writes a checkpoint's config.json and returns SGLang's command line for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, config: LongcatConfig, *flags: str, device: str = "cuda") -> Sequence[str]:
        (self._folder / "config.json").write_text(json.dumps(config.to_dict()))
        return sglang_arguments(EngineOptions(model=self._folder, device=device, sglang_flags=flags))  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [DEMO, TINY, TINY_FP8], ids=["demo", "tiny", "tiny_fp8"])
def test_gpu_flags_choose_triton_for_small_attention(arguments: Arguments, config: LongcatConfig) -> None:
    assert TRITON in arguments(config)


def test_gpu_flags_leave_backend_of_lite_to_sglang(arguments: Arguments) -> None:
    assert not any("attention-backend" in argument for argument in arguments(LITE))


@pytest.mark.parametrize(
    "flags",
    [
        ["--attention-backend", "flashinfer"],
        ["--attention-backend=flashinfer"],
        ["--decode-attention-backend", "flashmla"],
        ["--prefill-attention-backend=fa4"],
    ],
    ids=" ".join,
)
def test_gpu_flags_respect_operators_backend(arguments: Arguments, flags: list[str]) -> None:
    found = arguments(DEMO, *flags)
    assert TRITON not in found
    assert list(found[-len(flags) :]) == flags


def test_gpu_flags_do_not_reach_a_cpu_engine(arguments: Arguments) -> None:
    found = arguments(DEMO, device="cpu")
    assert TRITON not in found
    assert not any("cuda-graph" in argument for argument in found)


def test_gpu_flags_disable_prefill_graphs_before_operators_flags(
    arguments: Arguments,
) -> None:
    found = list(arguments(LITE, "--cuda-graph-backend-prefill=full"))
    assert found.index("--cuda-graph-backend-prefill=disabled") < found.index(
        "--cuda-graph-backend-prefill=full"
    )


def test_gpu_flags_tolerate_unreadable_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert TRITON not in sglang_arguments(EngineOptions(model=tmp_path, device="cuda"))


def test_gpu_flags_are_flags_of_sglang(arguments: Arguments) -> None:
    server_args = pytest.importorskip("sglang.srt.server_args", reason="needs SGLang")
    parser = argparse.ArgumentParser()
    server_args.ServerArgs.add_cli_args(parser)
    given = parser.parse_args(list(arguments(TINY)))
    assert (given.attention_backend, given.cuda_graph_backend_prefill) == ("triton", "disabled")
