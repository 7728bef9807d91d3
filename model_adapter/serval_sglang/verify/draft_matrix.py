"""Compare the answers of engines with 0, 1, 2 and 3 draft steps with each other and with the reference.

One engine after another is started for each way to split the model (TPxEP), each chunk size (`R` behind it:
SGLang retracts requests every third step) and each number of steps, in float32 on the CPU. Each answers all
cases of `serval checkpoint verify`. For each engine a line is printed as soon as it is known:

- same text: answers that are, token for token, those of the engine without drafts
- from reference, from no drafts: largest difference of a log-probability, of the 20 likeliest tokens
- right drafts: those of some requests of 40 tokens, and verify passes; of the engine, and of the reference

Exit code 0: all texts are the same, all log-probabilities within 2e-3 of the reference, and drafts equal the
reference's, request by request. 1: not so, or an engine failed.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from torch import Tensor

from serval_sglang.checkpoint.io import load_mtp_layer, load_reference
from serval_sglang.reference import ReferenceModel
from serval_sglang.reference.model import ReferenceOutput
from serval_sglang.reference.mtp import MtpLayer
from serval_sglang.verify.cases import run_case, verification_cases
from serval_sglang.verify.comparison import merged
from serval_sglang.verify.drafts import DraftComparison, compare_drafts
from serval_sglang.verify.engine import Engine, EngineFailed, Generation, running_engine
from serval_sglang.verify.verification import BOUNDS, judge

_EXAMPLE = """\
example:
  serval checkpoint tiny ./drafting --dtype float32 --right-drafts
  python -m serval_sglang.verify.draft_matrix ./drafting
"""
_RETRACTED = "sglang:num_retracted_requests_total"
_HEAD = (
    f"{'split':>5}  {'chunk':>5}  {'steps':>5}  {'same text':>9}  {'from reference':>14}  "
    f"{'from no drafts':>14}  right drafts"
)


@dataclass(frozen=True, slots=True)
class Setup:
    """Split of the model, tokens of a chunk, and retraction: alike for engines that are compared."""

    tp: int
    ep: int
    chunk: int
    retracts: bool


@dataclass(frozen=True, slots=True)
class Row:
    """Result of one engine; differences are of log-probabilities, in nats."""

    setup: Setup
    steps: int
    requests: int
    same_texts: int
    from_reference: float
    from_no_drafts: float
    drafts: DraftComparison | None
    agrees: bool
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each engine; return the exit code."""
    args = parser().parse_args(arguments)
    reference, layer = load_reference(args.directory), load_mtp_layer(args.directory)
    remember_outputs(reference)
    setups = [
        Setup(*split, *chunk) for split, chunk in product(map(_split, args.splits), map(_chunk, args.chunks))
    ]
    all_agree = True
    print(_HEAD, flush=True)
    try:
        for setup in setups:
            for row in _rows(args.directory, setup, sorted({0, *args.steps}), reference, layer):
                print(line(row), flush=True)
                all_agree &= row.agrees
                if args.json:
                    with args.json.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(row)) + "\n")
    except EngineFailed as error:
        print(f"draft_matrix: error: {error}", file=sys.stderr)
        return 1
    print("all agree" if all_agree else "NOT ALL AGREE", flush=True)
    return 0 if all_agree else 1


def remember_outputs(reference: ReferenceModel) -> None:
    """Have `reference` compute each single sequence once: most engines write the same."""
    compute, outputs = reference.run, dict[tuple[int, ...], ReferenceOutput]()

    def run(input_ids: Tensor, *, attention_mask: Tensor | None = None) -> ReferenceOutput:
        if attention_mask is not None or len(input_ids) > 1:
            return compute(input_ids, attention_mask=attention_mask)
        tokens = tuple(input_ids[0].tolist())
        if tokens not in outputs:
            outputs[tokens] = compute(input_ids)
        return outputs[tokens]

    reference.run = run  # type: ignore[method-assign]


