"""Serve the engine stand-in: SGLang's protocol without a model.

By default it models batches, memory and a queue, with the times in `fitted.json`. `--bare` sends
prepared frames as fast as possible, or at a pace.
"""

import argparse
from dataclasses import replace

import uvloop

from serval_load.programs import DEMO_MODEL
from serval_load.stand_in.bare import BareEngine
from serval_load.stand_in.costs import read_costs
from serval_load.stand_in.modelled import ModelledEngine
from serval_load.stand_in.routes import EngineInfo
from serval_load.stand_in.serving import StandIn, serve

_EXAMPLE = """
example:
  python -m serval_load engine --bare --pace 0.02 --port 30000
"""


_SIZES = (
    "kv_tokens",
    "max_running",
    "max_waiting",
    "decode_base_s",
    "decode_request_s",
    "prefill_base_s",
    "prefill_token_s",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("--port", type=int, default=30000, help="port on 127.0.0.1; 0 picks a free one (default 30000)")
    add("--host", default="127.0.0.1", help="address of the loopback interface (default 127.0.0.1)")
    add(
        "--drain-every-s",
        type=float,
        default=0.0,
        help="after SIGTERM, end when its requests have, and look so often (default 0: end at once)",
    )
    add("--bare", action="store_true", help="prepared frames instead of the model of batching and memory")
    add(
        "--pace",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="with --bare: between two tokens of a stream",
    )
    add("--kv-tokens", type=int, help="tokens the cache holds, prompts and answers together (default 65536)")
    add("--max-running", type=int, help="most requests in a batch (default 256)")
    add("--max-waiting", type=int, help="most requests that wait; more are refused (default 100000)")
    add("--decode-base-s", type=float, help="seconds of a decode step (default: fitted)")
    add("--decode-request-s", type=float, help="seconds more for each request in it (default: fitted)")
    add("--prefill-base-s", type=float, help="seconds of a prefill step (default: fitted)")
    add("--prefill-token-s", type=float, help="seconds more for each new token in it (default: fitted)")
    add("--context-length", type=int, default=262_144, help="tokens of prompt and answer (default 262144)")


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    costs = read_costs()
    given = {name: getattr(args, name) for name in _SIZES if getattr(args, name) is not None}
    costs = replace(costs, **given)
    info = EngineInfo(
        model_path=str(DEMO_MODEL),
        context_length=args.context_length,
        max_total_num_tokens=costs.kv_tokens,
        max_running_requests=costs.max_running,
        # A stand-in that measures a gateway must not be what limits it.
        tells_max_running=not args.bare,
    )
    engine: StandIn = ModelledEngine(info, costs)
    if args.bare:
        engine = BareEngine(info, pace_s=args.pace)
    serving = serve(engine, info, host=args.host, port=args.port, drain_every_s=args.drain_every_s)
    return 0 if uvloop.run(serving) or not args.drain_every_s else 1
