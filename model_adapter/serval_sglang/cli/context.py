"""Show what long prompts cost on given GPUs: KV cache, requests at once, seconds to the first token.

Also when retrieval is cheaper: an agent that searches instead of reading everything, as
server/examples/repository_agent.py does. "up to 9 questions": with ten about the same documents it is no
longer cheaper than having all of them in the prompt, if they stay in the cache.

Seconds are of an engine with no other request. They are predicted from data sheets (`serval plan`), unless
--rates gives measured costs of steps. Exit code 0: each length fits on some machine. 1: one fits on none.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, get_args

from serval_sglang.cli.arguments import positive_int
from serval_sglang.cli.run import run_command
from serval_sglang.cli.text import table
from serval_sglang.known_configs import LITE
from serval_sglang.plan import Deployment, Plan, PlanError, plan_deployment
from serval_sglang.plan.long_context import LENGTHS, LongPrompt, Work, long_prompts
from serval_sglang.plan.reserve import BatchLimits, default_batch_limits
from serval_sglang.plan.shard_sizes import TablePlacement, WeightDtype
from serval_sglang.plan.step_costs import StepCosts, estimated_costs, gpu_of, read_costs

_GIB = 1 << 30
_EXAMPLES = """\
examples:
  serval context                                                      five machines
  serval context --gpu-memory-gib 140.4 --dtype fp8                   one H200
  serval context --gpu-memory-gib 79.6 --gpus 4 --lengths 65536 200000
  serval context --gpu-memory-gib 140.4 --dtype fp8 --rates rates.json   with steps that were measured there
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs of one engine. `chunk`: tokens of a prefill chunk; None for SGLang's choice."""

    gpu_memory_gib: float
    gpus: int
    dtype: WeightDtype
    tables: TablePlacement = "device"
    chunk: int | None = None

    @property
    def name(self) -> str:
        """The machine as the table names it."""
        tables = {"device": "", "host": ", tables in host memory", "8bit": ", tables in 8 bit"}[self.tables]
        try:
            gpu = gpu_of(self.gpu_memory_gib).name
        except PlanError:
            gpu = f"{self.gpu_memory_gib:g} GiB"
        return f"{self.gpus} x {gpu}, {self.dtype}{tables}"


