"""Fork and join of two computations."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch

from serval_sglang.layers.side_stream import run_beside


class StandInStream:
    device = "cuda:0"

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def wait_stream(self, other: StandInStream) -> None:
        self.events.append(f"{self.name} waits for {other.name}")


def test_run_beside_without_stream_runs_branch_first() -> None:
    events: list[str] = []
    results = run_beside(None, lambda: events.append("branch"), lambda: events.append("trunk"))
    assert (results, events) == ((None, None), ["branch", "trunk"])


def test_run_beside_orders_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    main, side = StandInStream("main", events), StandInStream("side", events)
    current = [main]

    def on(stream: StandInStream) -> AbstractContextManager[None]:
        @contextmanager
        def entered() -> Any:
            current.append(stream)
            yield
            current.pop()

        return entered()

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)
    results = run_beside(
        side,  # type: ignore[arg-type]
        lambda: events.append(f"branch on {current[-1].name}") or 1,
        lambda: events.append(f"trunk on {current[-1].name}") or 2,
    )
    assert results == (1, 2)
    assert events == ["side waits for main", "branch on side", "trunk on main", "main waits for side"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_run_beside_is_captured_in_cuda_graph() -> None:
    stream, value = torch.cuda.Stream(), torch.ones(1 << 20, device="cuda")
    graph = torch.cuda.CUDAGraph()
    run_beside(stream, lambda: value * 2, lambda: value + 1)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        left, right = run_beside(stream, lambda: value * 2, lambda: value + 1)
        total = left + right
    value.fill_(5)
    graph.replay()
    torch.cuda.synchronize()
    assert (total == 16).all()
