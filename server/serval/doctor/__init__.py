"""Checks of `serval doctor`: each reports in one line if a part meets the needs of gateway and engine."""

from collections.abc import Iterator

from serval.doctor.finding import Finding, State
from serval.doctor.gateway import (
    engine,
    identity_provider,
    key_database,
    keys,
    limits,
    model_folder,
    port,
    variables,
)
from serval.doctor.gpus import cuda_compiler, find_gpus, flashinfer, gpu
from serval.doctor.packages import plugin, python, sglang
from serval.engine.protocol import EngineInfo
from serval.settings import Settings, child_environment

__all__ = ["Finding", "State", "findings"]


def findings(settings: Settings, *, with_engine: bool) -> Iterator[Finding]:
    """Run all checks, one after the other. `with_engine`: the engine should be running."""
    yield python()
    yield sglang()
    yield plugin()
    gpus = find_gpus()
    yield gpu(gpus)
    yield flashinfer(gpus)
    yield cuda_compiler(gpus, child_environment())
    yield variables()
    # A gateway that runs with its engine holds its port.
    yield port(settings, in_use="warning" if with_engine else "failed")
    yield keys(settings)
    yield key_database(settings)
    yield limits(settings)
    yield identity_provider(settings)
    info: EngineInfo | None = None
    if with_engine:
        finding, info = engine(settings)
        yield finding
    yield model_folder(settings, info)
