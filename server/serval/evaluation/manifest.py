"""`run.json` of a run's folder: everything that its score depends on."""

import os
from pathlib import Path
from typing import Final

import msgspec

from serval.evaluation.error import EvaluationError

_FILE: Final = "run.json"
# A server may come back at another address; none of these changes an answer.
_MAY_CHANGE: Final = frozenset({"url", "serval_version", "concurrency", "started"})


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a run and of the server. Empty: the server does not tell. `started` is an ISO time.

    `checkpoint` is the SHA-256 of the checkpoint's manifest. The seed of a trial is `seed` plus its number,
    from 0. `harness_lock` is the SHA-256 of the lock of its environment. `max_tokens` None: answers end where
    the context does.
    """

    suite: str
    url: str
    model: str
    context_tokens: int
    server_version: str
    checkpoint: str
    temperature: float
    top_p: float
    max_tokens: int | None
    seed: int
    trials: int
    tasks: tuple[str, ...]
    limit: int | None
    data: str | None
    harness: str
    harness_version: str
    harness_lock: str
    concurrency: int
    serval_version: str
    started: str


def keep(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest into its run's folder, and return it with the start of a run that goes on.

    Raises `EvaluationError` if the folder holds a run with other settings, or its manifest is damaged.
    """
    path = folder / _FILE
    if path.exists():
        manifest = _going_on(path, manifest)
    unfinished = path.with_name(f".{_FILE}.unfinished")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    os.replace(unfinished, path)
    return manifest


def _going_on(path: Path, manifest: Manifest) -> Manifest:
    try:
        older = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise EvaluationError(f"{path} is damaged: {error}") from error
    differences = [
        f"{name} is {getattr(manifest, name)!r}, and was {getattr(older, name)!r}"
        for name in manifest.__struct_fields__
        if name not in _MAY_CHANGE and getattr(manifest, name) != getattr(older, name)
    ]
    if differences:
        raise EvaluationError(
            f"{path.parent} holds a run with other settings: {'; '.join(differences)}. Use another --out"
        )
    return msgspec.structs.replace(manifest, started=older.started)
