"""SGLang's server with random weights, with or without the plugin. `serval_sglang.bench` starts it.

Usage: `python -m serval_sglang.bench.random_engine serval|built-in [SGLang's flags]`.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str]) -> None:
    """Run until a signal ends it."""
    from sglang.srt.entrypoints.http_server import launch_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_itself_when_parent_died, kill_process_tree

    kill_itself_when_parent_died()
    load_plugins()
    schedulers = {"serval": run_serval_scheduler, "built-in": run_builtin_scheduler}
    try:
        launch_server(
            prepare_server_args(list(arguments[1:])), run_scheduler_process_func=schedulers[arguments[0]]
        )
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def run_serval_scheduler(*arguments: Any, **named_arguments: Any) -> None:
    """Run a scheduler that ends if the model it has built is not Serval's."""
    from serval_sglang.readiness import run_checked_scheduler

    _register_random_weights()
    run_checked_scheduler(*arguments, **named_arguments)


def run_builtin_scheduler(*arguments: Any, **named_arguments: Any) -> None:
    """Run SGLang's own scheduler; the environment keeps the plugin out."""
    from sglang.srt.managers.scheduler import run_scheduler_process
    from sglang.srt.plugins.hook_registry import HookRegistry

    _register_random_weights()
    HookRegistry.apply_hooks()
    run_scheduler_process(*arguments, **named_arguments)


def _register_random_weights() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from serval_sglang.bench.random_weights import fill_randomly

    HookRegistry.register(
        "sglang.srt.model_loader.loader.initialize_dummy_weights", fill_randomly, HookType.REPLACE
    )


if __name__ == "__main__":
    main(sys.argv[1:])
