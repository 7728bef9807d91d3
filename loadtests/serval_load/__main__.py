"""Entry point of `python -m serval_load`."""

import sys

from serval_load.cli import main

if __name__ == "__main__":
    sys.exit(main())
