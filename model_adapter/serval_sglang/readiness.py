"""A scheduler process that reports readiness only if it has loaded Serval's model.

It runs in every rank, on every node, whether or not SGLang's plugin loader has found the plugin.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

_PROOF = "serval"


class ReadinessGate:
    """Replaces the pipe on which a scheduler reports to its parent: checks each report and passes it on."""

    def __init__(self, pipe_writer: Any) -> None:
        self._pipe_writer = pipe_writer

    def send(self, init_info: dict[str, Any]) -> None:
        """Send the report. Raises SystemExit if it does not prove that the plugin is in effect; SGLang lets
        that exception through."""
        from serval_sglang.plugin.registration import PluginNotInEffect, require_proof

        try:
            require_proof(init_info.get(_PROOF))
        except PluginNotInEffect as error:
            sys.exit(f"serval: engine refused: {error}")
        self._pipe_writer.send({key: value for key, value in init_info.items() if key != _PROOF})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe_writer, name)


def run_checked_scheduler(*arguments: Any, **named_arguments: Any) -> None:
    """Run SGLang's run_scheduler_process, with a check before the weights are loaded and one after.

    Raises:
        SystemExit: the plugin is not in effect in this process.
    """
    from sglang.srt.managers.scheduler import run_scheduler_process
    from sglang.srt.plugins import load_plugins
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from serval_sglang.plugin.registration import PluginNotInEffect, require_registered

    load_plugins()
    try:
        require_registered()
    except PluginNotInEffect as error:
        sys.exit(f"serval: engine refused: {error}")
    HookRegistry.register("sglang.srt.managers.scheduler.Scheduler.get_init_info", _add_proof, HookType.AFTER)
    HookRegistry.apply_hooks()
    call = inspect.signature(run_scheduler_process).bind(*arguments, **named_arguments)
    call.arguments["pipe_writer"] = ReadinessGate(call.arguments["pipe_writer"])
    run_scheduler_process(*call.args, **call.kwargs)


def _add_proof(init_info: dict[str, Any], scheduler: Any) -> dict[str, Any]:
    from serval_sglang.plugin.registration import proof_of_effect

    return {**init_info, _PROOF: proof_of_effect(scheduler)}
