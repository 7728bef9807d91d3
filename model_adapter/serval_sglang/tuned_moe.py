"""Tuned launches of SGLang's Triton kernel for experts: the shipped files, and pointing SGLang to them.

SGLang finds a file by the shape of one rank's experts, the GPU's name, the dtype and Triton's version. With
SGLANG_MOE_CONFIG_DIR it looks nowhere else, so the variable is set only where there is something to find.
Imports neither torch nor SGLang.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from serval_sglang.config import ConfigError, LongcatConfig
from serval_sglang.options import EngineOptions

SHIPPED = Path(__file__).parent / "moe_configs"


class RankExperts(NamedTuple):
    """Routed experts on one rank, and the columns of each expert's inner dimension there."""

    experts: int
    width: int


def rank_experts(config: LongcatConfig, *, tp: int, ep: int) -> RankExperts:
    """Return what SGLang calls E and N: `ep` ranks divide whole experts, the others divide each expert."""
    return RankExperts(config.n_routed_experts // ep, config.expert_ffn_hidden_size // (tp // ep))


def version_folder(folder: Path, triton: str) -> Path:
    """Return the folder in which SGLang looks for files of that version of Triton."""
    return folder / "configs" / f"triton_{triton.replace('.', '_')}"


def moe_variables(options: EngineOptions, folder: Path = SHIPPED) -> dict[str, str]:
    """Return the variable that points SGLang to `folder`, if a file there suits the engine, else nothing."""
    try:
        config = LongcatConfig.from_json_file(options.model / "config.json")
        found = version_folder(folder, version("triton"))
    except (ConfigError, PackageNotFoundError):
        return {}  # the engine refuses such a file, and runs nowhere without Triton
    rank = rank_experts(config, tp=options.tp, ep=options.ep)
    if not any(found.glob(f"E={rank.experts},N={rank.width},device_name=*.json")):
        return {}
    return {"SGLANG_MOE_CONFIG_DIR": str(folder)}