# Two H100 hold the bf16 weights only with smaller chunks than SGLang's.
MACHINES = (
    Machine(79.6, 2, "bf16", chunk=4096),
    Machine(79.6, 4, "bf16"),
    Machine(140.4, 1, "fp8"),
    Machine(140.4, 2, "bf16"),
    Machine(179.1, 1, "fp8"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    return run_command("serval context", lambda: _run(args, wrong_use=parser.error))


def _run(args: argparse.Namespace, *, wrong_use: Callable[[str], NoReturn]) -> int:
    machines: Sequence[Machine] = MACHINES
    if args.gpu_memory_gib is not None:
        machines = [
            Machine(args.gpu_memory_gib, args.gpus, args.dtype, args.tables, args.chunked_prefill_size)
        ]
    elif args.rates is not None:
        wrong_use("--rates needs --gpu-memory-gib, the GPU that was measured")
    longest = max(args.lengths)
    if longest > LITE.max_position_embeddings:
        wrong_use(f"the model's context is {LITE.max_position_embeddings:,} tokens, got {longest:,}")
    work = Work(**{field.name: getattr(args, field.name) for field in fields(Work)})
    try:
        rows = [(one, _prompts(one, work, args.lengths, args.rates)) for one in machines]
    except PlanError as error:
        wrong_use(str(error))
    source = "predicted from data sheets, not measured"
    if args.rates is not None:
        source = f"measured, {args.rates}; attention to a longer context costs nothing in that file"
    if args.json:
        print(json.dumps(as_json(rows, work, source=source)))
    else:
        print("\n".join(as_text(rows, work, source=source)))
    fit = {prompt.tokens for _, prompts in rows for prompt in prompts if prompt.at_once}
    return 0 if fit >= set(args.lengths) else 1


def _prompts(machine: Machine, work: Work, lengths: Sequence[int], rates: Path | None) -> list[LongPrompt]:
    found = []
    for tokens in lengths:
        plan = _plan(machine, context=tokens)
        costs: StepCosts = estimated_costs(plan) if rates is None else read_costs(rates).costs
        found += long_prompts(plan, costs, work, lengths=[tokens])
    return found


def _plan(machine: Machine, *, context: int) -> Plan:
    """Plan an engine for requests of `context` tokens, so that nothing is set aside for longer ones."""
    memory = round(machine.gpu_memory_gib * _GIB)
    limits = default_batch_limits(memory, tp=machine.gpus)
    return plan_deployment(
        Deployment(
            config=LITE,
            gpu_memory_bytes=memory,
            gpus=machine.gpus,
            tp=machine.gpus,
            ep=1,
            weight_dtype=machine.dtype,
            kv_dtype="bf16",
            tables=machine.tables,
            context_tokens=context,
            runtime_bytes=_GIB,
            limits=BatchLimits(machine.chunk or limits.chunked_prefill_size, limits.graph_max_batch),
        )
    )


def as_json(
    rows: Sequence[tuple[Machine, Sequence[LongPrompt]]], work: Work, *, source: str
) -> dict[str, Any]:
    """Return all figures; `questions` is null where retrieval is cheaper for any number."""
    return {
        "seconds": source,
        "work_tokens": asdict(work),
        "machines": [
            {
                "name": machine.name,
                "prompts": [
                    asdict(prompt)
                    | {"questions": prompt.questions if math.isfinite(prompt.questions) else None}
                    for prompt in prompts
                ],
            }
            for machine, prompts in rows
        ],
    }


_HEADER = (
    "GPUs", "prompt", "KV GiB", "at once", "first token, s", "ms a token", "question, s", "retrieved, s",
    "retrieval is cheaper",
)  # fmt: skip


def as_text(
    rows: Sequence[tuple[Machine, Sequence[LongPrompt]]], work: Work, *, source: str
) -> Iterator[str]:
    """Yield lines for a terminal."""
    yield f"seconds: {source}; one request at a time"
    yield (
        f"a question: {work.question:,} tokens, answer {work.answer:,}; retrieved: {work.calls} calls of "
        f"{work.call:,} tokens with {work.result:,} each, behind {work.beginning:,}\n"
    )
    cells: list[tuple[str, ...]] = [_HEADER]
    for machine, prompts in rows:
        cells += [_cells(machine, prompt, first=prompt is prompts[0]) for prompt in prompts]
    yield table(cells, left=frozenset({0, len(_HEADER) - 1}))


def _cells(machine: Machine, prompt: LongPrompt, *, first: bool) -> tuple[str, ...]:
    beginning = (machine.name if first else "", f"{prompt.tokens:,}", f"{prompt.kv_bytes / _GIB:.2f}")
    if not prompt.at_once:
        return (*beginning, "0", "-", "-", "-", "-", "does not fit")
    return (
        *beginning,
        f"{prompt.at_once:,}",
        f"{prompt.first_s:.1f}",
        f"{prompt.decode_s * 1e3:.1f}",
        f"{prompt.stuffed_s:.1f}",
        f"{prompt.retrieved_s:.1f}",
        _cheaper(prompt.questions),
    )


def _cheaper(questions: float) -> str:
    """Name the numbers of questions for which retrieval is cheaper: all below `questions`."""
    if not math.isfinite(questions):
        return "always"
    most = math.ceil(questions) - 1
    return "never" if most < 1 else f"up to {most:,} question{'s' if most > 1 else ''}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="serval context",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--gpu-memory-gib", type=float, metavar="GIB", help="memory of one GPU, as for `serval plan`")
    add("--gpus", type=positive_int, default=1, metavar="N", help="GPUs of one engine (default 1)")
    add("--dtype", choices=get_args(WeightDtype), default="bf16", help="of linear layers (default bf16)")
    add("--tables", choices=get_args(TablePlacement), default="device", help="where the n-gram tables are")
    add("--chunked-prefill-size", type=positive_int, metavar="TOKENS", help="(default: SGLang's for the GPU)")
    add(
        "--lengths",
        type=positive_int,
        nargs="+",
        default=list(LENGTHS),
        metavar="TOKENS",
        help=f"prompts (default {' '.join(map(str, LENGTHS))})",
    )
    add("--rates", type=Path, metavar="FILE", help="measured costs of steps, of `python -m serval_load fit`")
    add("--json", action="store_true", help="print JSON")
    asked = parser.add_argument_group("a question, in tokens")
    for name, of in (
        ("beginning", "of instructions and tools"),
        ("question", "of the question"),
        ("answer", "of the answer"),
        ("calls", "number of calls of a retrieval"),
        ("call", "of each call"),
        ("result", "that each call brings"),
    ):
        default = getattr(Work(), name)
        asked.add_argument(
            f"--{name}", type=positive_int, default=default, metavar="N", help=f"{of} (default {default:,})"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
