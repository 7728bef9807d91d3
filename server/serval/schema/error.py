"""Errors for schemas that cannot be served."""

from serval.errors import ServalError


class SchemaError(ServalError):
    """A JSON Schema that is refused before dispatch. `path` is the JSON pointer of the part at fault."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or '#'}: {problem}")
        self.path = path
        self.problem = problem


class UnsatisfiableError(SchemaError):
    """A schema that admits no value at all."""

    def __init__(self, path: str, why: str = "") -> None:
        super().__init__(path, f"it admits no value{': ' if why else ''}{why}")
