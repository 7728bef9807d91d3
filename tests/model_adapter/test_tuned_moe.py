"""Pointing SGLang to tuned launches: only where a file suits the engine."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from serval_sglang.known_configs import LITE
from serval_sglang.launch import engine_environment
from serval_sglang.options import EngineOptions
from serval_sglang.tuned_moe import SHIPPED, moe_variables, rank_experts, version_folder

VARIABLE = "SGLANG_MOE_CONFIG_DIR"


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(LITE.to_dict()))
    return EngineOptions(model=model, device="cuda", tp=2, ep=2)


def tuned(folder: Path, name: str, triton: str | None = None) -> Path:
    file = version_folder(folder, triton or version("triton")) / name
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("tp", "ep", "expected"),
    [(1, 1, (256, 1024)), (2, 2, (128, 1024)), (4, 1, (256, 256)), (8, 2, (128, 256))],
)
def test_rank_experts_divides_experts_or_their_columns(tp: int, ep: int, expected: tuple[int, int]) -> None:
    assert rank_experts(LITE, tp=tp, ep=ep) == expected


def test_moe_variables_name_folder_with_file_for_these_experts(
    options: EngineOptions, tmp_path: Path
) -> None:
    folder = tuned(tmp_path / "tuned", "E=128,N=1024,device_name=NVIDIA_H100_80GB_HBM3.json")
    assert moe_variables(options, folder) == {VARIABLE: str(folder)}


@pytest.mark.parametrize(
    ("name", "triton"),
    [
        ("E=256,N=1024,device_name=NVIDIA_H200.json", None),  # the experts of an engine on one GPU
        ("E=128,N=1024,device_name=NVIDIA_H100_80GB_HBM3.json", "3.6.0"),
    ],
)
def test_moe_variables_leave_sglang_its_own_files_otherwise(
    options: EngineOptions, tmp_path: Path, name: str, triton: str | None
) -> None:
    assert moe_variables(options, tuned(tmp_path / "tuned", name, triton)) == {}
    assert moe_variables(options, tmp_path / "absent") == {}


def test_moe_variables_tolerate_unreadable_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert moe_variables(EngineOptions(model=tmp_path, device="cuda"), tmp_path) == {}


def test_engine_environment_names_shipped_files_on_gpu_only(
    options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval_sglang.launch.moe_variables", lambda _: {VARIABLE: "shipped"})
    assert engine_environment(options, {}, range(2))[VARIABLE] == "shipped"
    assert engine_environment(options, {VARIABLE: "operator's"}, range(2))[VARIABLE] == "operator's"
    on_cpu = EngineOptions(model=options.model, device="cpu")
    assert VARIABLE not in engine_environment(on_cpu, {}, range(2))


def test_shipped_folder_holds_only_files_that_sglang_reads() -> None:
    for file in SHIPPED.rglob("*.json"):
        assert file.parent.parent == SHIPPED / "configs"
        launches = json.loads(file.read_text())
        assert all(int(tokens) > 0 and "BLOCK_SIZE_M" in launch for tokens, launch in launches.items())
