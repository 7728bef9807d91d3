"""Start the engine on a checkpoint and compare its log-probabilities with the reference model's.

Generated prompts cover the n-gram state and the batch scheduler: lengths around the look-back and around a
chunk, ends of sequence in the window, cached prefixes, chunks that end anywhere, 16 requests at once, decode;
with --enable-mixed-chunk also decode steps within prefill batches, and on a GPU with
--enable-hierarchical-cache prefixes that come back from the host's memory.
Exit code 0: they agree, in float32 within 2e-3 at most, in bfloat16 within 0.02 in the mean. 1: they do not,
or the engine failed. Flags after -- go to SGLang as they are. In float32 the engine runs on the CPU, whatever
GPUs there are: SGLang's kernels for GPUs compute in 16 bits.

The reference holds the whole model in host memory and computes it on the CPU: meant for small checkpoints.
On a GPU, SGLang rounds the inputs of FP8 layers to FP8 too, which alone moves the log-probabilities of a
small random checkpoint by 0.035 in the mean: --mean-bound 0.06 allows for it.
Positions that follow a tie between two experts of the router, or between two tokens of sparse attention's
indexer, are left out in float32 and counted.

With --mtp-steps the engine drafts by the checkpoint's multi-token-prediction layer. All cases are the same,
and the numbers of verify passes and of right drafts are compared with the reference's as well: in float32
they must be equal, request by request.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from serval_sglang.checkpoint.files import CONFIG_FILE, load_config
from serval_sglang.checkpoint.quantization import layout_of, read_quantization
from serval_sglang.cli.arguments import positive_int
from serval_sglang.cli.checkpoint.arguments import add_directory
from serval_sglang.cli.text import table
from serval_sglang.cuda_driver import visible_gpus
from serval_sglang.options import add_mtp_steps, flag_value, uses_host_cache, without_host_cache

if TYPE_CHECKING:
    from serval_sglang.verify.comparison import Disagreement
    from serval_sglang.verify.drafts import DraftComparison
    from serval_sglang.verify.engine import Device, DType
    from serval_sglang.verify.verification import Verification

_EXAMPLE = """\
example:
  serval checkpoint tiny ./tiny --dtype float32
  serval checkpoint verify ./tiny --tp 2 --ep 2 -- --chunked-prefill-size 3
  serval checkpoint tiny ./drafting --dtype float32 --mtp
  serval checkpoint verify ./drafting --mtp-steps 3
