"""server/SETTINGS.md: every setting with its default, what is allowed and what it means."""

from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from serval.setting_names import sections, variable_of
from serval.settings import REREAD, Settings
from serval_sglang.settings import ModelSettings, TablePlace, model_variables

HEAD = """\
# Settings

<!-- Written by deploy/docs/generate.py. -->

Each setting is an environment variable, or a line of the settings file (`--settings-file`, TOML) under its
name in lower case, without `SERVAL_`: `queue_limit = 64`. Variables win over the file, command-line options
over both. `serval config show` prints the values in force, and where each comes from. Times are in seconds,
sizes in bytes. An unknown name is an error in the file, and a warning among the variables.

Settings marked **live** are read again while the gateway runs, when the settings file changes or on SIGHUP.
So is the file that `SERVAL_API_KEY_FILE` names. All others need a restart.
"""
COLUMNS = "| setting | default | allowed | meaning |\n| --- | --- | --- | --- |\n"
# The engine's settings: what they mean beside the option of the same name.
ENGINE = {
    "ngram_tables": (
        "Memory that holds the n-gram tables: the GPU's, or pinned memory of the host.",
        ", ".join(f"`{place}`" for place in get_args(TablePlace)),
    ),
    "moe_overlap_tokens": (
        "On a GPU, batches of up to this many tokens compute a layer's experts on a second stream; 0: never.",
        "at least 0",
    ),
    "grammar_drafts": (
        "With `--mtp-steps`, also draft the tokens that a schema forces; `--no-grammar-drafts` says no.",
        "`True`, `False`",
    ),
}
# Names that other programs of the repository read.
OTHERS = """
## Scripts and images

| variable | read by | meaning; default |
| --- | --- | --- |
| `SERVAL_CACHE_DIR` | `make`, `serval eval` | folder of installed packages; `~/.cache/serval` |
| `SERVAL_ALLOW_UNTESTED` | `serval engine` | `hicache` says yes to `--enable-hierarchical-cache`; none |
| `SERVAL_PREBUILT_KERNELS` | `serval engine` | kernels to put into `~/.cache/sglang`; the image sets it |
| `SERVAL_BASE_URL` | server/examples | address of the API; `http://127.0.0.1:8000/v1` |

Compose has variables of its own: docker/.env.example lists them.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_sections()) + _engine_section() + OTHERS


def _sections() -> Iterator[str]:
    for title, names in sections(Settings.model_fields).items():
        yield f"\n## {title}\n\n{COLUMNS}"
        for name in names:
            field = Settings.model_fields[name]
            live = " **live**" if name in REREAD else ""
            meaning = (field.description or "").replace("|", "\\|")
            yield f"| `{variable_of(name)}`{live} | {_default(field)} | {_allowed(field)} | {meaning} |\n"


def _engine_section() -> str:
    variables = model_variables(ngram_tables="", moe_overlap_tokens=0, grammar_drafts=True)
    rows = "".join(
        f"| `{variable}` | `{getattr(ModelSettings(), name)}` | {allowed} | {meaning} |\n"
        for variable, (name, (meaning, allowed)) in zip(variables, ENGINE.items(), strict=True)
    )
    note = "`serval engine` and `serval serve` set these from the options of the same name."
    return f"\n## The engine's own\n\n{note}\n\n{COLUMNS}{rows}"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    mebibytes = f" ({value >> 20} MiB)" if isinstance(value, int) and value >= 1 << 20 else ""
    return f"`{value}`{mebibytes}"


def _allowed(field: FieldInfo) -> str:
    kind = _without_none(field.annotation)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    if kind is SecretStr:
        return "secret"
    return _bounds(field) or {str: "text", int: "integer", float: "number"}.get(kind, "path")


def _without_none(annotation: Any) -> Any:
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return kinds[0] if NoneType in get_args(annotation) else annotation


def _bounds(field: FieldInfo) -> str:
    low = next((f"at least {bound.ge:g}" for bound in field.metadata if isinstance(bound, Ge)), "")
    low = next((f"above {bound.gt:g}" for bound in field.metadata if isinstance(bound, Gt)), low)
    high = next((_number(bound.le) for bound in field.metadata if isinstance(bound, Le)), "")
    if not high:
        return low
    return f"{low.removeprefix('at least ')} to {high}" if low.startswith("at least") else f"{low}, to {high}"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and value >= 1_000_000 else f"{value:g}"
