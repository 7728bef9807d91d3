"""Write what is made of code: pages of settings and metrics, the chart's settings, the first minute.

python deploy/docs/generate.py            writes them
python deploy/docs/generate.py --check    says which are out of date, with exit code 1
"""

import argparse
import sys
from pathlib import Path

import chart_settings
import first_minute
import metrics_page
import settings_page

ROOT = Path(__file__).resolve().parents[2]


def pages() -> dict[Path, str]:
    """File -> what belongs in it."""
    gateway, adapter = ROOT / "server" / "serval", ROOT / "model_adapter" / "serval_sglang"
    return {
        ROOT / "server" / "SETTINGS.md": settings_page.page(),
        ROOT / "server" / "METRICS.md": metrics_page.page(gateway, adapter),
        chart_settings.SCHEMA: chart_settings.schema(),
        first_minute.PICTURE: first_minute.picture(first_minute.RECORDING.read_text()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the pages that are made of code.")
    parser.add_argument(
        "--check", action="store_true", help="only name those that are out of date; exit code 1"
    )
    check = parser.parse_args().check
    stale = {path: text for path, text in pages().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)} {'is out of date' if check else 'written'}")
        if not check:
            path.write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
