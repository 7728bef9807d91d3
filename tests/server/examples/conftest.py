"""The examples are programs beside each other, not a package."""

import sys

from serval_testkit.repository import ROOT

sys.path.append(str(ROOT / "server" / "examples"))
