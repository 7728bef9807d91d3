"""Flags of SGLang for a GPU, by checkpoint and by the operator's own flags."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from serval_sglang.config import LongcatConfig
from serval_sglang.demo import checkpoint_directory
from serval_sglang.gpu_flags import host_tables_environment
from serval_sglang.known_configs import LITE, TINY, TINY_FP8
from serval_sglang.launch import EngineOptions, sglang_arguments

DEMO = LongcatConfig.from_json_file(checkpoint_directory() / "config.json")
TRITON = "--attention-backend=triton"
EXACT = "pinned_max_round_threshold_mb:1024"
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


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


@pytest.mark.parametrize(
    ("inherited", "expected"),
    [
        ({}, {"PYTORCH_ALLOC_CONF": EXACT}),
        (
            {"PYTORCH_ALLOC_CONF": "expandable_segments:True"},
            {"PYTORCH_ALLOC_CONF": f"expandable_segments:True,{EXACT}"},
        ),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
            {"PYTORCH_CUDA_ALLOC_CONF": f"expandable_segments:True,{EXACT}"},
        ),
        ({"PYTORCH_ALLOC_CONF": "pinned_max_round_threshold_mb:1"}, {}),
    ],
    ids=["unset", "set", "set by the old name", "set to this"],
)
def test_host_tables_environment_adds_to_operators_allocator_settings(
    inherited: dict[str, str], expected: dict[str, str]
) -> None:
    found = host_tables_environment({**inherited, "SGLANG_NUMA_BIND_V2": "1"})
    assert found == expected


# Prints torch's settings in each of the given environments. torch reads them once, when it is first asked.
_SETTINGS = """
import json, os, sys, torch
for environment in json.loads(sys.argv[1]):
    if os.fork() == 0:
        os.environ.update(environment)
        print(torch._C._accelerator_getAllocatorSettings(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_host_tables_environment_is_read_by_torch() -> None:
    """torch checks settings without a GPU too, and tells what it has read."""
    new, old = (
        {name: f"garbage_collection_threshold:0.{n}"} for n, name in enumerate(ALLOCATOR_VARIABLES, 7)
    )
    given: list[dict[str, str]] = [{}, new, old, {**old, **new}]
    environments = [{**inherited, **host_tables_environment(inherited)} for inherited in given]
    clean = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SETTINGS, json.dumps(environments)],
        env=clean, capture_output=True, text=True, check=True,
    )  # fmt: skip
    operators = ["", *new.values(), *old.values(), *old.values()]
    assert done.stdout.split() == [",".join(filter(None, [own, EXACT])) for own in operators]


def test_torch_refuses_unknown_allocator_settings() -> None:
    with pytest.raises(ValueError, match="Unrecognized key 'pinned_max_round_treshold_mb'"):
        torch._C._accelerator_setAllocatorSettings("pinned_max_round_treshold_mb:1024")


def test_gpu_flags_tolerate_unreadable_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert TRITON not in sglang_arguments(EngineOptions(model=tmp_path, device="cuda"))


def test_gpu_flags_are_flags_of_sglang(arguments: Arguments) -> None:
    server_args = pytest.importorskip("sglang.srt.server_args", reason="needs SGLang")
    parser = argparse.ArgumentParser()
    server_args.ServerArgs.add_cli_args(parser)
    given = parser.parse_args(list(arguments(TINY)))
    assert (given.attention_backend, given.cuda_graph_backend_prefill) == ("triton", "disabled")
