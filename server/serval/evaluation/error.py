"""Error of an evaluation."""

from serval.errors import ServalError


class EvaluationError(ServalError):
    """A suite cannot be run, or a run ended before its score was known; the message says how to go on."""


class HarnessError(EvaluationError):
    """The harness's own program failed."""
