"""Verdict on an engine: differences of all cases from the reference, and the bounds on them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from serval_sglang.reference import ReferenceModel
from serval_sglang.verify.cases import Case, run_case
from serval_sglang.verify.comparison import Difference, difference, merged
from serval_sglang.verify.engine import DType, Engine, Generation


@dataclass(frozen=True, slots=True)
class Bound:
    """Bound on the maximum or the mean of absolute differences of log-probabilities."""

    statistic: Literal["maximum", "mean"]
    value: float

    def allows(self, got: Difference) -> bool:
        """Return True if `got` is within the bound; NaN and empty comparisons are not."""
        value: float = getattr(got, self.statistic)
        return got.positions > 0 and math.isfinite(value) and value <= self.value


# In float32 only the order of sums differs: 1e-5 or so is usual. In bfloat16 rounding sometimes changes a
# router's choice, so single values may be large and the bound is on the mean.
BOUNDS: Mapping[DType, Bound] = {"float32": Bound("maximum", 2e-3), "bfloat16": Bound("mean", 0.02)}

# Factor by which a single case may exceed the bound on all cases in bfloat16, because its mean is over few
# positions. A case with wrong state exceeds it many times over.
_CASE_ALLOWANCE: Mapping[DType, float] = {"float32": 1.0, "bfloat16": 3.0}


@dataclass(frozen=True, slots=True)
class CaseResult:
    name: str
    requests: int
    difference: Difference
    agrees: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """Results of all cases, and their merged difference."""

    bound: Bound
    cases: Sequence[CaseResult]
    total: Difference

    @property
    def agrees(self) -> bool:
        return self.bound.allows(self.total) and all(case.agrees for case in self.cases)


def verify_engine(
    engine: Engine,
    reference: ReferenceModel,
    cases: Sequence[Case],
    *,
    dtype: DType,
    progress: Callable[[str], None],
    bound: Bound | None = None,
) -> Verification:
    """Run every case, reporting each to `progress`; `bound` replaces the one of `dtype`.

    Raises `EngineFailed` if the engine refused a request or a case could not be covered.
    """
    results = []
    for number, case in enumerate(cases, start=1):
        progress(f"case {number} of {len(cases)}: {case.name}")
        generations = run_case(engine, case)
        results.append(judge(case.name, generations, reference, dtype=dtype, bound=bound))
    return Verification(bound or BOUNDS[dtype], results, merged(result.difference for result in results))


def judge(
    name: str,
    generations: Sequence[Generation],
    reference: ReferenceModel,
    *,
    dtype: DType,
    bound: Bound | None = None,
) -> CaseResult:
    """Judge the answers of one case by the reference and `bound`, by default the one of `dtype`."""
    bound = bound or BOUNDS[dtype]
    got = difference(generations, reference, leave_out_ties=dtype == "float32", tolerance=bound.value)
    allowed = Bound(bound.statistic, bound.value * _CASE_ALLOWANCE[dtype])
    return CaseResult(name, len(generations), got, allowed.allows(got))
