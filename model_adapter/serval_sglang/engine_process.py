"""The engine's main process: SGLang's HTTP server, with schedulers that prove which model they serve.

Started by serval_sglang.launch with SGLang's own command line. SGLang's processes import this module again,
so it imports nothing heavy itself.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from serval_sglang.drafts.refusals import reason_against_drafts
from serval_sglang.settings import engine_api_key

_UNCHECKED = "its schedulers would start unchecked"
_UNSUPPORTED: Mapping[str, str] = {
    "grpc_mode": _UNCHECKED,
    "smg_grpc_mode": _UNCHECKED,
    "encoder_only": _UNCHECKED,
    "use_ray": _UNCHECKED,
    "enable_eplb": "it moves experts by how often they are chosen, which this model's router does not "
    "report; share out the experts with --ep alone",
}


def require_supported(server_args: Any) -> None:
    """Raise SystemExit for a flag that this server or this model does not support."""
    for flag, why in _UNSUPPORTED.items():
        if getattr(server_args, flag):
            sys.exit(f"serval: --{flag.replace('_', '-')} is not supported: {why}. Leave it out.")
    reason = reason_against_drafts(server_args)
    if reason is not None:
        sys.exit(f"serval: {reason}. Leave it out.")


def require_one_tokenizer(server_args: Any) -> None:
    """Raise SystemExit if a key is set with several tokenizer processes, where SGLang checks no keys."""
    if server_args.api_key is not None and server_args.tokenizer_worker_num > 1:
        sys.exit(
            "serval: --tokenizer-worker-num is not supported with SERVAL_ENGINE_API_KEY: SGLang checks keys"
            " in one process only. Leave one of them out."
        )


def without_secrets(logged: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
    """Return the arguments that SGLang writes to its log, without the values of secrets."""
    secrets = {"api_key", "admin_api_key", "ssl_keyfile_password"}
    return {name: "***" if name in secrets and value is not None else value for name, value in logged.items()}


def hook_http_server() -> None:
    """Install the hooks of the metrics page and of the log."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from serval_sglang.metrics.page import keep_names

    target = "sglang.srt.entrypoints.http_server.add_prometheus_middleware"
    HookRegistry.register(target, keep_names, HookType.AFTER)
    target = "sglang.srt.entrypoints.engine._server_args_for_logging"
    HookRegistry.register(target, without_secrets, HookType.AFTER)
    HookRegistry.apply_hooks()


def main(arguments: Sequence[str]) -> None:
    """Run until a signal or a failed process ends it.

    Raises:
        SystemExit: the plugin is not in effect, or a flag asks for something that is not supported.
    """
    # The collector would scan thousands of new modules over and over, a tenth of the time, and find nothing.
    gc.disable()
    on_cpu = "--device=cpu" in arguments
    if on_cpu:
        from serval_sglang.cpu_compat.uncompiled import leave_functions_uncompiled

        leave_functions_uncompiled()
    from sglang.srt.plugins import load_plugins
    from sglang.srt.utils import kill_itself_when_parent_died, kill_process_tree

    from serval_sglang.plugin.registration import PluginNotInEffect, require_registered

    kill_itself_when_parent_died()
    load_plugins()
    try:
        require_registered()
    except PluginNotInEffect as error:
        sys.exit(f"serval: engine refused: {error}")

    from sglang.srt.entrypoints.http_server import launch_server
    from sglang.srt.server_args import prepare_server_args

    from serval_sglang.readiness import run_checked_scheduler
    from serval_sglang.warm_up import warm_up

    if on_cpu:
        from serval_sglang.cpu_compat.forked_processes import fork_processes

        fork_processes()
    gc.enable()
    key = engine_api_key()
    # Added here, because everyone on the machine may read a process's command line.
    server_args = prepare_server_args([*arguments, *([f"--api-key={key}"] if key else [])])
    require_supported(server_args)
    require_one_tokenizer(server_args)
    hook_http_server()
    try:
        launch_server(
            server_args, run_scheduler_process_func=run_checked_scheduler, execute_warmup_func=warm_up
        )
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main(sys.argv[1:])
