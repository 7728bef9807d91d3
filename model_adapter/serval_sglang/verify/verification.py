"""The verdict on an engine: every case against the reference, and the bound they must keep."""

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
    """What absolute differences of log-probabilities may be: their maximum, or their mean."""

    statistic: Literal["maximum", "mean"]
    value: float

    def allows(self, got: Difference) -> bool:
        """Whether ``got`` keeps the bound; a NaN does not, and nothing compared does not either."""
        value: float = getattr(got, self.statistic)
        return got.positions > 0 and math.isfinite(value) and value <= self.value


# float32 differs by the order of sums alone: 1e-5 or so is usual. In bfloat16 rounding flips a router's
# choice now and then, so that single values may be large, and the mean is what is bounded.
BOUNDS: Mapping[DType, Bound] = {"float32": Bound("maximum", 2e-3), "bfloat16": Bound("mean", 0.02)}

# In bfloat16 a case alone may exceed the bound that holds for all together by this, as its mean is over few
# positions. A case whose state is wrong exceeds it many times more.
_CASE_ALLOWANCE: Mapping[DType, float] = {"float32": 1.0, "bfloat16": 3.0}


@dataclass(frozen=True, slots=True)
class CaseResult:
    name: str
    requests: int
    difference: Difference
    agrees: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """All cases, and their differences as one."""

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
) -> Verification:
    """Run every case; ``progress`` is told what is being done.

    Raises:
        EngineFailed: the engine refused a request, or a case could not be covered.
    """
    results = []
    for number, case in enumerate(cases, start=1):
        progress(f"case {number} of {len(cases)}: {case.name}")
        generations = run_case(engine, case)
        results.append(judge(case.name, generations, reference, dtype=dtype))
    return Verification(BOUNDS[dtype], results, merged(result.difference for result in results))


def judge(
    name: str, generations: Sequence[Generation], reference: ReferenceModel, *, dtype: DType
) -> CaseResult:
    """One case's answers against the reference and the bound of ``dtype``."""
    bound = BOUNDS[dtype]
    got = difference(generations, reference, leave_out_ties=dtype == "float32", tolerance=bound.value)
    allowed = Bound(bound.statistic, bound.value * _CASE_ALLOWANCE[dtype])
    return CaseResult(name, len(generations), got, allowed.allows(got))