def _rows(
    model: Path, setup: Setup, all_steps: Sequence[int], reference: ReferenceModel, layer: MtpLayer
) -> Iterator[Row]:
    """Yield a row for each number of steps, the first of which is 0."""
    plain: list[Generation] = []
    for steps in all_steps:
        begin = time.monotonic()
        with running_engine(
            model,
            dtype="float32",
            tp=setup.tp,
            ep=setup.ep,
            mtp_steps=steps,
            extra_flags=[f"--chunked-prefill-size={setup.chunk}"],
            environment={"SGLANG_TEST_RETRACT": "1"} if setup.retracts else {},
        ) as engine:
            cases = verification_cases(reference.config, chunk=setup.chunk)
            answers = [run_case(engine, case) for case in cases]
            _require_retraction(engine, setup)
            drafts = compare_drafts(engine, reference, layer, steps=steps) if steps else None
        results = [
            judge(case.name, found, reference, dtype="float32")
            for case, found in zip(cases, answers, strict=True)
        ]
        found = [answer for of_case in answers for answer in of_case]
        plain = plain or found
        yield compared(
            setup,
            steps,
            found,
            plain,
            from_reference=merged(result.difference for result in results).maximum,
            is_right=all(result.agrees for result in results) and (drafts is None or drafts.agrees),
            drafts=drafts,
            seconds=time.monotonic() - begin,
        )


def compared(
    setup: Setup,
    steps: int,
    found: Sequence[Generation],
    plain: Sequence[Generation],
    *,
    from_reference: float,
    is_right: bool,
    drafts: DraftComparison | None,
    seconds: float,
) -> Row:
    """Compare answers with those `plain`, of the engine without drafts to the same requests; `is_right` is
    the verdict of the reference."""
    pairs = list(zip(found, plain, strict=True))
    same = sum(list(mine.output_ids) == list(others.output_ids) for mine, others in pairs)
    apart = max(distance(mine, others) for mine, others in pairs)
    agrees = is_right and same == len(pairs) and apart <= BOUNDS["float32"].value
    return Row(setup, steps, len(pairs), same, from_reference, apart, drafts, agrees, seconds)


def distance(mine: Generation, others: Generation) -> float:
    """Return the largest difference of log-probabilities that both answers report for a token at a place
    before their texts part."""
    same = 0
    for one, other in zip(mine.output_ids, others.output_ids, strict=False):
        same += 1
        if one != other:
            break
    places = [*zip(mine.prompt_top, others.prompt_top, strict=True)]
    places += zip(mine.output_top[:same], others.output_top[:same], strict=True)
    return max(
        (abs(a[token] - b[token]) for a, b in places if a and b for token in a.keys() & b.keys()), default=0.0
    )


def line(row: Row) -> str:
    """Return the row as it is printed below the head."""
    setup, drafts = row.setup, row.drafts
    split = str(setup.tp) if setup.ep == 1 else f"{setup.tp}x{setup.ep}"
    counted = "-"
    if drafts is not None:
        counted = f"{drafts.right} in {drafts.passes}; {drafts.reference_right} in {drafts.reference_passes}"
    return (
        f"{split:>5}  {f'{setup.chunk}R' if setup.retracts else setup.chunk:>5}  {row.steps:>5}  "
        f"{f'{row.same_texts}/{row.requests}':>9}  {row.from_reference:>14.1e}  {row.from_no_drafts:>14.1e}  "
        f"{counted}{'' if row.agrees else '  <- DIFFERENT'}"
    )


def _require_retraction(engine: Engine, setup: Setup) -> None:
    if setup.retracts and not engine.metric_total(_RETRACTED):
        raise EngineFailed("the engine retracted no request, so this case is not covered.")


def _split(text: str) -> tuple[int, int]:
    tp, _, ep = text.partition("x")
    return int(tp), int(ep or 1)


def _chunk(text: str) -> tuple[int, bool]:
    return int(text.removesuffix("R")), text.endswith("R")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m serval_sglang.verify.draft_matrix",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("directory", type=Path, metavar="DIR", help="small checkpoint with an MTP layer")
    add("--splits", nargs="+", default=["1", "2", "2x2"], metavar="TPxEP", help="default 1 2 2x2")
    add("--chunks", nargs="+", default=["1", "2", "3", "64", "64R"], metavar="N", help="default 1 2 3 64 64R")
    add("--steps", nargs="+", type=int, default=[0, 1, 2, 3], metavar="N", help="beside 0; default 0 1 2 3")
    add("--json", type=Path, metavar="FILE", help="append each row as an object")
    return made


if __name__ == "__main__":
    sys.exit(main())
