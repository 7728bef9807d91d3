"""Grammars that clients write themselves: a regular expression, or rules in xgrammar's EBNF.

Their cost is bounded before the engine sees them: that of a regular expression like that of a `pattern` in a
schema, that of EBNF by size and nesting. Ambiguous rules can still slow the decoder down unpredictably, so
only trusted callers may send them.
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

from serval.grammar.compile_cost import Budget
from serval.grammar.enforceable_scalars import written_pattern
from serval.grammar.formats import text_format
from serval.schema.error import SchemaError

MAX_EBNF_CHARACTERS: Final = 16_384
MAX_REGEX_CHARACTERS: Final = 4_096
_MAX_RULES: Final = 500
_MAX_GROUP_NESTING: Final = 50
# Tokens that matter for nesting: literals and comments (skipped), parentheses, heads of rules.
_PART: Final = re.compile(
    r"""(?P<text>"(?:[^"\\\n]|\\.)*") | (?P<set>\[(?:[^\]\\\n]|\\.)*\]) | (?P<comment>\#[^\n]*)
    | (?P<rule>[A-Za-z_][\w.-]*\s*::=) | (?P<open>\() | (?P<close>\)) | (?P<broken>["\[])""",
    re.VERBOSE,
)
_ROOT: Final = re.compile(r"root\s*::=")


def regex_grammar(expression: str, *, avoid: str) -> str:
    """Return a structural tag, as JSON text, for answers that `expression` matches from beginning to end.

    `avoid`: characters that may be written only where it names them explicitly.

    Raises `SchemaError` if it cannot be enforced, or only in exponential time.
    """
    if len(expression) > MAX_REGEX_CHARACTERS:
        raise SchemaError("regex", f"it has more than {MAX_REGEX_CHARACTERS} characters")
    inner = expression.removeprefix("^")
    if inner.endswith("$") and not _is_escaped(inner, len(inner) - 1):
        inner = inner[:-1]
    budget = Budget()
    # First read it as it was sent, so that an error shows the position in the client's text.
    written_pattern(expression, "regex", _refuse, budget.spend, avoid=avoid, in_json=False)
    written = written_pattern(f"^(?:{inner})$", "regex", _refuse, budget.spend, avoid=avoid, in_json=False)
    assert written is not None  # `_refuse` raises
    budget.spend(written.cost, "regex")
    return json.dumps({"type": "structural_tag", "format": text_format(written, avoid=avoid)})


def ebnf_grammar(rules: str) -> str:
    """Return a structural tag, as JSON text, for answers that follow `rules`, starting at the rule `root`.

    Raises `SchemaError` for rules that are too large or obviously malformed; the engine checks the rest.
    """
    if len(rules) > MAX_EBNF_CHARACTERS:
        raise SchemaError("ebnf", f"it has more than {MAX_EBNF_CHARACTERS} characters")
    depth = count = 0
    root = False
    for part in _PART.finditer(rules):
        depth += {"open": 1, "close": -1}.get(part.lastgroup or "", 0)
        problem = None
        if part.lastgroup == "broken":
            problem = f"{part[0]} is not closed in its line"
        elif depth < 0:
            problem = "there is no group to close"
        elif depth > _MAX_GROUP_NESTING:
            problem = f"groups are nested deeper than {_MAX_GROUP_NESTING}"
        elif part.lastgroup == "rule":
            count += 1
            root = root or _ROOT.fullmatch(part[0]) is not None
            problem = "a group of the rule before is not closed" if depth else None
        if problem is not None:
            raise SchemaError("ebnf", f"line {rules.count(chr(10), 0, part.start()) + 1}: {problem}")
    if depth:
        raise SchemaError("ebnf", "a group of the last rule is not closed")
    if count > _MAX_RULES:
        raise SchemaError("ebnf", f"it has {count} rules; at most {_MAX_RULES} are allowed")
    if not root:
        raise SchemaError("ebnf", "there is no rule named root; begin with: root ::= ...")
    return json.dumps({"type": "structural_tag", "format": {"type": "grammar", "grammar": rules}})


def _is_escaped(text: str, position: int) -> bool:
    before = text[:position]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _refuse(path: str, keyword: str, reason: str = "") -> NoReturn:
    raise SchemaError(path, reason)
