"""Back up and restore a key database in SQLite while gateways use it. Needs only the standard library.

python3 deploy/backup/sqlite_keys.py backup /var/lib/serval/keys.db keys-backup.db
python3 deploy/backup/sqlite_keys.py restore keys-backup.db /var/lib/serval/keys.db
"""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

WAIT_S = 30


def copy(source: Path, target: Path) -> None:
    """Replace the content of `target` with that of `source`, completely or not at all.

    Raises `SystemExit` if `source` is not a key database.
    """
    if not source.is_file():
        sys.exit(f"{source} does not exist")
    with closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=WAIT_S)) as reader:
        try:
            reader.execute("SELECT version FROM key_store").fetchone()
        except sqlite3.DatabaseError as error:
            sys.exit(f"{source} is no key database: {error}")
        # Only the owner may read hashes of keys.
        os.close(os.open(target, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(target, timeout=WAIT_S)) as writer:
            reader.backup(writer)


def main(arguments: list[str]) -> None:
    """Back up or restore, as the arguments say."""
    if len(arguments) != 3 or arguments[0] not in ("backup", "restore"):
        sys.exit(__doc__)
    action, source, target = arguments
    if action == "backup" and Path(target).exists():
        sys.exit(f"{target} exists; a backup gets a file of its own")
    copy(Path(source), Path(target))


if __name__ == "__main__":
    main(sys.argv[1:])