"""

_CHUNK_FLAG = "--chunked-prefill-size"
_MIXED_FLAG = "--enable-mixed-chunk"
_DEFAULT_CHUNK = 64
# A KV cache that the prompts of a few requests fill, so that HiCache moves prefixes to the host's memory.
_KV_FLAG = "--max-total-tokens"
_KV_TOKENS_WITH_HOST_CACHE = 4096
_START_TIMEOUT_S = 3600.0
_ON_CPU = " on the CPU, because SGLang computes no float32 on GPUs"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; flags after `--` arrive as `engine_flags`."""
    parser.epilog = _EXAMPLE
    parser.set_defaults(wrong_use=parser.error)
    parser.usage = "%(prog)s [-h] [options] DIR [-- SGLANG_FLAG ...]"
    add_directory(parser)
    add = parser.add_argument
    add("--tp", type=positive_int, default=1, metavar="N", help="tensor-parallel ranks (default 1)")
    add("--ep", type=positive_int, default=1, metavar="N", help="of these, ranks that share out the experts")
    add_mtp_steps(parser)
    add("--device", choices=("cpu", "cuda"), help="default: cuda if there is a GPU, else cpu; float32: cpu")
    add("--dtype", choices=("float32", "bfloat16"), help="of the engine (default: the checkpoint's own)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the prompts (default 0)")
    add("--mean-bound", type=float, metavar="X", help="in bfloat16, instead of 0.02 (FP8 on a GPU: 0.06)")
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Start the engine, compare, and stop it; return 0 if it agrees with the reference."""
    config = load_config(args.directory)
    source = json.loads((args.directory / CONFIG_FILE).read_text(encoding="utf-8"))
    dtype = _dtype(args.dtype, source)
    if args.tp % args.ep:
        args.wrong_use(f"--ep must divide --tp, got --tp {args.tp} --ep {args.ep}")
    device = _device(args, dtype)
    chunk = _chunk(args)
    is_quantised = _is_quantised(source)
    if args.mean_bound is not None and dtype == "float32":
        args.wrong_use("--mean-bound is for bfloat16: in float32 the largest difference is bounded")
    # torch, which takes seconds to import, is imported only after the arguments have been checked.
    import torch

    from serval_sglang.checkpoint.io import load_mtp_layer, load_reference
    from serval_sglang.verify.cases import verification_cases
    from serval_sglang.verify.drafts import compare_drafts
    from serval_sglang.verify.engine import EngineFailed, running_engine
    from serval_sglang.verify.verification import Bound, verify_engine

    bound = None if args.mean_bound is None else Bound("mean", args.mean_bound)
    report = _Progress()
    mixed = _MIXED_FLAG in args.engine_flags
    flags, kv_tokens, not_run = _host_cache(args, device)
    cases = verification_cases(config, chunk=chunk, mixed=mixed, restored_from=kv_tokens, seed=args.seed)
    report("loading the reference")
    # The engine rounds weights to its dtype, so the reference does too. Dequantised weights are finer than
    # bfloat16 and stay in float32.
    held = torch.float32 if is_quantised else getattr(torch, dtype)
    reference = load_reference(args.directory, dtype=held)
    layer = load_mtp_layer(args.directory, dtype=held) if args.mtp_steps else None
    report(f"starting the engine{_ON_CPU if dtype == 'float32' else ''}")
    try:
        with (
            _stop_on_sigterm(),
            running_engine(
                args.directory,
                dtype=dtype,
                tp=args.tp,
                ep=args.ep,
                device=device,
                mtp_steps=args.mtp_steps,
                extra_flags=[f"{_CHUNK_FLAG}={_DEFAULT_CHUNK}", *flags],
                start_timeout_s=_START_TIMEOUT_S,
            ) as engine,
        ):
            found = verify_engine(engine, reference, cases, dtype=dtype, progress=report, bound=bound)
            drafts = None
            if layer is not None:
                report("drafts")
                drafts = compare_drafts(engine, reference, layer, steps=args.mtp_steps, seed=args.seed)
            report("stopping the engine")
    except EngineFailed as error:
        print(f"serval checkpoint verify: error: {error}", file=sys.stderr)
        return 1
    if args.json:
        measured = as_json(found, drafts, dtype=dtype, tp=args.tp, ep=args.ep)
        print(json.dumps({**measured, "not_run": not_run}))
    else:
        print("\n".join(as_text(found, drafts, dtype=dtype)))
        for name, reason in not_run.items():
            print(f"not run: {name}: {reason}")
    return 0 if verdict(found, drafts, dtype=dtype) else 1


def verdict(found: Verification, drafts: DraftComparison | None, *, dtype: DType) -> bool:
    """Return the verdict. In bfloat16 rounding decides between drafts as between experts."""
    return found.agrees and (drafts is None or dtype != "float32" or drafts.agrees)


def as_json(
    found: Verification, drafts: DraftComparison | None = None, *, dtype: DType, tp: int, ep: int
) -> dict[str, Any]:
    """Return all measurements and the verdict."""
    return {
        "agrees": verdict(found, drafts, dtype=dtype),
        "dtype": dtype,
        "tp": tp,
        "ep": ep,
        "bound": asdict(found.bound),
        "total": asdict(found.total),
        "cases": [asdict(case) for case in found.cases],
        "drafts": None if drafts is None else asdict(drafts),
    }


def as_text(found: Verification, drafts: DraftComparison | None = None, *, dtype: DType) -> Iterator[str]:
    """Yield the table, a line on drafts, and a line with the verdict."""
    rows = [("case", "requests", "positions", "ties", "maximum", "mean", "KL", "first other token", "")]
    results = [(c.name, c.requests, c.difference, c.agrees) for c in found.cases]
    results.append(("all", sum(case.requests for case in found.cases), found.total, found.agrees))
    for name, requests, got, agrees in results:
        # Requests are numbered within their case.
        place = _place(got.first_disagreement) if name != "all" else ""
        numbers = (
            f"{got.positions:,}",
            str(got.ties),
            f"{got.maximum:.2g}",
            f"{got.mean:.2g}",
            f"{got.kl:.2g}",
        )
        rows.append((name, str(requests), *numbers, place, "" if agrees else "<- too far"))
    yield table(rows, left=frozenset({0, 7, 8}))
    yield ""
    if drafts is not None:
        yield (
            f"drafts: {drafts.right} right in {drafts.passes} verify passes, and {drafts.reference_right} in "
            f"{drafts.reference_passes} of the reference; of {drafts.requests} requests, "
            f"{drafts.other_drafts} differ and {drafts.other_texts} have another text"
        )
    statistic, bound = found.bound.statistic, found.bound.value
    value = getattr(found.total, statistic)
    said = "agrees" if verdict(found, drafts, dtype=dtype) else "DISAGREES"
    yield f"{dtype} {said}: {statistic} |difference of log-probability| {value:.2g}, bound {bound:g}"


def _place(disagreement: Disagreement | None) -> str:
    if disagreement is None:
        return "none"
    return f"request {disagreement.request}, position {disagreement.position}"


def _dtype(given: DType | None, source: dict[str, Any]) -> DType:
    if given is not None:
        return given
    return "float32" if source.get("torch_dtype", source.get("dtype")) == "float32" else "bfloat16"


def _device(args: argparse.Namespace, dtype: DType) -> Device | None:
    """Return the engine's device; None selects a GPU if there is one.

    On a GPU FlashAttention 3 takes no float32, and the experts' kernel computes it in float16
    (sglang/srt/layers/moe/moe_runner/triton_utils/fused_moe.py, `_fused_moe_kernel_sequence`).
    """
    given: Device | None = args.device
    if dtype != "float32":
        return given
    if given == "cuda":
        args.wrong_use("--device cuda needs --dtype bfloat16: SGLang computes no float32 on GPUs")
    return "cpu"


def _host_cache(
    args: argparse.Namespace, device: Device | None
) -> tuple[list[str], int | None, dict[str, str]]:
    """Return the engine's flags, the tokens of its KV cache if HiCache is compared, and the reason by the
    name of its case if it is not."""
    from serval_sglang.verify.cases import RESTORED_PREFIXES

    flags: list[str] = args.engine_flags
    if not uses_host_cache(flags):
        return flags, None, {RESTORED_PREFIXES: "needs a GPU, and -- --enable-hierarchical-cache"}
    if device == "cpu" or (device is None and not visible_gpus()):
        reason = "SGLang starts no HiCache on a CPU; use a GPU and --dtype bfloat16"
        return without_host_cache(flags), None, {RESTORED_PREFIXES: reason}
    flags = [f"{_KV_FLAG}={_KV_TOKENS_WITH_HOST_CACHE}", *flags]
    given = flag_value(flags, _KV_FLAG) or ""
    if not given.isdecimal():
        args.wrong_use(f"{_KV_FLAG} must be a number of tokens, got {given!r}")
    return flags, int(given), {}


def _is_quantised(source: dict[str, Any]) -> bool:
    """Raise `ValueError` if the reference cannot read the checkpoint's quantisation."""
    quantization = read_quantization(source)
    if quantization is not None and quantization.method != "fp8" and layout_of(quantization.method) is None:
        raise ValueError(
            f"the checkpoint is quantised by {quantization.method!r}, which the reference cannot read: it "
            "takes float32, bfloat16, block-wise FP8, and what compressed-tensors or GPTQ have packed."
        )
    return quantization is not None


def _chunk(args: argparse.Namespace) -> int | None:
    """Return the chunk size in the engine's flags, the last one if there are several, or None."""
    flags: list[str] = args.engine_flags
    text = str(_DEFAULT_CHUNK)
    for flag, following in zip(flags, [*flags[1:], ""], strict=False):
        name, _, value = flag.partition("=")
        if name == _CHUNK_FLAG:
            text = value or following
    if not text.removeprefix("-").isdecimal():
        args.wrong_use(f"{_CHUNK_FLAG} must be a number of tokens, got {text!r}")
    # SGLang treats a value that is not positive as "no chunks".
    return int(text) if int(text) > 0 else None


@contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that the engine is stopped first."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Progress:
    """Reports progress on standard error, with the seconds since the start."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()

    def __call__(self, doing: str) -> None:
        print(f"{time.monotonic() - self._started_s:6.1f} s  {doing}", file=sys.stderr, flush=True)
