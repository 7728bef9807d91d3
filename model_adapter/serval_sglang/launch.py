"""``serval engine``, run as ``python -m serval_sglang.launch``. Its options are in `serval_sglang.options`.

Sets the environment, assembles SGLang's command line (flags after ``--`` come last and win), and supervises
the engine process. Exits with 0 after SIGTERM or SIGINT, with 1 if the engine could not start or has failed,
and with 2 on a usage error. With ``--check`` it only finds mistakes that would end the start.
"""

from __future__ import annotations

import argparse
import hashlib
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from serval_sglang.checkpoint.manifest import MANIFEST_FILE
from serval_sglang.cpu_compat import environment as cpu
from serval_sglang.cuda_driver import visible_gpus
from serval_sglang.cuda_toolkit import CompilersMissing, compiler_environment
from serval_sglang.gpu_flags import gpu_flags, host_tables_environment
from serval_sglang.kernel_cache import add_prebuilt_kernels, sglang_cache
from serval_sglang.machine_part import cpus_of, gpus_of
from serval_sglang.options import (
    RUNNING_REQUESTS_WITH_DRAFTS,
    EngineOptions,
    ModelFolderError,
    configure,
    engine_options,
    ranks,
)
from serval_sglang.preflight import find_mistakes
from serval_sglang.settings import (
    allowed_untested,
    available_cpus,
    inherited_environment,
    model_settings,
    model_variables,
    prebuilt_kernels,
)
from serval_sglang.supervision import supervise
from serval_sglang.tuned_moe import moe_variables

# Polled by the gateway, by probes and by Prometheus: their lines would bury the others in the log.
_UNLOGGED_PATHS = ("/v1/loads", "/ready", "/health", "/metrics", "/server_info")

# Has the multi-token-prediction layer run only where `serval_sglang.drafts.adaptive_steps` asks for it.
SKIP_LAYER = "SGLANG_SPEC_SKIP_ZERO_STEP_DRAFT_EXTEND"

_EXAMPLE = """\
example:
  serval engine --model /models/LongCat-Flash-Lite --tp 2 --ep 2 --port 30000 -- --mem-fraction-static 0.9
"""


def sglang_arguments(options: EngineOptions) -> list[str]:
    """Return SGLang's command line for ``options``."""
    flags = [
        f"--model-path={options.model}",
        f"--host={options.host}",
        f"--port={options.port}",
        f"--device={options.device}",
        f"--tp-size={options.tp}",
        f"--ep-size={options.ep}",
        "--incremental-streaming-output",
        "--enable-metrics",
        "--enable-cache-report",
        "--uvicorn-access-log-exclude-prefixes",
        *_UNLOGGED_PATHS,
    ]
    if options.served_model_name is not None:
        flags.append(f"--served-model-name={options.served_model_name}")
    flags.extend(weight_version(options.model))
    flags.extend(draft_flags(options))
    if options.device == "cpu":
        flags.extend(cpu.FLAGS)
    else:
        flags.extend(gpu_flags(options.model, options.sglang_flags))
    return [*flags, *options.sglang_flags]


def weight_version(model: Path) -> list[str]:
    """Return SGLang's flag for the name of the weights: the SHA-256 of the manifest beside them, if any.

    It names the checkpoint, and proves nothing: `serval checkpoint verify-hash` compares the files.
    """
    manifest = model / MANIFEST_FILE
    if not manifest.is_file():
        return []
    return [f"--weight-version=sha256:{hashlib.sha256(manifest.read_bytes()).hexdigest()}"]


def draft_flags(options: EngineOptions) -> list[str]:
    """Return SGLang's flags for drafts by the model's own layer: chains of `mtp_steps` tokens."""
    if options.mtp_steps == 0:
        return []
    return [
        "--speculative-algorithm=NEXTN",
        f"--speculative-draft-model-path={options.model}",
        f"--speculative-num-steps={options.mtp_steps}",
        "--speculative-eagle-topk=1",
        f"--speculative-num-draft-tokens={options.mtp_steps + 1}",
        f"--max-running-requests={RUNNING_REQUESTS_WITH_DRAFTS}",
        *([] if options.mtp_fixed else adaptive_flags(options.mtp_steps)),
    ]


def adaptive_flags(mtp_steps: int) -> list[str]:
    """Return SGLang's flags for steps that are chosen batch by batch."""
    # SGLang names these steps in a file, by batch size; ours are the same for all.
    steps = Path(__file__).parent / "drafts" / "candidate_steps" / f"{mtp_steps}.json"
    return ["--speculative-adaptive", f"--speculative-adaptive-config={steps}"]


