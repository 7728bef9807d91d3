"""`python -m serval_sglang.moe_tuning`: checks the command line, then tunes in an engine's environment."""

import subprocess
import sys

from serval_sglang.launch import engine_environment
from serval_sglang.moe_tuning.arguments import parser
from serval_sglang.options import DEMO_MODEL, EngineOptions
from serval_sglang.settings import available_cpus, inherited_environment


def main() -> int:
    """Return the exit code of the tuning."""
    made = parser()
    args = made.parse_args()
    if args.tp % args.ep:
        made.error(f"--ep must divide --tp, got --tp {args.tp} --ep {args.ep}")
    options = EngineOptions(model=args.model or DEMO_MODEL, device="cuda", tp=args.tp, ep=args.ep)
    environment = engine_environment(options, inherited_environment(), available_cpus())
    command = [sys.executable, "-P", "-m", "serval_sglang.moe_tuning.tune", *sys.argv[1:]]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
