"""Random JSON Schemas of tool parameters with bounded values: a small model may never end unbounded ones."""

import json
import random
from typing import Any

Schema = dict[str, Any]

_NAMES = ["a", "b", "c d", "é", 'q"\\', "content", " x ", "0"]
_PATTERNS = [
    "^[a-z]{1,3}$",
    "^.{2,4}$",
    r'^["\\]{1,2}$',
    "^null$",
    r"^\d{2}-\w{1,4}\s?$",
    "^(ab?|[^a-c]){0,3}$",
]
_FORMATS = ["date", "date-time", "uuid", "ipv4", "time"]
_VALUES = [
    None,
    True,
    False,
    0,
    5,
    -2.5,
    "",
    "5",
    "null",
    '"q"',
    " a ",
    "line\nbreak",
    "北京",
    "</b>",
    [],
    {},
    [1, "2"],
]
_DEFINITIONS: Schema = {
    "either": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]},
    "tree": {
        "type": "object",
        "properties": {"leaf": {"$ref": "#/$defs/leaf"}, "next": {"type": "array", "maxItems": 0}},
        "required": ["leaf"],
    },
}


def random_parameters(rng: random.Random) -> Schema:
    """Return a tool's parameters: one to three required arguments, not always satisfiable or enforceable."""
    names = rng.sample(_NAMES, rng.randint(1, 3))
    leaf = rng.choice([_integer(rng), _text(rng), {"enum": ["x", 1]}])
    parameters: Schema = {
        "type": "object",
        "properties": {name: _schema(rng, depth=2) for name in names},
        "required": names,
        "additionalProperties": False,
    }
    if "$ref" in json.dumps(parameters):
        parameters["$defs"] = {"leaf": leaf, **_DEFINITIONS}
    return parameters


def _schema(rng: random.Random, depth: int) -> Schema:
    kinds = [_text, _text, _integer, _number, _plain, _listed, _reference]
    compound = [_union, _union, _array, _closed_object, _map]
    if depth and rng.random() < 0.5:
        return rng.choice(compound)(rng, depth - 1)
    return rng.choice(kinds)(rng)


def _text(rng: random.Random) -> Schema:
    match rng.randrange(3):
        case 0:
            return {"type": "string", "pattern": rng.choice(_PATTERNS)}
        case 1:
            return {"type": "string", "format": rng.choice(_FORMATS)}
    least = rng.randint(0, 4)
    return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 12)}


def _integer(rng: random.Random) -> Schema:
    least = rng.randint(-1000, 1000)
    return {"type": "integer", "minimum": least, "maximum": least + rng.choice([0, 7, 500, 10**6])}


def _number(rng: random.Random) -> Schema:
    least = rng.choice([-3, -0.125, 0, 2.5])
    return {"type": "number", rng.choice(["minimum", "exclusiveMinimum"]): least, "maximum": least + 5}


def _plain(rng: random.Random) -> Schema:
    return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}


def _listed(rng: random.Random) -> Schema:
    if rng.random() < 0.3:
        return {"const": rng.choice(_VALUES)}
    return {"enum": rng.sample(_VALUES, rng.randint(1, 4))}


def _reference(rng: random.Random) -> Schema:
    return {"$ref": f"#/$defs/{rng.choice(['leaf', 'tree', 'either'])}"}


def _union(rng: random.Random, depth: int) -> Schema:
    keyword = rng.choice(["anyOf", "anyOf", "oneOf", "allOf"])
    return {keyword: [_schema(rng, depth) for _ in range(rng.randint(1, 3))]}


def _array(rng: random.Random, depth: int) -> Schema:
    array: Schema = {"type": "array", "items": _schema(rng, depth), "maxItems": rng.randint(1, 3)}
    if rng.random() < 0.3:
        array["prefixItems"] = [_schema(rng, depth)]
    if rng.random() < 0.5:
        array["minItems"] = 1
    return array


def _closed_object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(_NAMES, rng.randint(1, 2))
    return {
        "type": "object",
        "properties": {name: _schema(rng, depth) for name in names},
        "required": names[: rng.randint(0, 2)],
        "additionalProperties": False,
    }


def _map(rng: random.Random, depth: int) -> Schema:
    return {
        "type": "object",
        "patternProperties": {"^[a-z]{1,3}$": _schema(rng, depth)},
        "maxProperties": rng.randint(1, 2),
    }
