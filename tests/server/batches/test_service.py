"""Opening what batches need."""

from pathlib import Path

import pytest

from serval.batches.service import open_batches
from serval.errors import SettingsError


def test_batches_need_a_key_database(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SERVAL_KEY_DATABASE"):
        open_batches(tmp_path, None)
