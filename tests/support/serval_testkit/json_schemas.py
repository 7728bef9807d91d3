"""Hypothesis strategies of JSON Schemas for tool parameters."""

from typing import Any

from hypothesis import strategies as st

_NAMES = st.sampled_from(["a", "b", "c d", "é", 'q"\\', "content", " x ", "0"])
_STRINGS = st.sampled_from(["", "a", "5", "null", "true", '"q"', " a ", "line\nbreak", "北京", "</b>", "{}"])
_NUMBERS = st.sampled_from([-3, 0, 1, 5, 10, 2.5, -0.125, 1000, 1e6])
_PATTERNS = st.sampled_from(
    [
        "^[a-z]{1,3}$",
        "^a|b$",
        "x+",
        "^$",
        "^(ab?|[^a-c])*$",
        r"^\d{2}-\w+\s?$",
        "^.{2,4}$",
        r'^["\\]{1,2}$',
        '^[^"]+$',
        r"^\S+@\S+$",
        "^[0-9]+$",
        "^null$",
        "^[a-z]{0,20}$",
        "^([a-z]{1,20}-){1,3}$",
        "^a[^a]{20}",
    ]
)
_FORMATS = st.sampled_from(["date", "date-time", "uuid", "email", "ipv4", "time", "phone"])
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _STRINGS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_NAMES, inner, max_size=2),
    max_leaves=3,
)


def _some(**keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keywords)


def _joined(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda found: {key: value for part in found for key, value in part.items()})


_TYPES = ["string", "integer", "null", "boolean", "array", "object"]
_COUNTS = st.integers(0, 4)
_LONG = st.sampled_from([16, 17, 40, 130, 200])  # beyond what the grammar unfolds, and xgrammar too
_SCALARS = st.one_of(
    st.just({"type": "string"}),
    st.just({}),
    _joined(st.just({"type": "string"}), _some(minLength=_COUNTS, maxLength=_COUNTS)),
    _joined(st.just({"type": "string"}), _some(minLength=st.integers(9, 12), maxLength=st.integers(10, 14))),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, _PATTERNS),
    _joined(
        st.builds(lambda pattern: {"type": "string", "pattern": pattern}, _PATTERNS),
        _some(minLength=_COUNTS, maxLength=st.integers(3, 40), format=_FORMATS),
    ),
    _joined(st.just({"type": "string"}), _some(minLength=_LONG, maxLength=_LONG)),
    _joined(
        st.builds(lambda name: {"type": name}, st.sampled_from(["integer", "number"])),
        st.builds(lambda step: {"multipleOf": step}, st.sampled_from([1, 2, 7, 60, 0.5, 0.01, 2.5, 1000])),
        _some(minimum=_NUMBERS, exclusiveMaximum=_NUMBERS),
    ),
    st.builds(lambda name: {"type": "string", "format": name}, _FORMATS),
    _joined(
        st.builds(lambda name: {"type": name}, st.sampled_from(["integer", "number"])),
        _some(minimum=_NUMBERS, maximum=_NUMBERS, exclusiveMinimum=_NUMBERS, exclusiveMaximum=_NUMBERS),
    ),
    st.builds(lambda name: {"type": name}, st.sampled_from(["integer", "number", "boolean", "null"])),
    st.builds(
        lambda names: {"type": names},
        st.lists(st.sampled_from(_TYPES), min_size=1, unique=True),
    ),
    st.builds(lambda values: {"enum": values}, st.lists(_VALUES, min_size=1, max_size=4)),
    st.builds(lambda value: {"const": value}, _VALUES),
    st.builds(lambda name: {"$ref": f"#/$defs/{name}"}, st.sampled_from(["leaf", "tree", "either"])),
    _some(minimum=_NUMBERS, maxLength=_COUNTS, minItems=st.just(1)),
)


def _compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    branches = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda parts: {"anyOf": parts}, branches),
        st.builds(lambda parts: {"oneOf": parts}, branches),
        st.builds(lambda parts: {"allOf": parts}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda part, parts: {**part, "anyOf": parts}, inner, branches),
        st.builds(lambda part: {**part, "nullable": False}, inner),
        _joined(
            st.just({"type": "array"}),
            _some(
                items=inner,
                prefixItems=st.lists(inner, min_size=1, max_size=2),
                minItems=st.integers(0, 2),
                maxItems=_COUNTS | st.just(20),
            ),
        ),
        objects(inner),
    )


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of object schemas whose properties are `values`."""
    return _joined(
        st.just({"type": "object"}),
        _some(
            properties=st.dictionaries(_NAMES, values, max_size=3),
            required=st.lists(_NAMES, max_size=2, unique=True),
            additionalProperties=st.booleans() | values,
            patternProperties=st.dictionaries(_PATTERNS, values, min_size=1, max_size=2),
            minProperties=st.integers(0, 2),
            maxProperties=st.integers(0, 3),
        ),
    )


schemas: st.SearchStrategy[dict[str, Any]] = st.recursive(_SCALARS, _compound, max_leaves=5)

parameters: st.SearchStrategy[dict[str, Any]] = st.builds(
    lambda properties, required, leaf, either: {
        "type": "object",
        "properties": properties,
        "required": [name for name in required if name in properties],
        "$defs": {
            "leaf": leaf,
            "either": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]},
            "tree": {
                "type": "object",
                "properties": {"leaf": {"$ref": "#/$defs/leaf"}, "next": {"$ref": "#/$defs/either"}},
                "required": ["leaf"],
            },
        },
    },
    st.dictionaries(_NAMES, schemas, min_size=1, max_size=3),
    st.lists(_NAMES, max_size=2),
    st.sampled_from(
        [{"type": "integer"}, {"type": "string"}, {"enum": ["x", 1]}, {"type": "string", "pattern": "^a+$"}]
    ),
    st.none(),
)
