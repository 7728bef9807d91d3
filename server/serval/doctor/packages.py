"""Checks of Python and of the installed packages."""

import importlib.metadata
import sys

from serval.doctor.finding import Finding

_DISTRIBUTION = "serval-llm"
_PLUGIN_GROUP = "sglang.srt.plugins"
_PYTHON = ((3, 11), (3, 12))


def python() -> Finding:
    """Check that the packages support this version of Python."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] in _PYTHON:
        return Finding("python", "ok", version)
    return Finding("python", "failed", f"{version}; install Python 3.11 or 3.12")


def sglang() -> Finding:
    """Check that SGLang, if installed, is the version that the adapter supports."""
    pinned = pinned_version(_DISTRIBUTION, "sglang")
    installed = installed_version("sglang")
    if installed is None:
        return Finding("sglang", "warning", "not installed: this machine can run a gateway but no engine")
    if installed == pinned:
        return Finding("sglang", "ok", installed)
    return Finding("sglang", "failed", f"{installed} is installed, {pinned} is needed")


def plugin() -> Finding:
    """Check that SGLang will find the model adapter."""
    names = {entry.name for entry in importlib.metadata.entry_points(group=_PLUGIN_GROUP)}
    if "serval" in names:
        return Finding("plugin", "ok", "SGLang finds the model adapter")
    return Finding("plugin", "failed", f"no entry point 'serval' in {_PLUGIN_GROUP}; install {_DISTRIBUTION}")


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def pinned_version(distribution: str, needed: str) -> str:
    """Version of `needed` that `distribution` pins. Raises `LookupError` if it pins none."""
    for requirement in importlib.metadata.requires(distribution) or []:
        name, separator, rest = requirement.partition("==")
        if separator and name.partition("[")[0].strip().replace("_", "-") == needed:
            return rest.partition(";")[0].strip()
    raise LookupError(f"{distribution} does not say which {needed} it needs")