def engine_environment(
    options: EngineOptions, inherited: dict[str, str], cpus: Sequence[int]
) -> dict[str, str]:
    """Return the environment of the engine process.

    Raises:
        ValueError: one of the adapter's variables, or --dp-size, has an invalid value.
        CompilersMissing: an engine on a GPU would find no compilers.
    """
    # With an external package SGLang does not import its two hundred models, which saves seconds in each
    # process. The plugin does not depend on it, and refuses another package that provides this model.
    environment = {"SGLANG_EXTERNAL_MODEL_PACKAGE": "serval_sglang.models", **inherited}
    if options.mtp_steps and not options.mtp_fixed:
        environment.setdefault(SKIP_LAYER, "1")
    environment |= model_variables(
        ngram_tables=options.ngram_tables,
        moe_overlap_tokens=options.moe_overlap_tokens,
        grammar_drafts=None if options.grammar_drafts else False,
    )
    part = options.machine_part
    if options.device == "cpu":
        cpus = cpus if part is None else cpus_of(part, cpus)
        environment |= cpu.cpu_environment(inherited, ranks=ranks(options), cpus=cpus)
    else:
        environment = moe_variables(options) | environment | compiler_environment(inherited)
        if part is not None:
            visible = inherited.get("CUDA_VISIBLE_DEVICES")
            environment["CUDA_VISIBLE_DEVICES"] = gpus_of(part, ranks(options), visible)
        if model_settings(environment).ngram_tables == "host":
            environment |= host_tables_environment(inherited)
    return environment


def parse_options(arguments: Sequence[str]) -> EngineOptions:
    """Parse the command line. Raises SystemExit: 2 on a usage error, 1 if there is no such checkpoint."""
    return _parse(arguments)[0]


def _parse(arguments: Sequence[str]) -> tuple[EngineOptions, bool]:
    """Parse the command line into options, and whether to check only."""
    parser = argparse.ArgumentParser(
        prog="serval engine",
        description="start the SGLang engine with Serval's model adapter",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="find mistakes, start nothing, and exit")
    configure(parser)
    args = parser.parse_args(arguments)
    if args.tp % args.ep:
        parser.error(f"--ep must divide --tp, got --tp {args.tp} --ep {args.ep}")
    try:
        options = engine_options(args, host=args.host, port=args.port)
    except ModelFolderError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    if options.device is None:
        options = replace(options, device="cuda" if visible_gpus() else "cpu")
    if options.allow_untested is None:
        try:
            options = replace(options, allow_untested=allowed_untested(inherited_environment()))
        except ValueError as error:
            parser.error(str(error))
    return options, args.check


def main(arguments: Sequence[str] | None = None) -> int:
    options, is_check = _parse(sys.argv[1:] if arguments is None else arguments)
    _require_free_port(options.host, options.port)
    try:
        environment = engine_environment(options, inherited_environment(), available_cpus())
        tables_on_host = model_settings(environment).ngram_tables == "host"
    except ValueError as error:
        _refuse(str(error))
    except CompilersMissing as error:
        _refuse(f"no engine on a GPU: {error}. Without them, --device cpu serves the demo model.")
    mistakes = find_mistakes(options, tables_on_host=tables_on_host)
    if mistakes:
        _refuse(f"{options.model} cannot be served: {'; '.join(mistakes)}")
    if is_check:
        return 0
    if options.device == "cuda":
        _use_prebuilt_kernels(environment)
    # -P, which SGLang's processes inherit, keeps the working directory off the import path: a stray file
    # there would shadow a module.
    command = [sys.executable, "-P", "-m", "serval_sglang.engine_process", *sglang_arguments(options)]
    return supervise(command, environment)


def _refuse(reason: str) -> NoReturn:
    sys.exit(f"serval engine: error: {reason}")


def _use_prebuilt_kernels(environment: Mapping[str, str]) -> None:
    prebuilt = prebuilt_kernels(environment)
    if prebuilt is None or not prebuilt.is_dir():
        return
    try:
        add_prebuilt_kernels(prebuilt, sglang_cache(environment))
    except OSError as error:
        print(f"serval: kernels will be compiled again: {prebuilt} was not copied: {error}", file=sys.stderr)


def _require_free_port(host: str, port: int) -> None:
    """Raise SystemExit if the port cannot be bound. SGLang binds it after loading the model, or hangs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            _refuse(f"cannot listen on {host}:{port}: {error.strerror}. Choose another --host or --port.")


if __name__ == "__main__":
    sys.exit(main())
